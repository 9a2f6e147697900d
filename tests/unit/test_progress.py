"""What a poller is told, and when: with a real board."""

import asyncio
import time

import pytest

from scd.board import Board, JobView, NodeView
from scd.model import NodeKey
from scd.states import JobState, NodeState
from scd.web.progress import Progress, plain, running

pytestmark = pytest.mark.anyio
HASH = "ab" * 16
SYN = NodeKey("syn", "0")


class Job:
    """A job on a board, changed as the scheduler would."""

    def __init__(self, hold: float = 0.3):
        self.board = Board()
        self.progress = Progress(self.board, hold)
        self.version = 0

    def now(self, state: JobState, reason: str = "", **nodes: NodeState) -> None:
        self.version += 1
        views = {NodeKey(step, "0"): NodeView(word) for step, word in nodes.items()}
        view = JobView(HASH, "", state, reason, views, self.version)
        self.board.publish(HASH, self.version, lambda: view, ended=state.ended)

    async def poll(self, client: str = "me") -> dict[str, object]:
        answer = await self.progress.watch(HASH, client)
        assert answer is not None
        return answer


async def test_an_unknown_job_is_not_on_the_board() -> None:
    assert await Job().progress.watch(HASH, "me") is None


async def test_the_first_answer_comes_at_once_and_the_next_with_news() -> None:
    job = Job(hold=5)
    job.now(JobState.QUEUED, "queued, position 1")
    begin = time.monotonic()
    assert (await job.poll())["message"] == "queued, position 1"
    assert time.monotonic() - begin < 1
    waiting = asyncio.create_task(job.poll())
    await asyncio.sleep(0.1)
    assert not waiting.done(), "nothing has changed: the answer is held"
    job.now(JobState.RUNNING, syn=NodeState.RUNNING)
    answer = await asyncio.wait_for(waiting, 2)
    assert answer["syn0"] == {"status": "running"}


async def test_without_news_an_answer_comes_in_time() -> None:
    job = Job(hold=0.3)
    job.now(JobState.RUNNING, syn=NodeState.RUNNING)
    await job.poll()
    begin = time.monotonic()
    await job.poll()
    assert 0.25 < time.monotonic() - begin < 3


async def test_a_busy_job_is_not_reported_node_by_node() -> None:
    job = Job(hold=5)
    job.now(JobState.RUNNING, a=NodeState.RUNNING)
    await job.poll()
    waiting = asyncio.create_task(job.poll())
    for _ in range(5):
        await asyncio.sleep(0.02)
        job.now(JobState.RUNNING, a=NodeState.SUCCESS)
    await asyncio.sleep(0.05)
    assert not waiting.done(), "answers keep a distance"
    assert (await asyncio.wait_for(waiting, 2))["a0"] == {"status": "success"}


async def test_the_end_is_told_in_three_answers_to_each_client() -> None:
    job = Job()
    job.now(JobState.RUNNING, syn=NodeState.RUNNING)
    await job.poll("one")
    job.now(JobState.FAILED, "syn/0 failed", syn=NodeState.ERROR)
    for client in ("one", "two"):
        states, reason, final, again = [await job.poll(client) for _ in range(4)]
        assert (states["status"], states["syn0"]) == ("running", {"status": "error"})
        assert (reason["status"], reason["message"]) == ("running", "syn/0 failed")
        assert final == again == {"status": "failed", "message": "syn/0 failed"}


async def test_a_good_end_has_no_reason_to_tell() -> None:
    job = Job()
    job.now(JobState.COMPLETED, syn=NodeState.SUCCESS)
    first, second = await job.poll(), await job.poll()
    assert first["status"] == "running"
    assert second == {"status": "completed", "message": "Job completed."}


async def test_a_rejected_job_says_so_at_once() -> None:
    job = Job()
    job.now(JobState.REJECTED, "no such tool")
    assert await job.poll() == {"status": "rejected", "message": "no such tool"}


async def test_long_after_the_end_there_is_only_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job()
    job.now(JobState.FAILED, "why", syn=NodeState.ERROR)
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 60)
    assert (await job.poll())["status"] == "failed"


async def test_a_resumed_job_is_told_anew() -> None:
    job = Job()
    job.now(JobState.FAILED, "why", syn=NodeState.ERROR)
    for _ in range(3):
        await job.poll()
    job.now(JobState.RUNNING, syn=NodeState.RUNNING)
    assert (await job.poll())["status"] == "running"
    job.now(JobState.COMPLETED, syn=NodeState.SUCCESS)
    assert (await job.poll())["status"] == "running"
    assert (await job.poll())["status"] == "completed"


async def test_a_stop_lets_every_held_poll_go() -> None:
    job = Job(hold=30)
    job.now(JobState.RUNNING, syn=NodeState.RUNNING)
    await job.poll()
    waiting = asyncio.create_task(job.poll())
    await asyncio.sleep(0.05)
    job.progress.stop()
    assert (await asyncio.wait_for(waiting, 2))["status"] == "running"


async def test_nodes_that_the_client_does_not_know_are_not_named() -> None:
    view = JobView(HASH, "", JobState.RUNNING, "", {
        SYN: NodeView(NodeState.SUBMITTED, elapsed=None, started_mono=time.monotonic() - 3700),
        NodeKey("other", "0"): NodeView(NodeState.PENDING, visible=False),
    }, 1)  # fmt: skip
    answer = running(view)
    assert answer["message"] == {
        "null": {"status": "success"}, "syn0": {"status": "queued", "elapsed_time": "1:01:40"},
    }  # fmt: skip
    assert answer["syn0"] == {"status": "queued", "elapsed_time": "1:01:40"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a text", "a text"),
        ("3", "(3)"),
        ("null", "(null)"),
        ("NaN", "(NaN)"),
        ('"x"', '("x")'),
        ("[1]", "([1])"),
        ('{"a": 1}', '({"a": 1})'),
    ],
)
async def test_a_text_that_looks_like_json_is_wrapped(text: str, told: str) -> None:
    """The client would read it as node entries, and crash."""
    assert plain(text) == told


async def test_why_nodes_wait_elsewhere_is_told_once_and_the_states_follow() -> None:
    job = Job(hold=0.3)

    def publish(note: str) -> None:
        job.version += 1
        view = JobView(HASH, "", JobState.RUNNING, "", {SYN: NodeView(NodeState.SUBMITTED)}, job.version, waiting=note)
        job.board.publish(HASH, job.version, lambda: view, ended=False)

    publish("syn/0: waiting for resources")
    assert (await job.poll())["syn0"] == {"status": "queued"}
    assert (await job.poll())["message"] == "syn/0: waiting for resources"
    publish("waiting for Slurm")
    assert (await job.poll())["syn0"] == {"status": "queued"}
    assert (await job.poll())["message"] == "waiting for Slurm"
