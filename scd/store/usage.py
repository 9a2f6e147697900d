"""What each user has used of his limits: a ledger that outlives the jobs."""

import time

import aiosqlite

from ..model import Usage
from ..states import JOB_ENDED
from .db import Database

_SPENT = """
    SELECT coalesce(sum(core_seconds), 0) AS core_seconds, coalesce(sum(result_bytes), 0) AS result_bytes
    FROM ledger WHERE user = :user AND at >= :since"""
_UNFINISHED = "SELECT count(*) AS jobs FROM jobs WHERE user = :user AND state NOT IN ({})".format(
    ", ".join(f"'{state}'" for state in sorted(JOB_ENDED))
)

_CHARGE_DOWNLOAD = """
    INSERT INTO ledger (at, user, job_hash, result_bytes, seconds) VALUES (:at, :user, :job_hash, :sent, :seconds)"""

_DOWNLOADS = """
    SELECT count(*) AS times, coalesce(sum(result_bytes), 0) AS result_bytes, coalesce(sum(seconds), 0.0) AS seconds
    FROM ledger WHERE job_hash = :job_hash AND result_bytes > 0"""


class UsageStore:
    def __init__(self, database: Database):
        self.database = database

    async def current(self, user: str, since: float, period: float, running: float = 0.0) -> Usage:
        """What ``user`` has used since ``since``, the start of a period of ``period`` seconds.

        ``running``: the core-seconds of his live nodes so far, which are not in the ledger yet.
        """
        row = {"user": user, "since": since}
        (spent,) = await self.database.read(_SPENT, row)
        (unfinished,) = await self.database.read(_UNFINISHED, row)
        return Usage(
            core_seconds=spent["core_seconds"] + running,
            result_bytes=spent["result_bytes"],
            unfinished_jobs=unfinished["jobs"],
            period_ends=since + period,
        )

    async def downloads(self, job_hash: str) -> tuple[int, int, float]:
        """How often results of a job were fetched, the bytes, and the seconds that it took."""
        (row,) = await self.database.read(_DOWNLOADS, {"job_hash": job_hash})
        return row["times"], row["result_bytes"], row["seconds"]

    async def charge_download(
        self, db: aiosqlite.Connection, user: str, job_hash: str, sent: int, seconds: float
    ) -> None:
        await db.execute(
            _CHARGE_DOWNLOAD,
            {"at": time.time(), "user": user, "job_hash": job_hash, "sent": sent, "seconds": seconds},
        )
