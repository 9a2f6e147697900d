"""Whose submissions go when. What Slurm answers is the tests' to say; threads, buckets and their clock are real."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from scd.config import Slurm
from scd.executors.base import Spec
from scd.executors.batches import Made
from scd.executors.controller import Controller
from scd.executors.outbox import Outbox
from scd.executors.places import Look
from scd.executors.submission import Stage, Submission
from scd.launcher.requests import MOST_SUBMISSIONS
from scd.model import NodeKey
from scd.placement import Placement
from scd.slurm_cli import Answer
from scd.slurm_site import Limit, Site
from scd.spool import JobDirectory
from scd.states import NodeState

pytestmark = pytest.mark.anyio

PARALLEL = 2
FULL = Answer(1, "", "sbatch: error: Resource temporarily unavailable")
UIDS = {"alice": 1001, "bob": 1002}


class Batches:
    """As executors.batches.Batches: each user has an account. ``answer`` says what sbatch answers to a call."""

    looks = 0

    def __init__(self, answer: Callable[[Sequence[Sequence[Spec]]], list[Answer]]):
        self.calls: list[Sequence[Sequence[Spec]]] = []
        self.made: list[str] = []
        self.rounds: list[tuple[int, int]] = []  # of how many, and how many at once
        self.most_at_once = 0
        self._at_once = 0
        self._answer = answer
        self._lock = threading.Lock()

    def make(self, specs: Sequence[Spec]) -> list[Made]:
        self.made += [spec.name for spec in specs]
        time.sleep(0.01)
        return [Made(True, UIDS[spec.user]) for spec in specs]

    def submit(self, parcels: Sequence[Sequence[Spec]], at_once: int) -> list[Answer]:
        with self._lock:
            self.calls.append(parcels)
            self.rounds.append((len(parcels), at_once))
            self._at_once += at_once
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return self._answer(parcels)
        finally:
            with self._lock:
                self._at_once -= at_once

    def give_up(self, job_hash: str, names: Sequence[str], state: NodeState, reason: str) -> list[bool]:
        raise NotImplementedError

    def cancel(self, user: str, ids: Sequence[str], *, pending: bool = False, gently: bool = False) -> None:
        raise NotImplementedError

    def probe(self, user: str, staged: JobDirectory, placement: Placement) -> Answer:
        raise NotImplementedError


def accepted(parcels: Sequence[Sequence[Spec]]) -> list[Answer]:
    return [Answer(0, "17\n", "") for _ in parcels]


def slowly(parcels: Sequence[Sequence[Spec]]) -> list[Answer]:
    time.sleep(0.01)
    return accepted(parcels)


def nodes(user: str, count: int, array: str = "") -> list[Submission]:
    job_hash = {"alice": "a", "bob": "b"}[user] * 32
    return [
        Submission(
            Spec(
                name=f"scd-{job_hash}-{n}.1", job_hash=job_hash, design="d", jobname="j", runtime="r",
                archive=f"{n}.1.tar.gz", generation=1, unpack=False, key=NodeKey("syn", str(n)), user=user,
                placement=Placement(executor="slurm"), array=array, element=n if array else 0,
            ),
            Path("nowhere"), 60.0, "boot",
        )
        for n in range(1, count + 1)
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def sending(
    batches: Batches, *submissions: Submission, limit: Limit | None = None, parallel: int = PARALLEL
) -> AsyncIterator[Outbox]:
    controller = Controller(Slurm(parallel=parallel))
    controller.site = Site(limit=limit, largest_array=1000)
    outbox = Outbox(controller, batches, parallel, lambda: None, lambda: None)
    for known in submissions:
        outbox.put(known)
    tasks = [asyncio.create_task(sender) for sender in outbox.senders()]
    try:
        yield outbox
    finally:
        for task in tasks:
            task.cancel()
        controller.close()


async def until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, complaint
        await asyncio.sleep(0.01)


def all_submitted(known: Sequence[Submission]) -> bool:
    return all(one.stage is Stage.SUBMITTED for one in known)


async def test_each_is_submitted_once_in_few_calls() -> None:
    batches, mine = Batches(accepted), nodes("alice", 180)
    async with sending(batches, *mine):
        await until(lambda: all_submitted(mine), "not all were submitted")
    sent = [spec.name for call in batches.calls for parcel in call for spec in parcel]
    assert sorted(sent) == sorted(known.name for known in mine)
    assert sorted(batches.made) == sorted(sent), "not one directory was made for each"
    assert max(len(call) for call in batches.calls) <= MOST_SUBMISSIONS
    assert len(batches.calls) < 5


async def test_all_who_have_nothing_to_do_share_what_there_is() -> None:
    batches, mine = Batches(slowly), nodes("alice", 20)
    async with sending(batches) as outbox:
        await asyncio.sleep(0)
        for known in mine:
            outbox.put(known)
        await until(lambda: all_submitted(mine), "not all were submitted")
    assert [len(call) for call in batches.calls] == [10, 10]


async def test_who_has_much_to_submit_is_not_waited_for() -> None:
    batches, many, few = Batches(slowly), nodes("alice", 500), nodes("bob", 1)
    async with sending(batches, *many, *few):
        await until(lambda: all_submitted([*many, *few]), "not all were submitted")
    users = [call[0][0].user for call in batches.calls]
    assert "bob" in users[: PARALLEL + 1], "he waited for all that alice has"


@pytest.mark.parametrize("parallel", [1, 2, 3, 8])
async def test_sbatch_is_called_so_often_at_once_and_no_more(parallel: int) -> None:
    batches, many, few = Batches(slowly), nodes("alice", 60), nodes("bob", 7)
    async with sending(batches, *many, *few, parallel=parallel):
        await until(lambda: all_submitted([*many, *few]), "not all were submitted")
    assert batches.most_at_once == parallel


async def test_what_differs_in_more_than_its_node_goes_by_another_call() -> None:
    batches, mine, his = Batches(accepted), nodes("alice", 6), nodes("bob", 6)
    async with sending(batches, *[one for pair in zip(mine, his, strict=True) for one in pair]):
        await until(lambda: all_submitted([*mine, *his]), "not all were submitted")
    for call in batches.calls:
        assert len({spec.job_hash for parcel in call for spec in parcel}) == 1


async def test_an_array_is_one_submission_and_goes_alone() -> None:
    array, single = nodes("alice", 5, "scd-x-1.1-array"), nodes("alice", 3)
    batches = Batches(accepted)
    async with sending(batches, *array, *single):
        await until(lambda: all_submitted([*array, *single]), "not all were submitted")
    assert sorted([len(parcel) for parcel in call] for call in batches.calls) == [[1, 1, 1], [5]]


async def test_what_waits_is_missed_by_nobody() -> None:
    """It is not in Slurm, as everybody knows: looked for in vain, it would be submitted once more beside itself."""
    batches, mine = Batches(lambda parcels: [*accepted(parcels)[:1], FULL]), nodes("alice", 8)
    async with sending(batches, *mine):
        await until(lambda: any(one.stage is Stage.SUBMITTED for one in mine), "nothing was submitted")
        await until(lambda: any(one.seen.waiting for one in mine), "nobody waits")
        now = time.monotonic()
        for one in mine:
            one.judge([], Look(), now)
        stages = {one.stage: one.missing for one in mine}
    assert stages == {Stage.SUBMITTED: now, Stage.WAITING: None}


@pytest.mark.parametrize("parallel", [3, 5, 7, 8])
async def test_rounds_end_about_together(parallel: int) -> None:
    """Each has its part of what there is, by what is called at once for it."""
    batches, mine = Batches(slowly), nodes("alice", 100)
    async with sending(batches, *mine, parallel=parallel):
        await until(lambda: all_submitted(mine), "not all were submitted")
    assert max(count / at_once for count, at_once in batches.rounds) <= 100 / parallel + 1


async def test_a_round_for_which_little_is_called_at_once_is_small() -> None:
    """Else it would go on alone when all others have ended."""
    batches, few, many = Batches(slowly), nodes("bob", 1), nodes("alice", 500)
    async with sending(batches, *few, *many, parallel=4):
        await until(lambda: all_submitted([*few, *many]), "not all were submitted")
    assert all(count <= MOST_SUBMISSIONS / 2 * at_once for count, at_once in batches.rounds)


async def test_who_has_no_request_left_is_waited_for_by_nobody_else() -> None:
    """Ten requests are answered at once, then one every ten seconds."""
    batches, many, few = Batches(accepted), nodes("alice", 40), nodes("bob", 2)
    async with sending(batches, *many, limit=Limit(10, 1, 10)) as outbox:
        await asyncio.sleep(0.3)
        before = sum(one.stage is Stage.SUBMITTED for one in many)
        for known in few[:1]:
            outbox.put(known)
        await until(lambda: all_submitted(few[:1]), "bob waits for alice's requests")
    assert before < 5, "more was sent than Slurm answers"
    assert {one.stage for one in many} == {Stage.SUBMITTED, Stage.WAITING}, "what waits is not known to wait"


async def test_a_full_queue_holds_up_nobody_else() -> None:
    def full_for_alice(parcels: Sequence[Sequence[Spec]]) -> list[Answer]:
        return [FULL] if parcels[0][0].user == "alice" else accepted(parcels)

    batches, many, few = Batches(full_for_alice), nodes("alice", 40), nodes("bob", 4)
    async with sending(batches, *many) as outbox:
        await until(lambda: all("takes no more" in one.seen.waiting for one in many), "nobody says why they wait")
        for known in few:
            outbox.put(known)
        await until(lambda: all_submitted(few), "bob waits for alice's room")
    assert {one.stage for one in many} == {Stage.WAITING}


async def test_what_a_call_did_not_come_to_is_submitted_by_another() -> None:
    batches, mine = Batches(lambda parcels: accepted(parcels)[:1]), nodes("alice", 9)
    async with sending(batches, *mine):
        await until(lambda: all_submitted(mine), "some were forgotten")


async def test_after_an_answer_that_did_not_come_the_others_are_submitted() -> None:
    """What was asked is uncertain; what was not is not."""
    unanswered = iter([[Answer(None, "", "")]])
    batches, mine = Batches(lambda parcels: next(unanswered, None) or accepted(parcels)), nodes("alice", 4)
    async with sending(batches, *mine):
        await until(lambda: all(one.stage is not Stage.WAITING for one in mine), "some were forgotten")
        await until(lambda: sum(one.stage is Stage.SUBMITTED for one in mine) == 3, "more than one is uncertain")
    assert [one.stage for one in mine].count(Stage.UNCERTAIN) == 1
