"""Copies of the database: taken while it is in use, checked, and put back."""

import asyncio
import contextlib
import os
import secrets
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from ..durable import adopt, replace
from ..errors import DatabaseError
from .damage import ERRORS, NOTE
from .versions import newest


async def copy(source: Path, target: Path) -> None:
    """A consistent copy of a database that may be in use; whole, checked and on the disk when this returns.

    Raises DatabaseError, then leaving ``target`` as it was.
    """
    await asyncio.to_thread(_copy, source, target)


def _copy(source: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with _open(source) as reading, _Closing(sqlite3.connect(aside)) as writing:
            reading.backup(writing)
            writing.execute("PRAGMA journal_mode = DELETE")  # one file, whatever the source has
        verify(aside)
        replace(aside, target)
    except (OSError, *ERRORS) as error:
        raise DatabaseError(f"{source} cannot be copied to {target}: {error}") from None
    finally:
        aside.unlink(missing_ok=True)


async def back_up(database: Path, target: Path) -> None:
    """``copy``, and a note beside the database that says where. Replaces an older backup, nothing else."""
    await asyncio.to_thread(_back_up, database, target)


def _back_up(database: Path, target: Path) -> None:
    _refuse_other_files(target)
    _copy(database, target)
    note = database.with_name(NOTE)
    try:
        note.write_text(f"{target.absolute()}\n")
        adopt(note)
    except OSError as error:
        raise DatabaseError(f"The backup is made, but {note}, which says where it lies, cannot be: {error}") from None


async def restore(database: Path, source: Path) -> Path | None:
    """Put a backup in the place of the database; where the replaced one now lies. No daemon may run meanwhile.

    Raises DatabaseError for a file that is no whole database, or one of a newer scd, before anything is touched.
    """
    return await asyncio.to_thread(_restore, database, source)


def _restore(database: Path, source: Path) -> Path | None:
    if not source.is_file():
        raise DatabaseError(f"There is no file {source}.")
    if (version := verify(source)) > newest():
        raise DatabaseError(
            f"{source} is of a newer scd (schema {version}, this one knows {newest()}). Upgrade scd first."
        )
    incoming = database.with_name(f"{database.name}.restoring")
    _copy(source, incoming)
    adopt(incoming)
    kept = _set_aside(database) if database.exists() else None
    replace(incoming, database)
    return kept


def _set_aside(database: Path) -> Path:
    """Give the present database a second name. Its log must not stay: it would be replayed into the restored file."""
    kept = database.with_name(f"{database.name}.replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    with contextlib.suppress(*ERRORS), _Closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{database}{suffix}").rename(f"{kept}{suffix}")
    os.link(database, kept)
    return kept


def verify(path: Path) -> int:
    """The version of its schema. Raises DatabaseError if the file is not a whole database of scd."""
    try:
        with _open(path) as connection:
            (problem,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    except ERRORS as error:
        raise DatabaseError(f"{path} is not a database: {error}") from None
    if problem != "ok":
        raise DatabaseError(f"{path} is damaged ({problem}).")
    if not version or not {"jobs", "nodes", "tombstones"} <= tables:
        raise DatabaseError(f"{path} is not a database of scd.")
    return int(version)


class _Closing:
    """sqlite3's own context manager ends a transaction and leaves the connection open."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _open(path: Path) -> _Closing:
    return _Closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True))


def _refuse_other_files(target: Path) -> None:
    if target.is_dir():
        raise DatabaseError(f"{target} is a directory; name a file in it.")
    if target.exists() and target.stat().st_size:
        try:
            verify(target)
        except DatabaseError:
            raise DatabaseError(
                f"{target} exists and is no backup of scd; it is left alone. Name another file."
            ) from None
