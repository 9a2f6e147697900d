"""Cgroups of jobs: where they may lie, tried for real at the start, and what the limits in them are.

A cgroup with limits for what lies below it may hold no process itself (cgroup v2, "no internal processes"), and systemd
puts a service that it starts again into the service's own cgroup. So jobs that outlive a restart cannot lie in that of
the service that starts them: it could not be started while one runs. A unit of its own has them::

    scd.slice/scd.service          the daemon
              scd-launcher.service
              scd-jobs.service     given to scd (Delegate=yes)
                     /keeper       a process that does nothing: without one systemd would take the place away
                     /<job_hash>-<number>   the shim of a job, and all that it started
"""

import contextlib
import errno
import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ..runtimes import PATH
from ..units import format_size

JOBS = "scd-jobs.service"
_CONTROLLERS = ("memory", "pids")
_OWN_PROCESSES = 8  # a job's shim, and its sandbox while it is being made
_YOUNG = 40.0  # seconds in which a shim has surely entered: it is given 30
_NUMBERS = itertools.count()
_CAUSES = {
    errno.EROFS: "is read-only here (ReadWritePaths= of the unit)",
    errno.EACCES: "is not given to this account (Delegate= and User= of the unit)",
    errno.EPERM: "is not given to this account (Delegate= and User= of the unit)",
    errno.EBUSY: "has processes of its own, which leaves no limits to what lies below",
}


class Unavailable(Exception):
    """Jobs have no cgroups of their own, and why."""


class Gone(Exception):
    """The place was there at the start, and is not any more."""


class Cgroups:
    def __init__(self, place: Path, memory: int, processes: int):
        """``memory`` in bytes and ``processes`` are of one job; 0 is no limit."""
        self.place = place
        self._memory = memory
        self._processes = processes

    def __str__(self) -> str:
        memory = f"{format_size(self._memory)} of memory" if self._memory else "no limit of memory"
        processes = f"{self._processes} processes" if self._processes else "no limit of processes"
        return f"each job has a cgroup of its own in {self.place}: {memory}, {processes}"

    def make(self, name: str) -> Path:
        """A new cgroup with a job's limits, to be entered within half a minute. Raises Gone."""
        found = self.place / f"{name}-{time.time_ns():x}{next(_NUMBERS)}"
        try:
            self._allow_limits()
            found.mkdir()
            found.chmod(0o755)  # whatever the umask: the job's shim reads in it what happened
            _write(found / "memory.max", self._memory or "max")
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap
                _write(found / "memory.swap.max", 0 if self._memory else "max")
            _write(found / "pids.max", self._processes + _OWN_PROCESSES if self._processes else "max")
        except OSError as error:
            raise Gone(f"no cgroup can be made in {self.place}: {_cause(error)}. Start {JOBS}") from None
        return found

    def tidy(self) -> None:
        """Remove those of jobs that ended; what has processes cannot be removed."""
        with contextlib.suppress(FileNotFoundError):
            for entry in list(os.scandir(self.place)):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False) and time.time() - entry.stat().st_mtime > _YOUNG:
                        os.rmdir(entry.path)

    def check(self) -> None:
        """Make one, put a process into it, and remove it. Raises Unavailable."""
        if os.geteuid() == 0:
            self._take()
        try:
            present = (self.place / "cgroup.controllers").read_text().split()
        except OSError as error:
            raise Unavailable(f"{self.place} {_cause(error)}") from None
        if missing := [name for name in _CONTROLLERS if name not in present]:
            raise Unavailable(
                f"{self.place} lacks {' and '.join(missing)}, which cgroups v1 may have: boot with "
                "systemd.unified_cgroup_hierarchy=1"
            )
        try:
            self._allow_limits()
            trial = self.make("trial")
        except OSError as error:
            raise Unavailable(f"{self.place} {_cause(error)}") from None
        except Gone as error:
            raise Unavailable(str(error)) from None
        try:
            entering = ["/bin/sh", "-c", f"echo $$ >'{trial}/cgroup.procs'"]
            done = subprocess.run(entering, env={"PATH": PATH}, capture_output=True, text=True)
            if done.returncode:
                raise Unavailable(
                    f"no process can be moved into {self.place}: the cgroup.procs above it must be this account's too"
                )
        finally:
            trial.rmdir()

    def _allow_limits(self) -> None:
        _write(self.place / "cgroup.subtree_control", " ".join(f"+{name}" for name in _CONTROLLERS))

    def _take(self) -> None:
        """scd-launcher is root without the right to write what is scd's; scd has no business there then."""
        with contextlib.suppress(OSError):
            os.chown(self.place.parent / "cgroup.procs", 0, 0)
            for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
                os.chown(self.place / name, 0, 0)


def look(memory: int, processes: int) -> tuple[Cgroups | None, str]:
    """The cgroups of jobs if they can have any, and a sentence for the log."""
    try:
        found = _find(memory, processes)
    except Unavailable as reason:
        lost = f", and nothing limits a job to {format_size(memory)} of memory" if memory else ""
        return None, f"jobs have no cgroups of their own{lost}: {reason}"
    found.tidy()
    return found, str(found)


def _find(memory: int, processes: int) -> Cgroups:
    """Tried. Raises Unavailable."""
    own, mount = _own_path(), next(_mounts(), None)
    if own is None or mount is None:
        raise Unavailable("this system has no cgroups v2")
    root, top = mount
    above = own.removeprefix(root).strip("/").rpartition("/")[0]
    place = Path(top, above, JOBS)
    if not place.is_dir():
        raise Unavailable(f"there is no {place} (systemctl start {JOBS})")
    found = Cgroups(place, memory, processes)
    found.check()
    return found


def _own_path() -> str | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return None


def _mounts() -> Iterator[tuple[str, str]]:
    """What of the hierarchy is mounted where: root and mount point."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] == "cgroup2":
            _, _, _, root, top, *_ = fields.split()
            yield root.rstrip("/"), top


def _write(file: Path, value: object) -> None:
    """At once: the kernel takes a whole value or none. What is no file there is not made."""
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _cause(error: OSError) -> str:
    return _CAUSES.get(error.errno or 0, error.strerror or str(error))
