"""Rows of SQLite as values, and values as SQLite takes them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import aiosqlite
import msgspec

from ..errors import Outdated
from .db import Row

T = TypeVar("T", bound=msgspec.Struct)


async def changed(db: aiosqlite.Connection, sql: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a guarded statement, one with RETURNING, found what it changes."""
    return bool(list(await db.execute_fetchall(sql, parameters)))


async def all_changed(db: aiosqlite.Connection, sql: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Carry out a guarded statement for each of a job's rows. Raises Outdated unless each found what it changes.

    Of many in one go only their number is known; but they cost a tenth of what one after the other does.
    """
    if rows and (cursor := await db.executemany(sql, rows)).rowcount != len(rows):
        raise Outdated(f"job={rows[0]['job_hash']}: {cursor.rowcount} of {len(rows)} rows were as they should be")


def as_json(values: Iterable[str]) -> str:
    return msgspec.json.encode(list(values)).decode()


def one(kind: type[T], rows: Iterable[Row]) -> T | None:
    return next(iter(every(kind, rows)), None)


def every(kind: type[T], rows: Iterable[Row]) -> list[T]:
    return [msgspec.convert(dict(row), kind, strict=False) for row in rows]
