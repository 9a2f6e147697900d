"""The database file: opening, durability, migrations, and one writer at a time."""

import asyncio
import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiosqlite

from ..errors import DatabaseError
from . import schema
from .damage import ERRORS, explain, is_damaged, is_full
from .reserve import Reserve
from .versions import newest

log = logging.getLogger(__name__)

# FULL: a commit has reached the disk when it returns. The answer to a submission relies on that.
_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 10000",
            f"journal_size_limit = {64 * 2**20}")  # fmt: skip
RESERVE = "reserve"  # beside the database
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "9p"})

Row = sqlite3.Row
Parameters = Mapping[str, Any]
T = TypeVar("T")


class Database:
    """One connection that writes and one that reads, so that a read never waits for a write."""

    def __init__(self, path: Path, reserve: Reserve, writer: aiosqlite.Connection | None, reader: aiosqlite.Connection):
        self.path = path
        self.reserve = reserve
        self._writer = writer
        self._reader = reader
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path, *, expected: bool = False) -> Self:
        """Open and migrate. Raises DatabaseError for a damaged or newer file or a network file system.

        ``expected``: there are jobs, so there must be a database that knows of some.
        """
        _refuse_network(path.parent)
        reserve = Reserve(path.with_name(RESERVE))
        while True:
            try:
                connections = await _open(path, expected)
                break
            except ERRORS as error:
                # On a full disk not even the log's index can be made.
                if is_damaged(error) or not await asyncio.to_thread(reserve.release):
                    raise _unusable(path, error) from None
        await asyncio.to_thread(reserve.hold)
        return cls(path, reserve, *connections)

    @classmethod
    async def open_readonly(cls, path: Path) -> Self:
        """Beside a daemon, or without one. Raises DatabaseError for a file of another schema."""
        connection = await aiosqlite.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            found = await schema.version(connection)
        except ERRORS as error:
            await connection.close()
            raise _unusable(path, error) from None
        if found != newest():
            await connection.close()
            raise DatabaseError(f"{path} has another schema than this version reads; start scd once to migrate it.")
        return cls(path, Reserve(path.with_name(RESERVE)), None, connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._reader.close()
        if self._writer is not None:
            await self._writer.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """All or nothing, durable when the block is left. Others wait their turn."""
        assert self._writer is not None
        async with self._lock:
            try:  # around the BEGIN too: a task that is cancelled there has begun all the same
                await self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                await self._writer.commit()
            except BaseException as error:
                await self._writer.rollback()
                if is_full(error) and await asyncio.to_thread(self.reserve.release):
                    log.warning("the disk of %s is full: a part of the reserve is given up", self.path)
                raise

    async def write(self, change: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """One change as a transaction of its own, tried again where a slice of the reserve may have made room."""
        while True:
            held = self.reserve.size
            try:
                async with self.transaction() as db:
                    return await change(db)
            except sqlite3.Error as error:
                if not (is_full(error) and self.reserve.size < held):
                    raise

    async def shrink(self, pages: int) -> None:
        """Give up to ``pages`` free pages back to the file system, and the log's space."""
        assert self._writer is not None
        async with self._lock:
            # A script, since execute() takes one step, which is one page.
            await self._writer.executescript(f"PRAGMA incremental_vacuum({pages})")
            await self._writer.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")

    async def read(self, sql: str, parameters: Parameters | None = None) -> Iterable[Row]:
        return await self._reader.execute_fetchall(sql, parameters or {})


async def _open(path: Path, expected: bool) -> tuple[aiosqlite.Connection, aiosqlite.Connection]:
    writer = await _connect(path)
    try:
        await schema.check(writer, path)
        await schema.migrate(writer, path, expected=expected)
        reader = await _connect(path)
        await reader.execute("PRAGMA query_only = ON")
    except BaseException:
        await writer.close()
        raise
    return writer, reader


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in _PRAGMAS:
            await connection.execute(f"PRAGMA {pragma}")
    except BaseException:  # its thread would keep the process alive for ever
        await connection.close()
        raise
    return connection


def _unusable(path: Path, error: Exception) -> DatabaseError:
    if is_damaged(error):
        return DatabaseError(explain(path, error))
    return DatabaseError(f"{path} cannot be used: {error}. Look at the disk, and at whose file this is.")


def _refuse_network(directory: Path) -> None:
    """WAL needs shared memory and locks that network file systems do not give."""
    kind = file_system(directory)
    if kind in NETWORK_FILE_SYSTEMS:
        raise DatabaseError(f"{directory} is on a network file system ({kind}). Set paths.state to a local disk.")


def file_system(directory: Path) -> str:
    """The kind of file system that a directory is on, as the kernel names it."""
    mounts: list[tuple[str, str]] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split(" ")
        mounts.append((re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), target), kind))
    real = directory.resolve()
    holding = [mount for mount in mounts if real.is_relative_to(mount[0])]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else ""
