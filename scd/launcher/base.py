"""What the rest of scd asks of a launcher, whichever it is: the one in the daemon, or a service with many accounts."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import ScdError
from ..model import ResourceUsage
from ..procfs import ProcessId
from ..spool import JobDirectory
from .entrance import SOCKET

START_DEADLINE = 30.0
_EXIT_DEADLINE = 5.0
_LINE_LIMIT = 2**20

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ShimFailed(ScdError):
    """The job's shim did not start."""


class TooLarge(ShimFailed):
    """A request is more than the launcher takes."""


class LauncherDown(ScdError):
    """The launcher does not answer; it is asked again."""


class Unanswered(LauncherDown):
    """The launcher was asked, and has not said what came of it: it may have been done."""


class Work(NamedTuple):
    """What a job's processes are started for. ``user`` is the job's owner as scd knows him, "" for anybody."""

    directory: JobDirectory
    job_hash: str
    design: str
    jobname: str
    runtime: str
    user: str


class Launcher(Protocol):
    """All but ``start`` block: call them from a thread. LauncherDown may come of each: nothing is decided by it."""

    def check(self) -> None:
        """Whether it can do its work. Raises ConfigError saying what to do."""

    def trouble(self) -> str:
        """Why it does not answer at the moment, "" if it does."""

    def adopt(self, job_hash: str, user: str) -> None:
        """Give the job's processes the access that they need to its directory. Raises ShimFailed."""

    async def start(self, work: Work) -> None:
        """Start the job's shim. It takes orders when this returns, and outlives this process. Raises ShimFailed."""

    def is_alive(self, process: ProcessId, user: str) -> bool:
        """Whether a process of a user's job runs."""

    def sample(self, pids: Mapping[str, tuple[str, int]]) -> dict[str, ResourceUsage]:
        """The present figures of process trees: by any name, the job's owner and the pid at the tree's root."""

    def remove(self, directory: Path) -> None:
        """Remove a job's directory that was moved to staging. Raises OSError."""

    def tidy(self) -> None:
        """Remove what jobs that ended left outside of their directories."""

    def wipe(self, directory: JobDirectory) -> None:
        """Remove the tree of a job that has no shim any more, and its own words from ``control``. Raises OSError."""

    def size(self, directory: Path) -> int:
        """Bytes that a job's directory takes on the disk. Raises OSError."""


async def connect(directory: JobDirectory) -> Connection | None:
    """A connection to the job's shim, None if no shim answers."""
    try:
        return await asyncio.wait_for(_connect(directory.control), START_DEADLINE)
    except (OSError, TimeoutError):
        return None


async def dismiss(directory: JobDirectory) -> None:
    """Tell the job's shim to go once nothing of it runs any more; return when it has heard that."""
    if (connection := await connect(directory)) is None:
        return
    reader, writer = connection
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(b'{"op":"exit"}\n')
        writer.write_eof()
        async with asyncio.timeout(_EXIT_DEADLINE):
            await reader.read()  # to its end: the shim hangs up after the last order
    writer.close()


async def _connect(control: Path) -> Connection:
    channel = await asyncio.to_thread(_dial, control)
    try:
        return await asyncio.open_unix_connection(sock=channel, limit=_LINE_LIMIT)
    except BaseException:
        channel.close()
        raise


def _dial(control: Path) -> socket.socket:
    """In a thread: the way to the socket may lie on a file system whose server does not answer. Raises OSError."""
    # Through the directory's descriptor: a socket's path may only have 108 bytes.
    directory = os.open(control, os.O_PATH | os.O_CLOEXEC)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Python's own timeout would not wait for room in the backlog.
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(START_DEADLINE), 0))
    try:
        channel.connect(f"/proc/self/fd/{directory}/{SOCKET}")
    except BaseException:
        channel.close()
        raise
    finally:
        os.close(directory)
    return channel
