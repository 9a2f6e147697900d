"""The one writer of job and node states. Each turn of its loop, in this order:

1. hear what the executors observed: attempts that started, that ended, plans of prepared jobs;
2. stop what was cancelled, ran over its time limit, or whose user has no compute time left;
3. settle jobs of which nothing runs and nothing can start any more;
4. begin to prepare queued jobs and start ready nodes where cores are free, by turns of the users (``scd/share.py``).

All of it is one transaction. Orders to the executors go out after its commit, so that a crash in between leaves an
intent that is sent again under the same name, never a process that nothing knows of. If a turn fails, memory is thrown
away and read from the database again.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

import aiosqlite
import msgspec

from .board import Board, Waits
from .config import Settings
from .dispatch import Dispatch, running_of
from .errors import ScdError
from .executors.base import Executor, Observation
from .live import LiveJob
from .metrics import Metrics
from .model import Attempt
from .orders import Broken, Orders, blaming
from .placement import Partition
from .share import Pick, Running
from .spending import Spending
from .states import JobState, NodeState
from .store import JobStore, UsageStore, is_damaged
from .turn import Turn, spec_of

log = logging.getLogger(__name__)

_RETRY_DELAY = 1.0


class Scheduler:
    def __init__(self, settings: Settings, store: JobStore, usage: UsageStore, board: Board, metrics: Metrics):
        self._settings = settings
        self._store = store
        self._dispatch = Dispatch(settings)
        self._spending = Spending(settings, usage)
        self._board = board
        self._metrics = metrics
        self._executor: Executor
        self._partitions: Callable[[], Mapping[str, Partition]] = dict
        self._largest_array: Callable[[], int] = int
        self._live: dict[str, LiveJob] = {}
        self._wakeup = asyncio.Event()
        self._turn_lock = asyncio.Lock()
        self._deadline: float | None = None
        self._closing = False
        self._stale = False  # memory and database may differ
        self.turns = 0  # that have ended, well or not

    def use(
        self, executor: Executor, partitions: Callable[[], Mapping[str, Partition]] = dict,
        largest_array: Callable[[], int] = int,
    ) -> None:  # fmt: skip
        """``partitions``: what Slurm's give, as far as it is known; ``largest_array``: nodes in one submission."""
        self._executor, self._partitions, self._largest_array = executor, partitions, largest_array

    def wake(self) -> None:
        self._wakeup.set()

    async def run(self) -> None:
        complaint = ""
        while True:
            self._wakeup.clear()
            try:
                if self._stale:
                    await self.load()
                    await self.resubmit()
                async with self._turn_lock:
                    with self._metrics.turn.time():
                        await self._turn()
                complaint = ""
            except Broken as broken:
                log.error("job=%s %s", broken.live.job_hash, broken, exc_info=broken.__cause__)
                with contextlib.suppress(sqlite3.Error):  # else in the next turn
                    await self._give_up(broken.live, str(broken))
                self._stale = True
            except (sqlite3.Error, OSError, ScdError) as error:
                if is_damaged(error):
                    raise
                if str(error) != complaint:  # once, not every second for as long as the disk is full
                    complaint = str(error)
                    log.error("the scheduler's turn failed, nothing of it was kept; it is tried again: %s", error)
                self._stale = True
            self.turns += 1
            if self._stale:
                await asyncio.sleep(_RETRY_DELAY)
                continue
            timeout = None if self._deadline is None else max(0.05, self._deadline - time.monotonic())
            try:
                async with asyncio.timeout(timeout):
                    await self._wakeup.wait()
            except TimeoutError:
                pass

    async def load(self) -> list[LiveJob]:
        """Read every unfinished job from the database."""
        async with self._turn_lock:
            self._spending.forget()
            observed = {name: seen for job in self._live.values() for name, seen in job.seen.items()}
            self._live = {}
            for job in await self._store.unfinished():
                live = LiveJob(job, await self._store.nodes(job.job_hash), await self._store.attempts(job.job_hash))
                live.seen = {name: observed[name] for name in live.attempts if name in observed}
                self._live[job.job_hash] = live
            self._stale = False
            self._publish()
        self.wake()
        return list(self._live.values())

    async def resubmit(self) -> None:
        """Order every live attempt again by its name. One that was started is found, not run twice."""
        for live in self._live.values():
            for attempt in live.attempts.values():
                await self._executor.submit(spec_of(self._settings.config, live, attempt))

    async def admit(self, job_hash: str) -> None:
        """Take up a job that was just committed as queued."""
        try:
            job = await self._store.job(job_hash)
            if job is None or job.state.ended:
                return
            async with self._turn_lock:
                nodes, attempts = await self._store.nodes(job_hash), await self._store.attempts(job_hash)
                self._live[job_hash] = LiveJob(job, nodes, attempts)
                self._publish()
        except sqlite3.Error:  # it is kept all the same; the next turn reads everything again
            self._stale = True
        self.wake()

    async def cancel(self, job_hash: str, reason: str) -> bool:
        """Whether the job was still unfinished. What runs of it ends within seconds."""
        async with self._turn_lock:
            live = self._live.get(job_hash)
            if live is None:
                return False
            if live.job.cancel_reason is None:
                await self._store.database.write(lambda db: self._store.ask_cancel(db, job_hash, reason))
                live.job = msgspec.structs.replace(live.job, cancel_reason=reason)
        self.wake()
        return True

    def running_core_seconds(self, users: Collection[str], since: float) -> float:
        """What the live nodes of ``users`` have used since ``since``, by the monotonic clock: no leap is charged."""
        longest = max(0.0, time.time() - since)
        lives = [live for live in self._live.values() if live.job.user in users]
        return sum(min(node.elapsed, longest) * node.cores for node in running_of(lives))

    def census(self) -> tuple[Counter[JobState], Counter[NodeState]]:
        """How many unfinished jobs are in each state, and how many of their nodes."""
        jobs = Counter(live.job.state for live in self._live.values())
        nodes = Counter(node.state for live in self._live.values() for node in live.nodes.values())
        return jobs, nodes

    def waits(self, job_hash: str) -> Waits:
        """Why an unfinished job waits; nothing is said of others."""
        live = self._live.get(job_hash)
        return Waits() if live is None or live.job.state.ended else live.waits()

    def unfinished(self) -> list[str]:
        """The hashes of all unfinished jobs."""
        return list(self._live)

    def licenses(self) -> dict[str, tuple[int, int]]:
        """How many of each licence are in use, of how many."""
        held = self._dispatch.licenses.held(self._live.values())
        return {name: (held[name], one.count) for name, one in self._settings.config.licenses.items()}

    async def cancel_all(self, reason: str, timeout: float) -> None:
        """Cancel every job that has begun, and start none meanwhile; queued ones wait for the next start."""
        self._closing = True
        begun = [live.job_hash for live in self._live.values() if live.job.state is not JobState.QUEUED]
        for job_hash in begun:
            await self.cancel(job_hash, reason)
        deadline = time.monotonic() + timeout
        for job_hash in begun:
            while self._board.ended_for(job_hash) is None and (left := deadline - time.monotonic()) > 0:
                await self._board.changed(job_hash, left)
        async with self._turn_lock:  # the turn that ended the last of them has also told its shim to go
            return

    async def _turn(self) -> None:
        observed = await self._executor.poll(name for job in self._live.values() for name in job.attempts)
        with self._dispatch.trying():
            turn, left = await self._decide(observed)
        ends = [end for end in (turn.deadline, None if left is None else time.monotonic() + left) if end is not None]
        self._deadline = min(ends, default=None)
        await self._carry_out(turn.orders)

    async def _decide(self, observed: Mapping[str, Observation]) -> tuple[Turn, float | None]:
        """A turn's transaction, and in how many seconds somebody's compute time may be used up."""
        async with self._store.database.transaction() as db:
            turn = Turn(
                db, self._settings.config, self._store, self._executor, self._metrics, self._partitions(), self._charge
            )
            for live in self._live.values():
                with blaming(live):
                    await turn.hear(live, observed)
            spent, left = await self._spending.exhausted(db, self._users(), self._running())
            for live in self._live.values():
                with blaming(live):
                    await turn.stop(live, spent.get(live.job.user, ""))
                    await turn.settle(live)
            if not self._closing:
                unended = [live for live in self._live.values() if not live.job.state.ended]
                picks: dict[str, list[Pick]] = {}
                for pick in self._dispatch.choose(unended, spent):
                    picks.setdefault(pick.job_hash, []).append(pick)
                for job_hash, together in picks.items():
                    with blaming(live := self._live[job_hash]):
                        await turn.start(live, together)
                await turn.arrange(self._live, self._largest_array())
        return turn, left

    def _charge(self, live: LiveJob, attempt: Attempt) -> None:
        assert attempt.ended is not None
        self._dispatch.charge(live, attempt)
        self._spending.charge(live.job.user, attempt.ended, attempt.elapsed or 0.0, attempt.cores)

    def _users(self) -> set[str]:
        return {live.job.user for live in self._live.values()}

    def _running(self) -> dict[str, list[Running]]:
        found: dict[str, list[Running]] = {}
        for live in self._live.values():
            if live.attempts:
                found.setdefault(live.job.user, []).extend(running_of([live]))
        return found

    async def _carry_out(self, orders: Orders) -> None:
        for line in orders.log:
            log.info("%s", line.replace("\n", " | "))
        for count in orders.counts:
            count()
        self._publish()
        for live in orders.ended:
            self._live.pop(live.job_hash, None)
        try:
            for executor, spec in orders.submit:
                await executor.submit(spec)
            for executor, names, state, reason in orders.cancel:
                await executor.cancel(names, state, reason)
        except OSError as error:  # no descriptor left, for instance: what was decided is read again, and ordered again
            log.error("orders could not be given, and are given again: %s", error)
            self._stale = True
        finally:
            for live in orders.ended:
                await self._executor.release(live.job_hash)

    async def _give_up(self, live: LiveJob, reason: str) -> None:
        async with self._turn_lock:
            await self._store.database.write(lambda db: self._fail(db, live, reason))
            job = await self._store.job(live.job_hash)
            if job is not None:
                live.change_job(job.state, job.reason)
            self._publish()
            await self._executor.cancel(list(live.attempts), NodeState.ERROR, reason)
            await self._executor.release(live.job_hash)

    async def _fail(self, db: aiosqlite.Connection, live: LiveJob, reason: str) -> None:
        """What its nodes have used until now is charged as of any other."""
        now = time.time()
        for attempt in live.attempts.values():
            elapsed = live.seconds(attempt.name)
            ended = msgspec.structs.replace(attempt, ended=now, elapsed=elapsed, state=NodeState.ERROR, reason=reason)
            await self._store.end_attempt(db, ended)
        await self._store.fail(db, live.job_hash, reason)

    def _publish(self) -> None:
        for live in self._live.values():
            self._board.publish(live.job_hash, live.version, live.view, ended=live.job.state.ended)
