"""Where scdctl reads: the database itself, also while the daemon is down, or for users what the daemon shows them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

import msgspec

from ..board import Waits
from ..config import DEFAULT_FILE, Config, Paths, Server, files_of, load
from ..errors import NoResults, ScdError, UnknownJob
from ..listing import Query, Record, Waiting, describe, find, list_jobs, list_nodes, unknown
from ..logs import read_log
from ..model import NodeKey
from ..spool import Spool
from ..store import Database, JobStore
from .daemon import DaemonDown, NotAllowed, ask

_PIECE = 64 * 2**20  # bytes of a log at a time
_PATIENCE = 3.0  # with a daemon that is asked for no more than a column


class NoDatabase(ScdError):
    """There is no database: scd has not run here yet."""


class Piece(NamedTuple):
    """A piece of a node's log, the offset behind it, and whether the node still runs."""

    text: str
    offset: int
    live: bool


class Source(Protocol):
    """All raise UnknownJob for what is not there, or is not the caller's."""

    async def jobs(self, query: Query) -> list[Record]: ...

    async def nodes(self, query: Query) -> list[Record]: ...

    async def job(self, prefix: str) -> Record: ...

    async def log(self, job_hash: str, key: NodeKey, offset: int) -> Piece:
        """Raises NoResults, or NotRunning."""


class Disk:
    """For root and scd's account."""

    def __init__(self, config: Config, store: JobStore):
        self._config, self._store = config, store

    async def jobs(self, query: Query) -> list[Record]:
        return await list_jobs(self._store, query, await self._waiting())

    async def nodes(self, query: Query) -> list[Record]:
        return await list_nodes(self._store, query, await self._waiting())

    async def job(self, prefix: str) -> Record:
        job_hash = await find(self._store, prefix)
        return await describe(self._store, job_hash, await self._waiting(f"?job={job_hash}"))

    async def _waiting(self, query: str = "") -> Waiting:
        """Why jobs and nodes wait: the daemon works it out, and it is in no table."""
        asked = partial(ask, self._config, "GET", "admin", "waiting", query=query, deadline=_PATIENCE)
        try:
            answer = await asyncio.to_thread(asked)
        except ScdError:
            return unknown
        found = msgspec.convert(answer["waiting"], dict[str, Waits])
        return lambda job_hash: found.get(job_hash) or Waits()

    async def log(self, job_hash: str, key: NodeKey, offset: int) -> Piece:
        """Of a node that runs only the daemon can read, inside its sandbox."""
        state = next(node.state for node in await self._store.nodes(job_hash) if node.key == key)
        if state.live:
            return await Asked(self._config).log(job_hash, key, offset)
        archive = await self._store.archive(job_hash, key)
        if archive is None:
            raise NoResults(f"Node {key} left no files.")
        path = Spool(Path(self._config.paths.spool)).job(job_hash).archives / archive
        try:
            data = await asyncio.to_thread(read_log, path, key, offset, _PIECE)
        except PermissionError:  # root, on NFS with root_squash: scd itself can read it
            return await Asked(self._config).log(job_hash, key, offset)
        except FileNotFoundError:
            raise NoResults(f"The archive {path} is gone.") from None
        return Piece(data.decode(errors="replace"), offset + len(data), live=False)


class Asked:
    """For users: the daemon knows them by their Unix account, and shows what is theirs."""

    def __init__(self, config: Config):
        self._config = config

    async def jobs(self, query: Query) -> list[Record]:
        return await self._list("jobs", query)

    async def nodes(self, query: Query) -> list[Record]:
        return await self._list("nodes", query)

    async def job(self, prefix: str) -> Record:
        answer = await asyncio.to_thread(ask, self._config, "GET", "admin", "jobs", prefix)
        return dict(answer["jobs"][0])

    async def log(self, job_hash: str, key: NodeKey, offset: int) -> Piece:
        path = ("admin", "log", job_hash, key.step, key.index)
        answer = await asyncio.to_thread(ask, self._config, "GET", *path, query=f"?offset={offset}")
        return Piece(answer["text"], answer["offset"], answer["live"])

    async def _list(self, kind: str, query: Query) -> list[Record]:
        asked = urlencode({"query": msgspec.json.encode(query).decode()})
        answer = await asyncio.to_thread(ask, self._config, "GET", "admin", kind, query=f"?{asked}")
        return list(answer[kind])


def client_config(file: Path | None) -> Config:
    """As scd reads it. Who may not read the default one is told by the daemon, at its socket's default place.

    Raises ConfigError.
    """
    if file is None and not _may_read_default():
        return Config(server=Server(listen=("unix:/run/scd/scd.sock",)), paths=Paths(state="/var/lib/scd"))
    return load(file)


def _may_read_default() -> bool:
    try:
        return all(os.access(path, os.R_OK) for path in files_of(DEFAULT_FILE))
    except PermissionError:
        return False


@asynccontextmanager
async def source(config: Config) -> AsyncIterator[Source]:
    """The database for those who can read it, the daemon for others."""
    try:
        readable = _readable(config.database)
    except FileNotFoundError:
        readable = False
        if not any(map(os.path.exists, config.unix_sockets)):
            raise NoDatabase(f"There is no {config.database}: scd has not run with this configuration yet.") from None
    if not readable:
        yield Asked(config)
        return
    async with open_store(config) as store:
        yield Disk(config, store)


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[JobStore]:
    path = config.database
    try:
        readable = _readable(path)
    except FileNotFoundError:
        raise NoDatabase(f"There is no {path}: scd has not run with this configuration yet.") from None
    if not readable:
        raise NotAllowed(f"{path} cannot be read by this account. Use root's or scd's (sudo -u scd scdctl ...).")
    async with await Database.open_readonly(path) as database:
        yield JobStore(database)


def _readable(path: Path) -> bool:
    """Raises FileNotFoundError."""
    try:
        path.stat()
    except PermissionError:
        return False
    return os.access(path, os.R_OK)


def split_target(target: str) -> tuple[str, NodeKey | None]:
    """``hash`` or ``hash.step/index``; a step may hold dots."""
    job, dot, node = target.partition(".")
    if not dot:
        return job, None
    step, slash, index = node.rpartition("/")
    if not slash or not step or not index:
        raise UnknownJob(f"{target!r} names no node: write it as HASH.STEP/INDEX.")
    return job, NodeKey(step, index)


def as_json(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version": 1, kind: rows}


__all__ = ["Asked", "DaemonDown", "Disk", "NoDatabase", "NotAllowed", "Piece", "Source", "as_json", "open_store",
           "source", "split_target"]  # fmt: skip
