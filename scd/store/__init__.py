"""SQLite: everything that must last. The only SQL of scd."""

from .backup import back_up, restore
from .damage import is_damaged, is_full, known_backup
from .db import NETWORK_FILE_SYSTEMS, Database, file_system
from .jobs import JobStore
from .usage import UsageStore

__all__ = ["NETWORK_FILE_SYSTEMS", "Database", "JobStore", "UsageStore", "back_up", "file_system", "is_damaged",
           "is_full", "known_backup", "restore"]  # fmt: skip
