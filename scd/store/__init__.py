"""SQLite: everything that must last. The only SQL of scd."""

from .backup import back_up, restore
from .damage import is_damaged, is_full
from .db import Database
from .jobs import JobStore
from .usage import UsageStore

__all__ = ["Database", "JobStore", "UsageStore", "back_up", "is_damaged", "is_full", "restore"]
