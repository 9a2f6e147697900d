"""What a queue elsewhere calls a node, and a database that is not as the scheduler remembers it: a real scheduler and
store, and an executor whose word is the tests' to say.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import msgspec
import pytest

from scd.board import Board
from scd.config import Config, Local, Settings
from scd.executors.base import Observation, Spec
from scd.metrics import Metrics
from scd.model import NodeKey, Plan, PlanNode
from scd.scheduler import Scheduler
from scd.states import JobState, NodeState
from scd.store import JobStore, UsageStore

from .rows import HASH, job

pytestmark = pytest.mark.anyio

WIDTH = 12  # fewer than one user may run


class Queue:
    """An executor that says what it was told to say."""

    name = "slurm"

    def __init__(self) -> None:
        self.seen: dict[str, Observation] = {}
        self.specs: dict[str, Spec] = {}

    async def submit(self, spec: Spec) -> str:
        self.specs[spec.name] = spec
        self.seen.setdefault(spec.name, Observation())
        return spec.name

    async def poll(self, handles: Iterable[str]) -> dict[str, Observation]:
        return {name: msgspec.structs.replace(self.seen[name]) for name in handles if name in self.seen}

    async def trouble(self) -> str:
        return ""

    async def cancel(self, handles: Iterable[str], state: NodeState, reason: str) -> None:
        raise NotImplementedError

    async def snapshot(self, job_hash: str, key: NodeKey) -> str | None:
        raise NotImplementedError

    async def tail(self, job_hash: str, key: NodeKey, offset: int) -> dict[str, Any] | None:
        raise NotImplementedError

    async def release(self, job_hash: str) -> None:
        raise NotImplementedError


class World:
    def __init__(self, store: JobStore):
        self.store = store
        self.queue = Queue()
        settings = Settings(Config(local=Local(cores=WIDTH)))
        self.scheduler = Scheduler(settings, store, UsageStore(store.database), Board(), Metrics())
        self.scheduler.use(self.queue)

    async def states(self) -> list[NodeState]:
        return [node.state for node in await self.store.nodes(HASH)]

    async def until(self, condition: Callable[[list[NodeState]], bool], complaint: str) -> None:
        deadline = time.monotonic() + 10
        while not condition(await self.states()):
            assert time.monotonic() < deadline, f"{complaint}: {await self.states()}"
            self.scheduler.wake()
            await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.scheduler.run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def world(store: JobStore) -> World:
    """A job of nodes that wait for nothing, which its scheduler has read."""
    nodes = tuple(PlanNode("syn", str(n), 0, NodeState.PENDING, ()) for n in range(WIDTH))
    plan = Plan("d", "job0", "f", nodes, tuple(node.key for node in nodes))
    async with store.database.transaction() as db:
        await store.add(db, job())
        await store.move(db, HASH, JobState.PREPARING)
        await store.set_plan(db, HASH, msgspec.json.encode(plan), nodes, {node.key: 1 for node in nodes})
        await store.move(db, HASH, JobState.RUNNING)
    found = World(store)
    await found.scheduler.load()
    return found


async def test_all_that_came_into_the_queue_are_submitted(world: World) -> None:
    async with world.running():
        await world.until(lambda states: set(states) == {NodeState.QUEUED}, "not all were started")
        for number, seen in enumerate(world.queue.seen.values(), 100):
            seen.handle = str(number)
        await world.until(lambda states: set(states) == {NodeState.SUBMITTED}, "not all are known to be in the queue")
    handles = sorted(attempt.handle or "" for attempt in await world.store.attempts(HASH))
    assert handles == [str(number) for number in range(100, 100 + WIDTH)]
    events = [event.new for event in await world.store.events(HASH) if event.step]
    assert [events.count(state) for state in ("pending", "queued", "submitted")] == [WIDTH] * 3


async def test_one_that_is_submitted_again_while_it_runs_goes_on_running(world: World) -> None:
    async with world.running():
        await world.until(lambda states: set(states) == {NodeState.QUEUED}, "not all were started")
        first, *others = world.queue.seen.values()
        first.handle, first.started, first.started_mono = "17", time.time(), time.monotonic()
        await world.until(lambda states: NodeState.RUNNING in states, "it does not run")
        first.handle = "18"
        for seen in others:
            seen.handle = "19"
        await world.until(lambda states: states.count(NodeState.SUBMITTED) == WIDTH - 1, "the others are forgotten")
        assert (await world.states()).count(NodeState.RUNNING) == 1
    assert {attempt.handle for attempt in await world.store.attempts(HASH)} == {"18", "19"}


async def test_a_database_that_says_otherwise_is_believed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody mended it by hand while scd ran, for instance: nothing is started on the strength of what was."""
    async with world.store.database.transaction() as db:
        await db.execute("""UPDATE nodes SET state = 'skipped' WHERE "index" = '3'""")
    async with world.running():
        await world.until(lambda states: states.count(NodeState.QUEUED) == WIDTH - 1, "it does not go on")
    assert NodeKey("syn", "3") not in {spec.key for spec in world.queue.specs.values()}
    assert f"{WIDTH - 1} of {WIDTH} rows were as they should be" in caplog.text
