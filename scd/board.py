"""What is known of unfinished jobs, published by the scheduler for whoever answers questions about them."""

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec

from .model import NodeKey
from .states import JobState, NodeState


class NodeView(msgspec.Struct, frozen=True):
    state: NodeState
    visible: bool = True  # to the client
    started_mono: float | None = None
    elapsed: float | None = None  # of a node that ended

    def seconds(self) -> float | None:
        """How long it has run, by the monotonic clock."""
        if self.elapsed is not None:
            return self.elapsed
        return None if self.started_mono is None else time.monotonic() - self.started_mono


class JobView(msgspec.Struct, frozen=True):
    """One job at one moment. ``version`` differs after each change that a watcher could see."""

    job_hash: str
    user: str
    state: JobState
    reason: str
    nodes: Mapping[NodeKey, NodeView]
    version: int
    waiting: str = ""  # why no node of a job that runs is started, or why they wait elsewhere


class Waits(msgspec.Struct, frozen=True):
    """Why an unfinished job waits, and each of its nodes that does, by ``step/index``; in words for the user."""

    reason: str = ""
    nodes: Mapping[str, str] = {}


class Board:
    """The views of unfinished jobs, and of those that ended in the last minutes."""

    def __init__(self, keep: float = 600.0):
        self._keep = keep
        self._versions: dict[str, int] = {}
        self._makers: dict[str, Callable[[], JobView]] = {}
        self._views: dict[str, JobView] = {}  # those that were asked for since the last change
        self._ended: dict[str, float] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def get(self, job_hash: str) -> JobView | None:
        if job_hash not in self._views and job_hash in self._makers:
            self._views[job_hash] = self._makers[job_hash]()
        return self._views.get(job_hash)

    def ended_for(self, job_hash: str) -> float | None:
        """Seconds since the job was seen to end, None if it was not."""
        ended = self._ended.get(job_hash)
        return None if ended is None else time.monotonic() - ended

    def publish(self, job_hash: str, version: int, make: Callable[[], JobView], *, ended: bool) -> None:
        """Announce a job's ``version``. Its view is made when somebody asks, or at once if it is the last."""
        if self._versions.get(job_hash) == version:
            return
        self._versions[job_hash] = version
        if ended:
            view = make()
            self._makers[job_hash] = lambda: view
            self._ended.setdefault(job_hash, time.monotonic())
        else:
            self._makers[job_hash] = make
            self._ended.pop(job_hash, None)
        self._views.pop(job_hash, None)
        for event in self._waiting.get(job_hash, ()):
            event.set()
        self._forget()

    def drop(self, job_hash: str) -> None:
        for known in (self._versions, self._makers, self._views, self._ended):
            known.pop(job_hash, None)

    def shake(self) -> None:
        """Wake everybody who waits for a change."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def changed(self, job_hash: str, timeout: float) -> None:
        """Return at the job's next change, or after ``timeout`` seconds."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(job_hash, set())
        waiting.add(event)
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(job_hash, None)

    def _forget(self) -> None:
        now = time.monotonic()
        while self._ended and now - (oldest := next(iter(self._ended.items())))[1] > self._keep:
            self.drop(oldest[0])
