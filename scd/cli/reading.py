"""Reading the database beside the daemon, also while it is down."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ..config import Config
from ..errors import ScdError, UnknownJob
from ..store import Database, JobStore

_MIN_PREFIX = 4


class NoDatabase(ScdError):
    """There is no database: scd has not run here yet."""


class NotAllowed(ScdError):
    """Only root and scd's own account can do this."""

    exit_code = 4


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[JobStore]:
    path = config.database
    try:
        path.stat()
    except FileNotFoundError:
        raise NoDatabase(f"There is no {path}: scd has not run with this configuration yet.") from None
    except PermissionError:
        raise NotAllowed(
            f"{path} cannot be read by this account. Use root's or scd's (sudo -u scd scdctl ...)."
        ) from None
    if not os.access(path, os.R_OK):
        raise NotAllowed(f"{path} cannot be read by this account. Use root's or scd's (sudo -u scd scdctl ...).")
    async with await Database.open_readonly(path) as database:
        yield JobStore(database)


async def find_job(store: JobStore, prefix: str) -> str:
    """The one job whose hash begins with ``prefix``. Raises UnknownJob."""
    wanted = prefix.lower()
    if len(wanted) < _MIN_PREFIX or not all(char in "0123456789abcdef" for char in wanted):
        raise UnknownJob(f"{prefix!r} is no job hash: give at least the first {_MIN_PREFIX} of its 32 characters.")
    found = await store.matching(wanted)
    if not found:
        raise UnknownJob(f"There is no job {prefix} here.")
    if len(found) > 1:
        raise UnknownJob(f"Several jobs begin with {prefix}: give more of the hash.")
    return found[0]


def split_target(target: str) -> tuple[str, tuple[str, str] | None]:
    """``hash`` or ``hash.step/index``; a step may hold dots."""
    job, dot, node = target.partition(".")
    if not dot:
        return job, None
    step, slash, index = node.rpartition("/")
    if not slash or not step or not index:
        raise UnknownJob(f"{target!r} names no node: write it as HASH.STEP/INDEX.")
    return job, (step, index)


def as_json(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version": 1, kind: rows}
