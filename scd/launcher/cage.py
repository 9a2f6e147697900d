"""A job's cgroup as its shim sees it: how to enter it, and whether memory ran out in it. Standard library only."""

import contextlib
import os
from pathlib import Path

from ..units import format_size


class Cage:
    def __init__(self, place: str):
        """``place`` is empty for a job without a cgroup of its own."""
        self._place = Path(place) if place else None
        self._killed, self._limited = self._counts()

    def enter(self) -> None:
        """With all that this process starts from now on. Raises OSError."""
        if self._place is not None:
            fd = os.open(self._place / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)

    def shortage(self) -> str:
        """Why the kernel has ended a process of the job since the last look; empty if it did not."""
        (before, limited), (self._killed, self._limited) = (self._killed, self._limited), self._counts()
        if self._killed <= before:
            return ""
        if self._limited > limited:
            return f"out of memory: the job's limit of {self._limit()}"
        return "out of memory: the machine, or all jobs together, had no more"

    def _counts(self) -> tuple[int, int]:
        """Processes that were killed for want of memory, and how often it was this cgroup's own limit."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            if self._place is not None:
                lines = (self._place / "memory.events").read_text().splitlines()
                events = {name: int(count) for name, count in (line.split() for line in lines)}
                return events["oom_kill"], events["oom"]
        return 0, 0

    def _limit(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            if self._place is not None:
                return format_size(int((self._place / "memory.max").read_text()))
        return "memory"
