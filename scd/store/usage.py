"""What each user has used of his limits: a ledger that outlives the jobs."""

import json
import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

import aiosqlite

from ..model import Usage
from ..states import JOB_ENDED
from .db import Database, Row

EVER = 1e18

# What lies in [since, until). A node's seconds end at `at`; of one that ran over a border, this side's part counts.
# The denominator is what the numerators of all parts add up to, so that rounding loses nothing.
_SPENT = """
    SELECT coalesce(sum(core_seconds * CASE
               WHEN at - elapsed >= :since AND at < :until THEN 1.0
               WHEN elapsed = 0 OR at - elapsed = at THEN 0.0
               ELSE (min(at, :until) - max(at - elapsed, :since)) / (at - (at - elapsed)) END), 0) AS core_seconds,
           coalesce(sum(CASE WHEN at < :until THEN result_bytes ELSE 0 END), 0) AS result_bytes
    FROM ledger
    WHERE user IN (SELECT value FROM json_each(:users)) AND at >= :since AND at - elapsed < :until"""
_UNFINISHED = """
    SELECT count(*) AS jobs, coalesce(sum(upload_bytes), 0) AS bytes FROM jobs
    WHERE user IN (SELECT value FROM json_each(:users)) AND state NOT IN ({})""".format(
    ", ".join(f"'{state}'" for state in sorted(JOB_ENDED))
)
# A download is charged in pieces; the last one has the seconds that all of it took.
_CHARGE_DOWNLOAD = """
    INSERT INTO ledger (at, user, job_hash, result_bytes, seconds) VALUES (:at, :user, :job_hash, :sent, :seconds)"""
_DOWNLOADS = """
    SELECT count(*) FILTER (WHERE seconds > 0) AS times, coalesce(sum(result_bytes), 0) AS result_bytes,
           coalesce(sum(seconds), 0.0) AS seconds
    FROM ledger WHERE job_hash = :job_hash"""
_RUNNING = """
    SELECT count(*) FILTER (WHERE attempts.step <> '') AS nodes,
           coalesce(sum(cores * max(0, min(:now, :until) - max(attempts.started, :since))), 0) AS core_seconds
    FROM attempts JOIN jobs USING (job_hash)
    WHERE user IN (SELECT value FROM json_each(:users)) AND attempts.state IS NULL
        AND jobs.state IN ('preparing', 'running')"""
_KNOWN = "SELECT DISTINCT user FROM ledger UNION SELECT DISTINCT user FROM jobs"


class Live(NamedTuple):
    """What runs now, as the database knows it, by the clock on the wall."""

    nodes: int
    core_seconds: float  # of preparations, too


class UsageStore:
    def __init__(self, database: Database):
        self.database = database

    async def current(
        self,
        users: Collection[str],
        since: float,
        period: float,
        running: float = 0.0,
        db: aiosqlite.Connection | None = None,
    ) -> Usage:
        """What ``users`` together have used since ``since``, the start of a period of ``period`` seconds.

        ``running``: the core-seconds of their live nodes so far, which are not in the ledger yet.
        ``db``: as a transaction in progress sees it.
        """
        spent, received = await self.spent(users, since, EVER, db)
        (unfinished,) = await self._read(_UNFINISHED, {"users": json.dumps(list(users))}, db)
        return Usage(
            core_seconds=spent + running, result_bytes=received, unfinished_jobs=unfinished["jobs"],
            unfinished_bytes=unfinished["bytes"], period_ends=since + period,
        )  # fmt: skip

    async def spent(
        self, users: Collection[str], since: float, until: float, db: aiosqlite.Connection | None = None
    ) -> tuple[float, int]:
        """The core-seconds and result bytes of ``users`` in a span of time, as far as they are charged."""
        row = {"users": json.dumps(list(users)), "since": since, "until": until}
        (spent,) = await self._read(_SPENT, row, db)
        return float(spent["core_seconds"]), int(spent["result_bytes"])

    async def running(self, users: Collection[str], since: float, until: float, now: float) -> Live:
        """The live nodes of ``users``, and their core-seconds in a span, for whoever reads beside the daemon."""
        row = {"users": json.dumps(list(users)), "since": since, "until": until, "now": now}
        (found,) = await self.database.read(_RUNNING, row)
        return Live(found["nodes"], float(found["core_seconds"]))

    async def known_users(self) -> list[str]:
        """Who has, or had, jobs here."""
        return sorted(row["user"] for row in await self.database.read(_KNOWN))

    async def downloads(self, job_hash: str) -> tuple[int, int, float]:
        """How often results of a job were fetched, the bytes, and the seconds that it took."""
        (row,) = await self.database.read(_DOWNLOADS, {"job_hash": job_hash})
        return row["times"], row["result_bytes"], row["seconds"]

    async def charge_download(
        self, db: aiosqlite.Connection, user: str, job_hash: str, sent: int, seconds: float = 0.0
    ) -> None:
        """``seconds`` with the last piece of a download: what all of it took."""
        await db.execute(
            _CHARGE_DOWNLOAD,
            {"at": time.time(), "user": user, "job_hash": job_hash, "sent": sent, "seconds": seconds},
        )

    async def _read(self, sql: str, row: dict[str, object], db: aiosqlite.Connection | None) -> Iterable[Row]:
        return await (self.database.read(sql, row) if db is None else db.execute_fetchall(sql, row))
