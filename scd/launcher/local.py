"""The launcher inside the daemon: everything under the daemon's own account."""

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from ..archive import remove_tree
from ..config import Config
from ..model import ResourceUsage
from ..procfs import ProcessId, alive
from ..runtimes import Runtimes
from ..spool import JobDirectory, job_usage
from .accounting import sample
from .base import START_DEADLINE, LauncherDown, ShimFailed, Work
from .cgroup import Cgroups, Gone, look
from .sandbox import Sandbox
from .shim import SPEC
from .spec import SHIM_ENVIRONMENT, shim_argv, shim_spec
from .wipe import wipe

log = logging.getLogger(__name__)


class LocalLauncher:
    def __init__(self, config: Config, runtimes: Runtimes, sandboxes: Mapping[str, Sandbox]):
        """``sandboxes`` by the runtime's name: for all of them, or for none."""
        self._config = config
        self._runtimes = runtimes
        self._sandboxes = sandboxes
        self._cgroups: Cgroups | None = None

    def check(self) -> None:
        local = self._config.local
        self._cgroups, told = look(local.memory, local.processes)
        log.log(logging.WARNING if local.memory and self._cgroups is None else logging.INFO, "%s", told)

    def trouble(self) -> str:
        return ""

    def adopt(self, job_hash: str, user: str) -> None:
        pass

    async def start(self, work: Work) -> None:
        await asyncio.to_thread(self._write_spec, work)
        with await asyncio.to_thread(open, work.directory.control / "shim.log", "ab") as log:
            process = await asyncio.create_subprocess_exec(
                *shim_argv(work), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
                env=SHIM_ENVIRONMENT, cwd="/", start_new_session=True,
            )  # fmt: skip
        try:
            out, _ = await asyncio.wait_for(process.communicate(), START_DEADLINE)
        except TimeoutError:
            raise ShimFailed(f"The shim of job {work.job_hash} did not start in {START_DEADLINE:.0f} s.") from None
        if not out.strip():
            raise ShimFailed(f"The shim of job {work.job_hash} did not start; see {work.directory.control}/shim.log.")

    def is_alive(self, process: ProcessId, user: str) -> bool:  # noqa: ARG002 - they are all scd's
        return alive(process)

    def sample(self, pids: Mapping[str, tuple[str, int]]) -> dict[str, ResourceUsage]:
        return sample({name: pid for name, (_, pid) in pids.items()})

    def remove(self, directory: Path) -> None:
        remove_tree(directory)

    def wipe(self, directory: JobDirectory) -> None:
        wipe(directory)

    def size(self, directory: Path) -> int:
        return job_usage(directory)

    def tidy(self) -> None:
        if self._cgroups is not None:
            self._cgroups.tidy()

    def _write_spec(self, work: Work) -> None:
        """Raises LauncherDown while the place of cgroups is gone: no job runs without its limits."""
        try:
            cgroup = self._cgroups.make(work.job_hash) if self._cgroups is not None else None
        except Gone as error:
            raise LauncherDown(str(error)) from None
        chosen, _ = self._runtimes.get(work.runtime)
        sandbox = self._sandboxes.get(chosen.name)
        spec = shim_spec(self._config, self._runtimes, sandbox, work, daemon_uid=os.geteuid(), cgroup=cgroup)
        (work.directory.control / SPEC).write_text(json.dumps(spec))
