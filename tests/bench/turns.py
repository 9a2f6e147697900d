"""What a turn of the scheduler costs: one job of 5,000 nodes and 49 users with 20 jobs each, over real SQLite.

``python -m tests.bench.turns [NODES [USERS]]``. Nodes end at once, so that turns are all there is to measure. Printed:
how long turns take, and for how long they keep the event loop from everybody else.
"""

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from scd.board import Board
from scd.config import Config, Local, Settings, User
from scd.executors.base import Observation, Spec
from scd.metrics import Metrics
from scd.model import Job, NodeKey, Plan, PlanNode
from scd.scheduler import Scheduler
from scd.states import JobState, NodeState
from scd.store import Database, JobStore, UsageStore

_CORES = 16


class AtOnce:
    """An executor whose attempts have succeeded when they are first looked at."""

    name = "local"

    def __init__(self, plans: dict[str, Plan], scheduler: Scheduler):
        self._plans = plans
        self._scheduler = scheduler
        self._seen: dict[str, Observation] = {}

    async def submit(self, spec: Spec) -> str:
        now = time.time()
        seen = Observation(started=now, started_mono=time.monotonic(), ended=now, state=NodeState.SUCCESS, elapsed=0.01)
        if spec.key is None:
            seen.plan = self._plans[spec.job_hash]
            seen.raw_plan = msgspec.json.encode(seen.plan)
        self._seen[spec.name] = seen
        self._scheduler.wake()
        return spec.name

    async def poll(self, handles: Iterable[str]) -> dict[str, Observation]:
        return {name: self._seen[name] for name in handles if name in self._seen}

    async def cancel(self, handles: Iterable[str], state: NodeState, reason: str) -> None:
        raise NotImplementedError

    async def trouble(self) -> str:
        return ""

    async def snapshot(self, job_hash: str, key: NodeKey) -> str | None:
        raise NotImplementedError

    async def tail(self, job_hash: str, key: NodeKey, offset: int) -> dict[str, Any] | None:
        raise NotImplementedError

    async def release(self, job_hash: str) -> None:
        self._plans.pop(job_hash, None)


def fan(nodes: int) -> Plan:
    """One node, then all others but the last beside each other."""
    first, last = NodeKey("first", "0"), NodeKey("last", "0")
    middle = [NodeKey("try", str(n)) for n in range(max(0, nodes - 2))]
    found = [PlanNode("first", "0", 0, NodeState.PENDING, (), cores=1)]
    found += [PlanNode(key.step, key.index, 1, NodeState.PENDING, (first,), cores=1) for key in middle]
    found.append(PlanNode("last", "0", 2, NodeState.PENDING, tuple(middle) or (first,), cores=1))
    return Plan("top", "job0", "flow", tuple(found), (last,))


def job(job_hash: str, user: str, at: float) -> Job:
    return Job(
        job_hash=job_hash, user=user, state=JobState.QUEUED, reason="", design="top", jobname="job0", flow="flow",
        runtime="default", created=at, started=None, ended=None, upload_bytes=1, digest="", answered=True,
        cancel_reason=None, generation=1, plan=None,
    )  # fmt: skip


async def measure(nodes: int, users: int, place: Path) -> None:
    names = [f"user{n}" for n in range(users)]
    settings = Settings(Config(local=Local(cores=_CORES), users={name: User(password_hash="") for name in names}))
    async with await Database.open(place / "scd.db") as database:
        store = JobStore(database)
        scheduler = Scheduler(settings, store, UsageStore(database), Board(), Metrics())
        plans = {f"{0:032x}": fan(nodes)}
        jobs = [job(f"{0:032x}", names[0], 0)]
        for number in range(20 * (users - 1)):
            plans[f"{number + 1:032x}"] = fan(5)
            jobs.append(job(f"{number + 1:032x}", names[1 + number % (users - 1)], number + 1))
        async with database.transaction() as db:
            for one in jobs:
                await store.add(db, one)
        scheduler.use(AtOnce(plans, scheduler))
        await scheduler.load()
        turns: list[float] = []
        turn = scheduler._turn

        async def timed() -> None:
            begin = time.perf_counter()
            await turn()
            turns.append(time.perf_counter() - begin)

        scheduler._turn = timed  # type: ignore[method-assign]
        gaps: list[float] = []
        ticking = asyncio.create_task(_tick(gaps))
        running = asyncio.create_task(scheduler.run())
        while await store.unfinished():  # noqa: ASYNC110 - the database says so, not the scheduler
            await asyncio.sleep(0.5)
        for task in (ticking, running):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        print(f"{nodes} nodes, {users} users, {len(jobs)} jobs, {_CORES} cores: {len(turns)} turns")
        for what, values in (("a turn", turns), ("the loop was kept for", gaps)):
            middle, late = statistics.median(values), statistics.quantiles(values, n=100)[98]
            print(f"  {what}: median {middle * 1e3:.1f} ms, 99% {late * 1e3:.1f} ms, most {max(values) * 1e3:.1f} ms")


async def _tick(gaps: list[float]) -> None:
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        gaps.append(time.perf_counter() - begin - 0.001)


def main() -> None:
    nodes, users = (int(word) for word in (*sys.argv[1:], *("5000", "50")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as place:
        asyncio.run(measure(nodes, users, Path(place)))


if __name__ == "__main__":
    main()
