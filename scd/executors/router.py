"""One executor out of several: each attempt goes where its placement says."""

from collections.abc import Iterable
from typing import Any

from ..errors import ConfigError
from ..model import NodeKey
from ..states import NodeState
from .base import Executor, Observation, Spec


class Router:
    """What is asked about an attempt, or a job, is asked of all: those that do not know it do nothing."""

    name = "router"

    def __init__(self, executors: Iterable[Executor]):
        self.executors = list(executors)

    def add(self, executor: Executor) -> None:
        self.executors.append(executor)

    async def submit(self, spec: Spec) -> str:
        """Raises ConfigError for an executor that is not there: Slurm was taken out of the configuration too early."""
        wanted = spec.placement.executor
        for executor in self.executors:
            if executor.name == wanted:
                return await executor.submit(spec)
        raise ConfigError(
            f"job {spec.job_hash} still has something in {wanted.capitalize()}, and there is no [{wanted}] any more. "
            "Put it back until the job has ended"
        )

    async def trouble(self) -> str:
        return "; ".join(filter(None, [await executor.trouble() for executor in self.executors]))

    async def poll(self, handles: Iterable[str]) -> dict[str, Observation]:
        wanted = list(handles)
        found: dict[str, Observation] = {}
        for executor in self.executors:
            found |= await executor.poll(wanted)
        return found

    async def cancel(self, handles: Iterable[str], state: NodeState, reason: str) -> None:
        wanted = list(handles)
        for executor in self.executors:
            await executor.cancel(wanted, state, reason)

    async def snapshot(self, job_hash: str, key: NodeKey) -> str | None:
        for executor in self.executors:
            if (path := await executor.snapshot(job_hash, key)) is not None:
                return path
        return None

    async def tail(self, job_hash: str, key: NodeKey, offset: int) -> dict[str, Any] | None:
        for executor in self.executors:
            if (found := await executor.tail(job_hash, key, offset)) is not None:
                return found
        return None

    async def release(self, job_hash: str) -> None:
        for executor in self.executors:
            await executor.release(job_hash)
