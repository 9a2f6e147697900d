"""The ledger: no second is lost or charged twice, whatever starts, ends, crashes and rolls over in between."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scd.config import Config, Duration, Settings, SharedLimits, User
from scd.model import NodeKey, PlanNode, attempt_name
from scd.share import Running
from scd.spending import Spending
from scd.states import JobState, NodeState
from scd.store import Database, JobStore, UsageStore
from scd.store.usage import EVER

from .rows import HASH, attempt, job

PERIOD = 100.0
BEGIN = 1.7e9 - 1.7e9 % PERIOD
steps = st.one_of(
    st.tuples(st.just("start"), st.integers(1, 4)),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("again"), st.integers(0, 5)),  # the same end is heard once more, as after a restart
    st.tuples(st.just("roll back"), st.integers(0, 5)),  # the end's transaction is lost with the daemon
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("pass"), st.integers(1, 170)),
)


class World:
    """A store, its users' nodes, and the sums as they must be."""

    def __init__(self, place: Path):
        self.path = place / "scd.db"
        self.now = BEGIN
        self.live: list[tuple[str, float, int]] = []  # name, start, cores
        self.ended: list[tuple[str, float, float, int]] = []  # name, start, end, cores
        self.count = 0

    async def open(self) -> None:
        self.database = await Database.open(self.path)
        self.store, self.usage = JobStore(self.database), UsageStore(self.database)

    async def begin(self) -> None:
        await self.open()
        async with self.database.transaction() as db:
            await self.store.add(db, job())
            await self.store.move(db, HASH, JobState.PREPARING)
            await self.store.move(db, HASH, JobState.RUNNING)

    async def start(self, cores: int) -> None:
        self.count += 1
        name = attempt_name(HASH, self.count, 1)
        async with self.database.transaction() as db:
            await self.store.add_attempt(db, attempt(name, step=f"n{self.count}", cores=cores))
            await self.store.start_attempt(db, name, self.now)
        self.live.append((name, self.now, cores))

    async def end(self, which: int, *, keep: bool) -> None:
        if not self.live:
            return
        name, start, cores = self.live[which % len(self.live)]
        if await self.close(name, start, self.now, cores, keep=keep):
            self.live.remove((name, start, cores))
            self.ended.append((name, start, self.now, cores))

    async def again(self, which: int) -> None:
        if self.ended:
            name, start, end, cores = self.ended[which % len(self.ended)]
            assert not await self.close(name, start, end, cores, keep=True), "an end was taken twice"

    async def close(self, name: str, start: float, end: float, cores: int, *, keep: bool) -> bool:
        done = attempt(
            name, step="n", cores=cores, started=start, ended=end, elapsed=end - start, state=NodeState.SUCCESS
        )
        try:
            async with self.database.transaction() as db:
                charged = await self.store.end_attempt(db, done)
                if not keep:
                    raise ConnectionError
        except ConnectionError:
            return False
        return charged

    async def act(self, what: str, number: int) -> None:
        match what:
            case "start":
                await self.start(number)
            case "end":
                await self.end(number, keep=True)
            case "roll back":
                await self.end(number, keep=False)
            case "again":
                await self.again(number)
            case "pass":
                self.now += number
            case "restart":
                await self.database.close()
                await self.open()

    def owed(self, since: float, until: float) -> float:
        return sum(max(0.0, min(end, until) - max(start, since)) * cores for _, start, end, cores in self.ended)

    async def check(self) -> None:
        whole, _ = await self.usage.spent(["alice"], 0, EVER)
        assert whole == pytest.approx(self.owed(0, EVER)), "seconds were lost, or charged twice"
        parts = []
        at = BEGIN
        while at <= self.now:
            part, _ = await self.usage.spent(["alice"], at, at + PERIOD)
            assert part == pytest.approx(self.owed(at, at + PERIOD), abs=1e-3), "a period has what is another's"
            parts.append(part)
            at += PERIOD
        assert sum(parts) == pytest.approx(whole), "the periods do not add up"


@settings(max_examples=60)
@given(st.lists(steps, max_size=25))
def test_any_interleaving_adds_up(script: list[tuple[str, int]]) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as place:
            world = World(Path(place))
            await world.begin()
            try:
                for what, number in script:
                    await world.act(what, number)
                await world.check()
            finally:
                await world.database.close()

    asyncio.run(play())


@pytest.mark.anyio
async def test_live_nodes_count_until_they_are_charged_and_then_once(tmp_path: Path, store: JobStore) -> None:
    limits = SharedLimits(compute_time=Duration(1000), period=Duration(1e9))
    config = Config(users={"alice": User(password_hash="x")}, limits=Config().limits)
    settings_ = Settings(config)
    settings_._budgets["alice"] = (config.budgets_of("alice")[0]._replace(limits=limits),)
    spending = Spending(settings_, UsageStore(store.database))
    async with store.database.transaction() as db:
        await store.add(db, job())
        await store.move(db, HASH, JobState.PREPARING)
        await store.move(db, HASH, JobState.RUNNING)
        planned = PlanNode("syn", "0", 0, NodeState.PENDING, ())
        await store.set_plan(db, HASH, b"{}", [planned], {NodeKey("syn", "0"): 2})
        await store.add_attempt(db, attempt())
        found, left = await spending.exhausted(db, ["alice"], {"alice": [Running(2, 300.0)]})
        assert found == {}
        assert left == pytest.approx(200.0), "400 core-seconds are left for two cores"
        ended = attempt(ended=1.7e9, elapsed=300.0, state=NodeState.SUCCESS)
        assert await store.end_attempt(db, ended)
        spending.charge("alice", 1.7e9, 300.0, 2)
        found, left = await spending.exhausted(db, ["alice"], {"alice": [Running(2, 100.0)]})
        assert left == pytest.approx(100.0)
        found, _ = await spending.exhausted(db, ["alice"], {"alice": [Running(2, 200.0)]})
        assert "out of compute time: 00:16:40 of 00:16:40 core time used" in found["alice"]
        spending.forget()
        _, left = await spending.exhausted(db, ["alice"], {"alice": [Running(2, 100.0)]})
        assert left == pytest.approx(100.0), "read again it is the same"
