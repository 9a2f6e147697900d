"""The database file: opening, durability, migrations, and one writer at a time."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiosqlite

from ..errors import ScdError

# FULL: a commit has reached the disk when it returns. The answer to a submission relies on that.
_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 10000")
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "9p"})

Row = sqlite3.Row
Parameters = Mapping[str, Any]


class DatabaseError(ScdError):
    """The database cannot be used."""

    exit_code = 1


class Database:
    """One connection that writes and one that reads, so that a read never waits for a write."""

    def __init__(self, writer: aiosqlite.Connection | None, reader: aiosqlite.Connection):
        self._writer = writer
        self._reader = reader
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open and migrate. Raises DatabaseError for a damaged or newer file or a network file system."""
        _refuse_network(path.parent)
        try:
            writer = await _connect(path)
            try:
                await _check(writer, path)
                await _migrate(writer, path)
                reader = await _connect(path)
                await reader.execute("PRAGMA query_only = ON")
            except BaseException:
                await writer.close()
                raise
        except sqlite3.DatabaseError as error:
            raise DatabaseError(f"{path}: {error}. Restore a backup of this file.") from None
        return cls(writer, reader)

    @classmethod
    async def open_readonly(cls, path: Path) -> Self:
        """Beside a daemon, or without one. Raises DatabaseError for a file of another schema."""
        connection = await aiosqlite.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            (row,) = await connection.execute_fetchall("PRAGMA user_version")
        except sqlite3.DatabaseError as error:
            await connection.close()
            raise DatabaseError(f"{path}: {error}.") from None
        if int(row[0]) != migrations()[-1][0]:
            await connection.close()
            raise DatabaseError(f"{path} has another schema than this version reads; start scd once to migrate it.")
        return cls(None, connection)

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
            except BaseException:
                await self._writer.rollback()
                raise

    async def read(self, sql: str, parameters: Parameters | None = None) -> Iterable[Row]:
        return await self._reader.execute_fetchall(sql, parameters or {})


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


async def _check(connection: aiosqlite.Connection, path: Path) -> None:
    problems = [row[0] for row in await connection.execute_fetchall("PRAGMA quick_check(3)")]
    if problems != ["ok"]:
        raise DatabaseError(f"{path} is damaged ({problems[0]}). Restore a backup of this file.")


def migrations() -> list[tuple[int, Traversable]]:
    """The migration scripts with the version that each leads to."""
    scripts = resources.files(__package__).joinpath("migrations").iterdir()
    return sorted(
        (
            (int(script.name[:4]), script)
            for script in scripts
            if re.fullmatch(r"[0-9]{4}_[a-z0-9_]+\.sql", script.name)
        ),
        key=lambda item: item[0],
    )


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    (row,) = await connection.execute_fetchall("PRAGMA user_version")
    version = int(row[0])
    scripts = migrations()
    newest = scripts[-1][0]
    if version > newest:
        raise DatabaseError(
            f"{path} was written by a newer scd (schema {version}, this one knows {newest}). Upgrade scd."
        )
    for target, script in scripts:
        if target <= version:
            continue
        try:
            await connection.executescript(
                f"BEGIN IMMEDIATE;\n{script.read_text()}\nPRAGMA user_version = {target};\nCOMMIT;"
            )
        except BaseException:
            await connection.rollback()
            raise


def _refuse_network(directory: Path) -> None:
    """WAL needs shared memory and locks that network file systems do not give."""
    mounts: list[tuple[str, str]] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split(" ")
        mounts.append((re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), target), kind))
    real = directory.resolve()
    holding = [mount for mount in mounts if real.is_relative_to(mount[0])]
    kind = max(holding, key=lambda mount: len(mount[0]))[1] if holding else ""
    if kind in _NETWORK_FILE_SYSTEMS:
        raise DatabaseError(f"{directory} is on a network file system ({kind}). Set paths.state to a local disk.")
