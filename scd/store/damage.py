"""What SQLite raises, and what it means: a full disk, a damaged file, and what to do about that."""

import contextlib
import os
import sqlite3
from pathlib import Path

# The second where a message quotes a damaged schema.
ERRORS = (sqlite3.Error, UnicodeDecodeError)
# Where the newest backup lies, beside the database: the first thing to know when that is damaged.
NOTE = "last-backup"


def is_full(error: BaseException) -> bool:
    extended = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, sqlite3.Error) and (
        _code(error) == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE
    )


def is_damaged(error: BaseException) -> bool:
    """The file is not what SQLite wrote: nothing gets better by trying again."""
    if isinstance(error, sqlite3.Error):
        return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return isinstance(error, UnicodeDecodeError)


def explain(path: Path, problem: object) -> str:
    """What is wrong with the file, and which backup to put in its place."""
    backup = known_backup(path)
    advice = f"Its newest known backup: scdctl restore {backup}" if backup else "Restore one: scdctl restore FILE"
    return f"{path} is damaged ({' '.join(str(problem).split())}). {advice}"


def known_backup(database: Path) -> Path | None:
    """The newest copy of this database that is known and there, or else the one that was noted last."""
    copies = list(database.parent.glob(f"{database.name}.schema-*"))
    with contextlib.suppress(OSError, ValueError):
        copies.append(Path(database.with_name(NOTE).read_text().strip()))
    # Not Path's own methods: they raise where this account may not look, as below another's home.
    there = [path for path in copies if os.path.isfile(path)]
    return max(there, key=lambda path: path.stat().st_mtime, default=copies[-1] if copies else None)


def _code(error: sqlite3.Error) -> int:
    """The primary code; sqlite3 gives the extended one, and none for its own errors."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
