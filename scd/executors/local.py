"""Attempts as processes on this machine: one session a job, with the shim that holds its runner.

The journal that the shim writes is the truth. An order that the journal does not show as accepted is sent again, to
the same shim or its successor; the shim runs no name twice.
"""

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

from ..launcher.base import Launcher, dismiss
from ..launcher.orders import order
from ..model import NodeKey
from ..spool import Spool
from ..states import NodeState
from .base import Observation, Spec
from .records import snapshot_name
from .session import MakeReady, Message, Session, Wake

_GRACE = 2.5  # seconds between TERM and KILL: a cancel is over within 5
_GOODBYE = 5.0
_SAMPLE_INTERVAL = 1.0


class LocalExecutor:
    name = "local"

    def __init__(self, spool: Spool, launcher: Launcher, wake: Wake, make_ready: MakeReady):
        self._make_ready = make_ready
        self._spool = spool
        self._launcher = launcher
        self._wake = wake
        self._sessions: dict[str, Session] = {}
        self._sampler: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()  # sessions of jobs that ended

    async def trouble(self) -> str:
        return await asyncio.to_thread(self._launcher.trouble)

    async def submit(self, spec: Spec) -> str:
        session = self.open(spec)
        session.order(order(spec, session.directory), spec.name)
        if self._sampler is None:
            self._sampler = asyncio.create_task(self._sample())
        return spec.name

    def open(self, spec: Spec) -> Session:
        """The session with the job's shim: also of a job that runs elsewhere, whose files are looked at from here."""
        session = self._sessions.get(spec.job_hash)
        if session is None:
            session = Session(spec, self._spool.job(spec.job_hash), self._launcher, self._wake, self._make_ready)
            self._sessions[spec.job_hash] = session
        return session

    async def poll(self, handles: Iterable[str]) -> dict[str, Observation]:
        wanted = set(handles)
        return {
            name: seen
            for session in self._sessions.values()
            for name, seen in session.observations.items()
            if name in wanted
        }

    async def cancel(self, handles: Iterable[str], state: NodeState, reason: str) -> None:
        wanted = set(handles)
        for session in self._sessions.values():
            if names := sorted(wanted & session.observations.keys()):
                session.send({"op": "kill", "names": names, "grace": _GRACE, "state": state, "reason": reason})

    async def snapshot(self, job_hash: str, key: NodeKey) -> str | None:
        reply = await self._ask(job_hash, {"op": "snapshot", "step": key.step, "index": key.index})
        file = snapshot_name((reply or {}).get("file"))
        return None if file is None else str(self._spool.job(job_hash).archives / file)

    async def tail(self, job_hash: str, key: NodeKey, offset: int) -> dict[str, Any] | None:
        order = {"op": "tail", "step": key.step, "index": key.index, "offset": offset}
        reply = await self._ask(job_hash, order)
        return None if reply is None or "error" in reply else reply

    async def release(self, job_hash: str) -> None:
        session = self._sessions.pop(job_hash, None)
        if session is not None:  # in a task of its own: a shim may be slow to answer
            task = asyncio.create_task(session.close())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def dismiss(self, wanted: Collection[str]) -> None:
        """End the shims of all jobs but these: the daemon died before it could tell them that their jobs had ended."""
        ended = [job_hash for job_hash in await asyncio.to_thread(self._spool.with_shim) if job_hash not in wanted]
        await asyncio.gather(*(dismiss(self._spool.job(job_hash)) for job_hash in ended))

    async def close(self) -> None:
        """Leave all jobs alone; they go on without the daemon."""
        if self._sampler is not None:
            self._sampler.cancel()
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=_GOODBYE)
        for session in self._sessions.values():
            session.abandon()

    async def _ask(self, job_hash: str, order: Message) -> Message | None:
        session = self._sessions.get(job_hash)
        return None if session is None else await session.ask(order)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(_SAMPLE_INTERVAL)
            running: dict[str, Observation] = {}
            pids: dict[str, tuple[str, int]] = {}
            for session in self._sessions.values():
                for name, seen in session.observations.items():
                    if seen.pid is not None and seen.state is None:
                        running[name], pids[name] = seen, (session.user, seen.pid)
            await asyncio.to_thread(self._launcher.tidy)
            figures = await asyncio.to_thread(self._launcher.sample, pids)
            for name, usage in figures.items():
                running[name].usage = running[name].usage.merged(usage)
