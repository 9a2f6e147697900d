"""The one writer of job and node states. Each turn of its loop, in this order:

1. hear what the executors observed: attempts that started, that ended, plans of prepared jobs;
2. stop what was cancelled or ran over its time limit;
3. settle jobs of which nothing runs and nothing can start any more;
4. begin to prepare queued jobs, in order of submission;
5. start ready nodes where cores are free, job by job in order of submission.

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
from collections.abc import Iterable
from functools import partial

import aiosqlite
import msgspec

from .board import Board
from .config import Config
from .errors import ScdError
from .executors.base import Executor, Observation
from .live import PREPARE, LiveJob, over
from .metrics import Metrics
from .model import Attempt, NodeKey, Plan
from .orders import Broken, Orders, blaming
from .states import JobState, NodeState
from .store import JobStore, is_damaged

log = logging.getLogger(__name__)

# SiliconCompiler ends a tool at its time limit itself; scd steps in where it did not.
_TIMEOUT_MARGIN = 5.0
_RETRY_DELAY = 1.0


class Scheduler:
    def __init__(self, config: Config, store: JobStore, board: Board, metrics: Metrics):
        self._config = config
        self._store = store
        self._board = board
        self._metrics = metrics
        self._executor: Executor
        self._live: dict[str, LiveJob] = {}
        self._wakeup = asyncio.Event()
        self._turn_lock = asyncio.Lock()
        self._deadline: float | None = None
        self._closing = False
        self._stale = False  # memory and database may differ
        self.turns = 0  # that have ended, well or not

    def use(self, executor: Executor) -> None:
        self._executor = executor

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
                await self._executor.submit(live.spec(attempt))

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

    def running_core_seconds(self, user: str, since: float) -> float:
        """What a user's live nodes have used since ``since``, by the monotonic clock: no leap of time is charged."""
        now, longest = time.monotonic(), max(0.0, time.time() - since)
        return sum(
            min(now - seen.started_mono, longest) * attempt.cores
            for live in self._live.values()
            if live.job.user == user
            for name, attempt in live.attempts.items()
            if attempt.key != PREPARE and (seen := live.seen.get(name)) is not None and seen.started_mono is not None
        )

    def census(self) -> tuple[Counter[JobState], Counter[NodeState]]:
        """How many unfinished jobs are in each state, and how many of their nodes."""
        jobs = Counter(live.job.state for live in self._live.values())
        nodes = Counter(node.state for live in self._live.values() for node in live.nodes.values())
        return jobs, nodes

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

    # -- a turn

    async def _turn(self) -> None:
        orders = Orders()
        self._deadline = None
        observed = await self._executor.poll(name for job in self._live.values() for name in job.attempts)
        async with self._store.database.transaction() as db:
            for live in self._live.values():
                with blaming(live):
                    await self._hear(db, live, observed, orders)
                    await self._stop(db, live, orders)
                    await self._settle(db, live, orders)
            jobs = [live for live in self._live.values() if not (live.job.state.ended or self._closing)]
            free = self._config.cores - sum(live.cores for live in jobs)
            for live in jobs:
                if live.job.state is JobState.QUEUED and free > 0:
                    with blaming(live):
                        await self._prepare(db, live, orders)
                    free -= 1
            for live in jobs:
                if live.job.state is JobState.RUNNING and live.job.cancel_reason is None:
                    with blaming(live):
                        free = await self._start(db, live, free, orders)
        await self._carry_out(orders)

    async def _hear(
        self, db: aiosqlite.Connection, live: LiveJob, observed: dict[str, Observation], orders: Orders
    ) -> None:
        for name, attempt in list(live.attempts.items()):
            seen = observed.get(name)
            if seen is None:
                continue
            live.seen[name] = seen
            if seen.started is not None and attempt.started is None:
                attempt = live.attempts[name] = msgspec.structs.replace(attempt, started=seen.started)
                await self._store.start_attempt(db, name, seen.started)
                if attempt.key != PREPARE:
                    live.recorded.pop(attempt.key, None)
                    orders.counts.append(partial(self._metrics.started, attempt))
                    await self._move_node(db, live, attempt.key, NodeState.RUNNING, "", orders)
            if seen.state is not None:
                await self._end_attempt(db, live, attempt, seen, orders)

    async def _end_attempt(
        self, db: aiosqlite.Connection, live: LiveJob, attempt: Attempt, seen: Observation, orders: Orders
    ) -> None:
        state, reason = live.outcome(attempt.key, seen)
        recorded = live.on_record(attempt, seen, reason)
        ended = msgspec.structs.replace(
            attempt, ended=seen.ended or time.time(), elapsed=seen.elapsed, state=state, reason=recorded,
            exit_code=seen.exit_code, archive=seen.archive, lost=seen.lost, cpu_seconds=seen.usage.cpu_seconds,
            peak_bytes=seen.usage.peak_bytes, read_bytes=seen.usage.read_bytes, written_bytes=seen.usage.written_bytes,
            unpack_seconds=seen.unpack_seconds, archive_seconds=seen.archive_seconds,
        )  # fmt: skip
        del live.attempts[attempt.name]
        live.killed.discard(attempt.name)
        if not await self._store.end_attempt(db, ended):
            return
        if attempt.key == PREPARE:
            await self._prepared(db, live, seen, recorded, orders)
        else:
            live.elapsed[attempt.key] = seen.elapsed
            live.recorded[attempt.key] = recorded
            await self._move_node(db, live, attempt.key, state, reason, orders)
            await self._retry(db, live, attempt.key, seen, orders)

    async def _retry(
        self, db: aiosqlite.Connection, live: LiveJob, key: NodeKey, seen: Observation, orders: Orders
    ) -> None:
        """A node that was lost with what it lived in may start again, as often as the configuration says."""
        node = live.nodes[key]
        if not seen.lost or node.retries >= self._config.dispatch.retries or live.job.cancel_reason is not None:
            return
        if await self._store.retry_node(db, node):
            live.retry(key)
            orders.log.append(f"job={live.job_hash} node={key} user={live.job.user or '-'} pending again {seen.reason}")

    async def _prepared(
        self, db: aiosqlite.Connection, live: LiveJob, seen: Observation, recorded: str, orders: Orders
    ) -> None:
        if live.job.cancel_reason is not None:
            return
        if seen.lost and live.job.retries < self._config.dispatch.retries:
            if await self._store.retry(db, live.job_hash, seen.reason):
                live.retry_job(seen.reason)
                orders.log.append(f"job={live.job_hash} user={live.job.user or '-'} queued again {seen.reason}")
            return
        if seen.state is not NodeState.SUCCESS or seen.plan is None or seen.raw_plan is None:
            state = JobState.REJECTED if seen.refused else JobState.FAILED
            await self._end_job(db, live, state, seen.reason or "The job could not be prepared.", orders, recorded)
            return
        plan = seen.plan
        await self._store.set_plan(db, live.job_hash, seen.raw_plan, plan.nodes, self._cores(plan))
        await self._move_job(db, live, JobState.RUNNING, "", orders)
        live.take_plan(plan, await self._store.nodes(live.job_hash, db))

    async def _stop(self, db: aiosqlite.Connection, live: LiveJob, orders: Orders) -> None:
        if live.job.state.ended:
            return
        if live.job.cancel_reason is not None:
            if live.attempts:
                self._kill(live, live.attempts, NodeState.ERROR, f"cancelled: {live.job.cancel_reason}", orders)
            elif live.all_went_well():  # the cancel came when all was done
                await self._end_job(db, live, JobState.COMPLETED, "", orders)
            else:
                await self._end_job(db, live, JobState.CANCELED, live.job.cancel_reason, orders)
            return
        for name, attempt in live.attempts.items():
            limit, started = live.limit(attempt.key), live.seen[name].started_mono if name in live.seen else None
            if not limit or started is None:
                continue
            end = started + limit + _TIMEOUT_MARGIN
            if time.monotonic() < end:
                self._deadline = min(end, self._deadline or end)
            else:
                self._kill(live, [name], NodeState.TIMEOUT, over(limit), orders)

    def _kill(self, live: LiveJob, names: Iterable[str], state: NodeState, reason: str, orders: Orders) -> None:
        fresh = [name for name in names if name not in live.killed]
        live.killed.update(fresh)
        if fresh:
            orders.cancel.append((self._executor, fresh, state, reason))

    async def _settle(self, db: aiosqlite.Connection, live: LiveJob, orders: Orders) -> None:
        if live.job.state is not JobState.RUNNING or live.job.cancel_reason is not None:
            return
        if live.attempts or live.ready():
            return
        if (state := live.verdict()) is not None:
            well = state is JobState.COMPLETED
            told, recorded = ("", "") if well else (live.failures(), live.failures(recorded=True))
            await self._end_job(db, live, state, told, orders, recorded)

    async def _prepare(self, db: aiosqlite.Connection, live: LiveJob, orders: Orders) -> None:
        if not await self._move_job(db, live, JobState.PREPARING, "", orders):
            return
        orders.counts.append(partial(self._metrics.taken_up, live.job))
        attempt = live.prepare_attempt(self._executor.name, time.time())
        await self._store.add_attempt(db, attempt)
        live.attempts[attempt.name] = attempt
        orders.submit.append((self._executor, live.spec(attempt)))

    async def _start(self, db: aiosqlite.Connection, live: LiveJob, free: int, orders: Orders) -> int:
        """Start what fits; the cores that are left to later jobs: none if a node of this one waits for more."""
        waiting = False
        for planned in live.ready():
            node = live.nodes[planned.key]
            cores = min(node.cores, self._config.cores)  # there may be fewer than when it was prepared
            if cores > free:
                waiting = True
                continue
            attempt = live.node_attempt(node, cores, self._executor.name, time.time())
            if not await self._store.claim_node(db, node, attempt):
                continue
            live.queue(attempt)
            orders.submit.append((self._executor, live.spec(attempt)))
            free -= cores
        return 0 if waiting else free

    # -- changes

    async def _move_node(
        self, db: aiosqlite.Connection, live: LiveJob, key: NodeKey, state: NodeState, reason: str, orders: Orders
    ) -> None:
        recorded = live.recorded.get(key, reason)
        if await self._store.move_node(db, live.job_hash, key, state, recorded):
            live.change_node(key, state, reason)
            if state.done:
                orders.counts.append(partial(self._metrics.node_ended, state))
            orders.log.append(f"job={live.job_hash} node={key} user={live.job.user or '-'} {state} {recorded}".rstrip())

    async def _move_job(
        self, db: aiosqlite.Connection, live: LiveJob, state: JobState, reason: str, orders: Orders, recorded: str = ""
    ) -> bool:
        recorded = recorded or reason
        if not await self._store.move(db, live.job_hash, state, recorded):
            return False
        live.change_job(state, reason)
        orders.log.append(f"job={live.job_hash} user={live.job.user or '-'} {state} {recorded}".rstrip())
        return True

    async def _end_job(
        self, db: aiosqlite.Connection, live: LiveJob, state: JobState, reason: str, orders: Orders, recorded: str = ""
    ) -> None:
        """``reason`` is for whoever watches, ``recorded`` what may be written down of it, if that is less."""
        if await self._move_job(db, live, state, reason, orders, recorded):
            orders.counts.append(partial(self._metrics.job_ended, state))
            orders.ended.append(live)

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
            await self._store.database.write(lambda db: self._store.fail(db, live.job_hash, reason))
            job = await self._store.job(live.job_hash)
            if job is not None:
                live.change_job(job.state, job.reason)
            self._publish()
            await self._executor.cancel(list(live.attempts), NodeState.ERROR, reason)
            await self._executor.release(live.job_hash)

    def _publish(self) -> None:
        position = 0
        for live in self._live.values():
            if live.job.state is JobState.QUEUED:
                position += 1
                live.move_up(position)
            self._board.publish(live.job_hash, live.version, live.view, ended=live.job.state.ended)

    def _cores(self, plan: Plan) -> dict[NodeKey, int]:
        """As TaskScheduler: a node that names no number of threads gets the machine."""
        every = self._config.cores
        return {node.key: max(1, min(node.cores or every, every)) for node in plan.nodes}
