"""What is known of unfinished jobs, published by the scheduler for whoever answers questions about them."""

import asyncio
import time
from collections.abc import Mapping

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
    """One job at one moment. ``version`` grows with each change that a watcher could see."""

    job_hash: str
    user: str
    state: JobState
    reason: str
    nodes: Mapping[NodeKey, NodeView]
    version: int = 0


class Board:
    """The views of unfinished jobs, and of those that ended in the last minutes."""

    def __init__(self, keep: float = 600.0):
        self._keep = keep
        self._views: dict[str, JobView] = {}
        self._ended: dict[str, float] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def get(self, job_hash: str) -> JobView | None:
        return self._views.get(job_hash)

    def ended_for(self, job_hash: str) -> float | None:
        """Seconds since the job was seen to end, None if it was not."""
        ended = self._ended.get(job_hash)
        return None if ended is None else time.monotonic() - ended

    def publish(self, view: JobView) -> None:
        old = self._views.get(view.job_hash)
        if old is not None and msgspec.structs.replace(view, version=old.version) == old:
            return
        self._views[view.job_hash] = msgspec.structs.replace(view, version=old.version + 1 if old else 1)
        if view.state.ended:
            self._ended.setdefault(view.job_hash, time.monotonic())
        else:
            self._ended.pop(view.job_hash, None)
        for event in self._waiting.get(view.job_hash, ()):
            event.set()
        self._forget()

    def drop(self, job_hash: str) -> None:
        self._views.pop(job_hash, None)
        self._ended.pop(job_hash, None)

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
