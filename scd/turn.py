"""What one turn of the scheduler does to one job, within the turn's transaction."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import aiosqlite
import msgspec

from .config import Config
from .executors.arrays import arranged
from .executors.base import Executor, Observation, Spec
from .live import LiveJob, over
from .metrics import Metrics
from .model import PREPARE, Attempt, NodeKey, Plan
from .orders import Orders
from .placement import LOCAL, Misplaced, Partition, check, check_license, more_memory, place, preparation
from .share import Pick
from .states import JobState, NodeState, node_sources
from .store import JobStore

# SiliconCompiler ends a tool at its time limit itself; scd steps in where it did not.
_TIMEOUT_MARGIN = 5.0

Charged = Callable[[LiveJob, Attempt], None]  # told of each attempt's end


class Turn:
    def __init__(
        self, db: aiosqlite.Connection, config: Config, store: JobStore, executor: Executor, metrics: Metrics,
        partitions: Mapping[str, Partition], charged: Charged,
    ):  # fmt: skip
        self._db = db
        self._config = config
        self._store = store
        self._executor = executor
        self._metrics = metrics
        self._partitions = partitions
        self._charged = charged
        self.orders = Orders()
        self.deadline: float | None = None  # of a time limit, on the monotonic clock

    async def hear(self, live: LiveJob, observed: Mapping[str, Observation]) -> None:
        await self._take_handles(live, observed)
        for name, attempt in list(live.attempts.items()):
            seen = observed.get(name)
            if seen is None:
                continue
            live.seen[name] = seen
            if seen.started is not None and attempt.started is None:
                attempt = live.attempts[name] = msgspec.structs.replace(attempt, started=seen.started)
                await self._store.start_attempt(self._db, name, seen.started)
                if attempt.key != PREPARE:
                    live.recorded.pop(attempt.key, None)
                    self.orders.counts.append(partial(self._metrics.started, attempt))
                    await self._move_node(live, attempt.key, NodeState.RUNNING, "")
            if seen.state is not None:
                await self._end_attempt(live, attempt, seen)
        live.note_waiting()

    async def _take_handles(self, live: LiveJob, observed: Mapping[str, Observation]) -> None:
        """All at once: thousands of nodes may have come into a queue since the last turn."""
        fresh = {
            name: observed[name].handle
            for name, attempt in live.attempts.items()
            if name in observed and observed[name].handle not in ("", attempt.handle)
        }
        if not fresh:
            return
        await self._store.submit_attempts(self._db, fresh)
        for name, handle in fresh.items():
            live.attempts[name] = msgspec.structs.replace(live.attempts[name], handle=handle)
        keys = [live.attempts[name].key for name in fresh]
        moved = [key for key in keys if key != PREPARE and live.nodes[key].state in node_sources(NodeState.SUBMITTED)]
        await self._store.move_nodes(self._db, live.job_hash, moved, NodeState.SUBMITTED)
        for key in moved:
            self._moved(live, key, NodeState.SUBMITTED)

    async def stop(self, live: LiveJob, spent: str) -> None:
        """End what was cancelled, and what has no time left. ``spent``: why its user may compute no more."""
        if live.job.state.ended:
            return
        if spent and not live.expired and live.job.state is not JobState.QUEUED and (live.attempts or live.ready()):
            live.expired = spent
        if live.job.cancel_reason is not None:
            reason = live.job.cancel_reason
            await self._end_early(live, JobState.CANCELED, reason, NodeState.ERROR, f"cancelled: {reason}")
        elif live.expired:
            await self._end_early(live, JobState.TIMEOUT, live.expired, NodeState.TIMEOUT, live.expired)
        else:
            self._keep_time(live)

    async def _end_early(
        self, live: LiveJob, state: JobState, reason: str, node_state: NodeState, node_reason: str
    ) -> None:
        if live.attempts:
            self._kill(live, live.attempts, node_state, node_reason)
        elif live.all_went_well():  # it was decided when all was done
            await self._end_job(live, JobState.COMPLETED, "")
        else:
            await self._end_job(live, state, reason)

    def _keep_time(self, live: LiveJob) -> None:
        for name, attempt in live.attempts.items():
            limit, started = live.limit(attempt.key), live.seen[name].started_mono if name in live.seen else None
            if not limit or started is None:
                continue
            end = started + limit + _TIMEOUT_MARGIN
            if time.monotonic() < end:
                self.deadline = min(end, self.deadline or end)
            else:
                self._kill(live, [name], NodeState.TIMEOUT, over(limit))

    async def settle(self, live: LiveJob) -> None:
        if live.job.state is not JobState.RUNNING or live.ending or live.attempts or live.ready():
            return
        if (state := live.verdict()) is not None:
            well = state is JobState.COMPLETED
            told, recorded = ("", "") if well else (live.failures(), live.failures(recorded=True))
            await self._end_job(live, state, told, recorded)

    async def start(self, live: LiveJob, picks: Sequence[Pick]) -> None:
        """Ready nodes, or the preparation of a queued job."""
        if picks[0].key == PREPARE:
            await self._prepare(live)
            return
        attempts = []
        for pick in picks:
            node, planned = live.nodes[pick.key], live.planned(pick.key)
            assert planned is not None
            where = place(self._config, planned, live.job.user)
            cores = pick.cores if where.executor == LOCAL else where.cores
            attempts.append(live.node_attempt(node, cores, where.executor, where.memory, time.time()))
        await self._store.claim_nodes(self._db, attempts)
        for attempt in attempts:
            live.queue(attempt)
            self._order(live, attempt)

    async def _prepare(self, live: LiveJob) -> None:
        if not await self._move_job(live, JobState.PREPARING, ""):
            return
        self.orders.counts.append(partial(self._metrics.taken_up, live.job))
        executor = live.job.executor if self._config.slurm is not None else LOCAL
        memory = preparation(self._config, executor, live.job.user).memory
        attempt = live.prepare_attempt(executor, memory, time.time())
        await self._store.add_attempt(self._db, attempt)
        live.attempts[attempt.name] = attempt
        self._order(live, attempt)

    def _order(self, live: LiveJob, attempt: Attempt) -> None:
        self.orders.submit.append((self._executor, spec_of(self._config, live, attempt)))

    async def arrange(self, lives: Mapping[str, LiveJob], largest_array: int) -> None:
        """What starts in this turn goes together where it can."""
        specs = arranged([spec for _, spec in self.orders.submit], largest_array)
        joined = []
        for spec in specs:
            if spec.array:
                attempts = lives[spec.job_hash].attempts
                attempts[spec.name] = msgspec.structs.replace(
                    attempts[spec.name], array=spec.array, element=spec.element
                )
                joined.append(attempts[spec.name])
        if joined:
            await self._store.join_arrays(self._db, joined)
            self.orders.submit = [(self._executor, spec) for spec in specs]

    async def _end_attempt(self, live: LiveJob, attempt: Attempt, seen: Observation) -> None:
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
        if not await self._store.end_attempt(self._db, ended):
            return
        self._charged(live, ended)
        if attempt.key == PREPARE:
            await self._prepared(live, seen, recorded)
        else:
            live.elapsed[attempt.key] = seen.elapsed
            live.recorded[attempt.key] = recorded
            await self._move_node(live, attempt.key, state, reason)
            await self._retry(live, attempt, seen)

    async def _retry(self, live: LiveJob, attempt: Attempt, seen: Observation) -> None:
        """A node that was lost with what it lived in may start again, as often as the configuration says.

        So may one that ran out of memory, where the configuration gives it more.
        """
        node = live.nodes[attempt.key]
        more = more_memory(self._config, attempt.memory or 0) if seen.out_of_memory else None
        if not (seen.lost or more) or node.retries >= self._config.dispatch.retries or live.ending:
            return
        if await self._store.retry_node(self._db, node):
            live.retry(attempt.key, more)
            self._log(live, f"node={attempt.key} user={live.job.user or '-'} pending again {seen.reason}")

    async def _prepared(self, live: LiveJob, seen: Observation, recorded: str) -> None:
        if live.ending:
            return
        if seen.lost and live.job.retries < self._config.dispatch.retries:
            if await self._store.retry(self._db, live.job_hash, seen.reason):
                live.retry_job(seen.reason)
                self._log(live, f"user={live.job.user or '-'} queued again {seen.reason}")
            return
        if seen.state is not NodeState.SUCCESS or seen.plan is None or seen.raw_plan is None:
            state = JobState.REJECTED if seen.refused else JobState.FAILED
            await self._end_job(live, state, seen.reason or "The job could not be prepared.", recorded)
            return
        plan = seen.plan
        try:
            cores = self._placed(plan, live.job.user)
        except Misplaced as refusal:
            await self._end_job(live, JobState.REJECTED, str(refusal))
            return
        await self._store.set_plan(self._db, live.job_hash, seen.raw_plan, plan.nodes, cores)
        await self._move_job(live, JobState.RUNNING, "")
        live.take_plan(plan, await self._store.nodes(live.job_hash, self._db))

    def _placed(self, plan: Plan, user: str) -> dict[NodeKey, int]:
        """The cores of each node where it will run. Raises Misplaced if one could never run there."""
        found = {}
        for node in plan.nodes:
            where = place(self._config, node, user)
            if node.status is NodeState.PENDING:
                check(where, self._partitions, str(node.key))
                check_license(self._config, node)
            found[node.key] = where.cores
        return found

    def _kill(self, live: LiveJob, names: Iterable[str], state: NodeState, reason: str) -> None:
        fresh = [name for name in names if name not in live.killed]
        live.killed.update(fresh)
        if fresh:
            self.orders.cancel.append((self._executor, fresh, state, reason))

    async def _move_node(self, live: LiveJob, key: NodeKey, state: NodeState, reason: str) -> None:
        recorded = live.recorded.get(key, reason)
        if await self._store.move_node(self._db, live.job_hash, key, state, recorded):
            self._moved(live, key, state, reason, recorded)

    def _moved(self, live: LiveJob, key: NodeKey, state: NodeState, reason: str = "", recorded: str = "") -> None:
        live.change_node(key, state, reason)
        if state.done:
            self.orders.counts.append(partial(self._metrics.node_ended, state))
        self._log(live, f"node={key} user={live.job.user or '-'} {state} {recorded}")

    async def _move_job(self, live: LiveJob, state: JobState, reason: str, recorded: str = "") -> bool:
        recorded = recorded or reason
        if not await self._store.move(self._db, live.job_hash, state, recorded):
            return False
        live.change_job(state, reason)
        self._log(live, f"user={live.job.user or '-'} {state} {recorded}")
        return True

    async def _end_job(self, live: LiveJob, state: JobState, reason: str, recorded: str = "") -> None:
        """``reason`` is for whoever watches, ``recorded`` what may be written down of it, if that is less."""
        if await self._move_job(live, state, reason, recorded):
            self.orders.counts.append(partial(self._metrics.job_ended, state))
            self.orders.ended.append(live)

    def _log(self, live: LiveJob, text: str) -> None:
        self.orders.log.append(f"job={live.job_hash} {text}".rstrip())


def spec_of(config: Config, live: LiveJob, attempt: Attempt) -> Spec:
    """The order for an attempt; what was decided when it was written down is not decided again."""
    user = live.job.user
    where = preparation(config, attempt.executor, user)
    if (planned := live.planned(attempt.key)) is not None:
        with contextlib.suppress(Misplaced):  # the configuration has changed since
            where = place(config, planned, user)
    where = msgspec.structs.replace(
        where, executor=attempt.executor, cores=attempt.cores, memory=attempt.memory or where.memory
    )
    return live.spec(attempt, where)
