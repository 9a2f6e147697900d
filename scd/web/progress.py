"""What a poller is told, and when.

A poll that would bring nothing new is held back until something changes, a few seconds at most: the client sees a
change at once and asks seldom. The client shows a job's last node states, and the reason of a failure, only while the
job reads ``running``; so before the final status it gets each of them once that way. Why a running job stands still is
told in the same way, once its states are.
"""

import json
import time

import msgspec

from ..board import Board, JobView
from ..states import JobState, NodeState
from ..units import format_elapsed

HOLD = 5.0  # seconds; the client gives up a read after 10
_SPACING = 0.5  # between answers while a job is busy
_FAREWELL = 15.0  # a client that did not ask for so long after the end has left
_MAX_WATCHERS = 10_000

Answer = dict[str, object]


class Watcher(msgspec.Struct):
    """What one client was last told of one job."""

    version: int = 0
    waiting: str = ""  # the reason for standing still that it was told last
    answered: float = 0.0
    states_told: bool = False
    reason_told: bool = False


class Progress:
    def __init__(self, board: Board, hold: float = HOLD):
        self._board = board
        self._hold = hold
        self._watchers: dict[tuple[str, str], Watcher] = {}
        self._stopping = False

    def stop(self) -> None:
        """Let every held poll go: the server is about to stop."""
        self._stopping = True
        self._board.shake()

    @property
    def stopping(self) -> bool:
        return self._stopping

    async def watch(self, job_hash: str, client: str) -> Answer | None:
        """The next answer for ``client``, None if the job is not on the board."""
        view = self._board.get(job_hash)
        if view is None:
            return None
        watcher = self._watcher(job_hash, client)
        deadline = time.monotonic() + self._hold
        while not self._stopping:
            left = deadline - time.monotonic()
            fresh = view.version != watcher.version or view.state.ended or view.waiting != watcher.waiting
            wait = 0.0 if view.state.ended else watcher.answered + _SPACING - time.monotonic()
            if left <= 0 or (fresh and wait <= 0):
                break
            await self._board.changed(job_hash, min(left, wait) if fresh else left)
            view = self._board.get(job_hash) or view
        news = view.version != watcher.version
        watcher.version, watcher.answered = view.version, time.monotonic()
        if not news and not view.state.ended and view.waiting != watcher.waiting:
            watcher.waiting = view.waiting
            if view.waiting:  # a text takes the place of the states, which it has: see the module's docstring
                return {"status": "running", "message": plain(view.waiting)}
        return self._answer(view, watcher)

    def _watcher(self, job_hash: str, client: str) -> Watcher:
        if len(self._watchers) >= _MAX_WATCHERS:
            del self._watchers[next(iter(self._watchers))]
        return self._watchers.setdefault((job_hash, client), Watcher())

    def _answer(self, view: JobView, watcher: Watcher) -> Answer:
        if not view.state.ended:
            watcher.states_told = watcher.reason_told = False
            return running(view)
        if (self._board.ended_for(view.job_hash) or 0.0) < _FAREWELL and view.state is not JobState.REJECTED:
            if view.nodes and not watcher.states_told:
                watcher.states_told = True
                return running(view)
            if view.reason and not watcher.reason_told:
                watcher.reason_told = True
                return {"status": "running", "message": plain(view.reason)}
        return ended(view.state, view.reason)


def running(view: JobView) -> Answer:
    """The node entries stand in ``message``, where the client reads them, and beside it, as the specification says."""
    if not view.nodes:
        return {"status": "running", "message": plain(view.reason or "waiting")}
    nodes: dict[str, dict[str, str]] = {"null": {"status": str(NodeState.SUCCESS)}}
    for key, node in view.nodes.items():
        if node.visible:
            entry = nodes[key.name] = {"status": node.state.wire}
            if (seconds := node.seconds()) is not None:
                entry["elapsed_time"] = format_elapsed(seconds)
    return {**nodes, "status": "running", "message": nodes}


def ended(state: JobState, reason: str) -> Answer:
    return {"status": str(state), "message": reason or f"Job {state}."}


def plain(text: str) -> str:
    """A text that is not JSON by chance: the client would try to read it as node entries."""
    try:
        json.loads(text)  # as the client does, which takes NaN for JSON too
    except (ValueError, RecursionError):
        return text
    return f"({text})"
