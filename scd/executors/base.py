"""What the scheduler asks of an executor, and what it is told."""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from ..model import NodeKey, Plan, ResourceUsage
from ..placement import Placement
from ..states import NodeState


class Spec(msgspec.Struct, frozen=True):
    """One attempt to be run: of a job's preparation (``key`` is None) or of a node."""

    name: str  # deterministic: the same attempt has the same name after a crash
    job_hash: str
    design: str
    jobname: str
    runtime: str
    archive: str  # the file name its results get
    generation: int
    unpack: bool  # a preparation's: no earlier one has succeeded, so the import must still be unpacked
    key: NodeKey | None = None
    ancestors: tuple[tuple[str, str, str], ...] = ()  # step, index, status of the nodes that ran before
    user: str = ""
    rebuilt: bool = False  # a preparation's: its tree is gone, and is unpacked from import and results in one
    placement: Placement = Placement()
    handle: str = ""  # what the executor called it when it took it, if that is known
    array: str = ""  # what it is submitted with, by that name, as the ``element`` of it
    element: int = 0


class Observation(msgspec.Struct):
    """What is known of an attempt. ``mono`` times are of this boot's monotonic clock."""

    started: float | None = None
    started_mono: float | None = None
    pid: int | None = None
    handle: str = ""  # what the executor's own queue calls it, once it is in there
    waiting: str = ""  # why it does not run yet, in words
    ended: float | None = None
    state: NodeState | None = None  # set once it ended, its archive published
    reason: str = ""
    refused: bool = False  # a preparation that SiliconCompiler, not the machine, ended
    lost: bool = False  # what it lived in went away: its runner, its shim, the host
    out_of_memory: bool = False
    exit_code: int | None = None
    elapsed: float = 0.0
    archive: str | None = None
    plan: Plan | None = None
    raw_plan: bytes | None = None
    usage: ResourceUsage = ResourceUsage()
    unpack_seconds: float | None = None
    archive_seconds: float | None = None


class Executor(Protocol):
    """An executor keeps what it observed until the job is released: polling loses nothing."""

    name: str

    async def trouble(self) -> str:
        """Why nothing can be started at the moment, "" if it can. Answers within a second or so."""

    async def submit(self, spec: Spec) -> str:
        """Start an attempt unless its name was ever started; return its handle."""

    async def poll(self, handles: Iterable[str]) -> dict[str, Observation]: ...

    async def cancel(self, handles: Iterable[str], state: NodeState, reason: str) -> None:
        """End attempts: they are then observed as ``state`` with ``reason``, unless they succeeded first."""

    async def snapshot(self, job_hash: str, key: NodeKey) -> str | None:
        """The path of a temporary archive of a running node's files so far; the caller removes it."""

    async def tail(self, job_hash: str, key: NodeKey, offset: int) -> dict[str, Any] | None:
        """``text`` of a running node's log from ``offset`` on, and the next ``offset``."""

    async def release(self, job_hash: str) -> None:
        """The job ended: forget it and end what served it."""
