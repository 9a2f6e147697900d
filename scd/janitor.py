"""What goes with time: files and rows of finished jobs, free pages of the database. Its duties, at each sweep:

1. remove what a crash left in staging;
2. measure what newly finished jobs take on the disk, and their archives;
3. delete finished jobs whose ``retention`` is over;
4. delete the oldest finished jobs of a user, or of a group, that is over its ``storage``;
5. give free pages back to the file system, and take back the reserve that a full disk had needed.

A deleted job leaves its tombstone: who asks is told its true final status for ever.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Mapping

from .board import Board
from .config import Settings
from .sealed import plain_size
from .spool import Spool
from .store import JobStore, is_damaged

log = logging.getLogger(__name__)

_INTERVAL = 10.0
# A client fetches what a job made when it sees the end. Until then storage is no reason to delete it.
_GRACE = 60.0
_PAGES = 2000  # given back at a time: 8 MB, some tens of milliseconds
# A clock that leaps is set wrong before or after: nothing expires until it has been seen to stay.
_LEAP = 60.0
_LEAP_WHILE_DOWN = 6 * 3600.0
_DISTRUST = 3600.0


class Janitor:
    def __init__(self, settings: Settings, store: JobStore, spool: Spool, board: Board):
        self._settings = settings
        self._store = store
        self._spool = spool
        self._board = board
        self._born = time.time()
        self._offset = self._born - time.monotonic()
        self._trusted_from: float | None = None  # on the monotonic clock; None before the first look
        self._fetched: dict[str, float] = {}
        self._complaints: set[str] = set()

    async def run(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(_INTERVAL)

    def fetched(self, job_hash: str) -> None:
        """Somebody downloads of this job: storage does not take it away meanwhile."""
        self._fetched[job_hash] = time.monotonic()

    async def delete(self, job_hash: str) -> bool:
        """Forget an ended job but for its tombstone; whether it was still ended. Its files go in any case."""
        if not await self._store.database.write(lambda db: self._store.delete(db, job_hash)):
            return False
        self._board.drop(job_hash)
        await asyncio.to_thread(self._spool.remove, job_hash)
        return True

    async def sweep(self) -> None:
        """All duties, in their order. One that fails is tried again at the next sweep and holds up no other."""
        complaints = set()
        for duty in (self._clear_staging, self._measure, self._expire, self._make_room, self._give_back):
            try:
                await duty()
            except (sqlite3.Error, OSError) as error:
                if is_damaged(error):
                    raise
                complaints.add(str(error))
        for complaint in sorted(complaints - self._complaints):  # once, not at every sweep
            log.error("what is old could not all be cleared away; it is tried again: %s", complaint)
        self._complaints = complaints

    async def _clear_staging(self) -> None:
        await asyncio.to_thread(self._spool.clear)

    async def _measure(self) -> None:
        for job_hash in await self._store.unmeasured():
            size = await asyncio.to_thread(self._spool.size, job_hash)
            archives = {one.name: one.archive for one in await self._store.attempts(job_hash) if one.archive}
            sizes = await asyncio.to_thread(self._archive_sizes, job_hash, archives)
            async with self._store.database.transaction() as db:
                await self._store.measured(db, job_hash, size, sizes)

    def _archive_sizes(self, job_hash: str, archives: Mapping[str, str]) -> dict[str, int]:
        """Both by their attempt. What is gone or damaged already is left to ``scdctl check``."""
        found: dict[str, int] = {}
        for attempt, archive in archives.items():
            with contextlib.suppress(OSError):
                found[attempt] = plain_size(self._spool.job(job_hash).archives / archive)
        return found

    async def _expire(self) -> None:
        if not await self._clock_is_trusted():
            return
        now = time.time()
        for user in await self._store.owners():
            retention = self._settings.config.limits_of(user).retention
            if retention is None:
                continue
            for job in await self._store.ended_before(user, now - retention):
                if await self.delete(job.job_hash):
                    log.info("job=%s user=%s deleted: its retention is over", job.job_hash, user or "-")

    async def _make_room(self) -> None:
        budgets = {budget for user in await self._store.owners() for budget in self._settings.budgets_of(user)}
        for budget in budgets:
            storage = budget.limits.storage
            if storage is None:
                continue
            used = await self._store.disk_bytes(budget.members)
            if used <= storage:
                continue
            ended = [job for user in budget.members for job in await self._store.ended_before(user, time.time())]
            for job in sorted(ended, key=lambda job: (job.ended or 0.0, job.job_hash)):
                if used <= storage:
                    break
                if self._in_use(job.job_hash, job.ended or 0.0):
                    continue
                if await self.delete(job.job_hash):
                    used -= job.disk_bytes or 0
                    whose = f"the group {budget.group}" if budget.group else "its owner"
                    log.info(
                        "job=%s user=%s deleted: %s is over the storage limit", job.job_hash, job.user or "-", whose
                    )

    def _in_use(self, job_hash: str, ended: float) -> bool:
        return 0 <= time.time() - ended < _GRACE or job_hash in self._fetched

    async def _give_back(self) -> None:
        database = self._store.database
        await database.shrink(_PAGES)
        await asyncio.to_thread(database.reserve.hold)
        now = time.monotonic()
        self._fetched = {job_hash: at for job_hash, at in self._fetched.items() if now - at < _GRACE}

    async def _clock_is_trusted(self) -> bool:
        now = time.monotonic()
        offset = time.time() - now
        leap, self._offset = offset - self._offset, offset
        if self._trusted_from is None:  # scd was down, perhaps for long, perhaps in front of a clock that was reset
            last = await self._store.last_change()
            away = 0.0 if last is None else time.time() - last
            self._trusted_from = now + _DISTRUST if abs(away) > _LEAP_WHILE_DOWN else now
            if now < self._trusted_from:
                log.warning("the last change here is %.0f s old by this clock: nothing expires for an hour", away)
        if abs(leap) > _LEAP:
            log.warning("the clock leapt by %+.0f s: nothing expires for an hour", leap)
            # What happened under the old clock is now as long ago by the new one as it really is.
            await self._store.database.write(lambda db: self._store.shift(db, self._born, leap))
            self._born += leap
            self._trusted_from = now + _DISTRUST
        return now >= self._trusted_from
