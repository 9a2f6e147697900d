"""The launcher inside the daemon: starts shims under the daemon's own account and speaks to them."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from ..config import Config
from ..errors import ScdError
from ..runtimes import BOOT, Runtimes
from ..spool import JobDirectory
from .entrance import SOCKET
from .environment import PATH, job_environment
from .sandbox import TEMPORARY, Sandbox
from .shim import SPEC

_START_DEADLINE = 30.0
_EXIT_DEADLINE = 5.0
_LINE_LIMIT = 2**20

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ShimFailed(ScdError):
    """The job's shim did not start."""


class Launcher:
    def __init__(self, config: Config, runtimes: Runtimes, sandboxes: Mapping[str, Sandbox]):
        """``sandboxes`` by the runtime's name: for all of them, or for none."""
        self._config = config
        self._runtimes = runtimes
        self._sandboxes = sandboxes

    async def connect(self, directory: JobDirectory) -> Connection | None:
        """A connection to the job's shim, None if no shim answers."""
        try:
            return await asyncio.wait_for(self._connect(directory.control), _START_DEADLINE)
        except (OSError, TimeoutError):
            return None

    async def start(self, directory: JobDirectory, job_hash: str, design: str, jobname: str, runtime: str) -> None:
        """Start the job's shim. It takes orders when this returns, and outlives this process."""
        await asyncio.to_thread(self._write_spec, directory, job_hash, design, jobname, runtime)
        with await asyncio.to_thread(open, directory.control / "shim.log", "ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(BOOT), "scd.launcher.shim", str(directory.control),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
                env={"PATH": PATH, "LANG": "C.UTF-8"}, cwd="/", start_new_session=True,
            )  # fmt: skip
        try:
            out, _ = await asyncio.wait_for(process.communicate(), _START_DEADLINE)
        except TimeoutError:
            raise ShimFailed(f"The shim of job {job_hash} did not start in {_START_DEADLINE:.0f} s.") from None
        if not out.strip():
            raise ShimFailed(f"The shim of job {job_hash} did not start; see {directory.control}/shim.log.")

    def _write_spec(self, directory: JobDirectory, job_hash: str, design: str, jobname: str, runtime: str) -> None:
        chosen, versions = self._runtimes.get(runtime)
        sandbox = self._sandboxes.get(chosen.name)
        spec = {
            "sandbox": sandbox.argv(str(directory.work), str(directory.temporary)) if sandbox else [],
            "runner": [chosen.python, "-I", str(BOOT), "scd.runner.serve"],
            "settings": {**self._settings(directory, job_hash, design, jobname), "packages": versions.packages},
            "env": job_environment(str(directory.work)) | ({"TMPDIR": TEMPORARY} if sandbox else {}),
            "temporary": str(directory.temporary) if sandbox else None,
            "root": str(directory.work),
            "archives": str(directory.archives),
            "daemon_uid": os.geteuid(),
        }  # fmt: skip
        (directory.control / SPEC).write_text(json.dumps(spec))

    async def dismiss(self, directory: JobDirectory) -> None:
        """Tell the job's shim to go once nothing of it runs any more; return when it has heard that."""
        if (connection := await self.connect(directory)) is None:
            return
        reader, writer = connection
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(b'{"op":"exit"}\n')
            writer.write_eof()
            async with asyncio.timeout(_EXIT_DEADLINE):
                await reader.read()  # to its end: the shim hangs up after the last order
        writer.close()

    def _settings(self, directory: JobDirectory, job_hash: str, design: str, jobname: str) -> dict[str, object]:
        """``scd.runner.job.Settings``."""
        return {
            "root": str(directory.work),
            "job_hash": job_hash,
            "design": design,
            "jobname": jobname,
            "cache": self._config.paths.cache,
            "max_unpacked": self._config.server.max_unpacked,
            "max_members": self._config.server.max_members,
            "max_ratio": self._config.server.max_ratio,
            # Without a sandbox the kernel would count all of the account's.
            "max_processes": self._config.local.processes if self._sandboxes else 0,
        }

    async def _connect(self, control: Path) -> Connection:
        # Through the directory's descriptor: a socket's path may only have 108 bytes.
        directory = os.open(control, os.O_PATH | os.O_CLOEXEC)
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(channel, f"/proc/self/fd/{directory}/{SOCKET}")
            return await asyncio.open_unix_connection(sock=channel, limit=_LINE_LIMIT)
        except BaseException:
            with contextlib.suppress(OSError):
                channel.close()
            raise
        finally:
            os.close(directory)
