"""SQLite: everything that must last. The only SQL of scd."""

from .db import Database
from .jobs import JobStore
from .usage import UsageStore

__all__ = ["Database", "JobStore", "UsageStore"]
