"""Who a process is, from /proc. A pid alone is never proof: pids are used again. Standard library only."""

import contextlib
import ctypes
import os
import signal
from typing import NamedTuple

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


class ProcessId(NamedTuple):
    """A process for ever: pid, start time in clock ticks since boot, and the boot."""

    pid: int
    ticks: int
    boot: str


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def identify(pid: int) -> ProcessId | None:
    """The identity of a process that runs now, None if there is none (a zombie has ended)."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else ProcessId(pid, int(fields[19]), boot_id())


def alive(process: ProcessId) -> bool:
    return identify(process.pid) == process


def tree(pid: int) -> set[int]:
    """The descendants of ``pid`` and the members of the session that it leads, itself included."""
    parents: dict[int, int] = {}
    found = {pid}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))) is not None:
            parents[int(entry)] = int(fields[1])
            if int(fields[3]) == pid:
                found.add(int(entry))
    grown = True
    while grown:
        children = {child for child, parent in parents.items() if parent in found} - found
        found |= children
        grown = bool(children)
    return found


def environment_of(pid: int) -> list[bytes]:
    """As it was when the process began, ``NAME=value`` each; empty for another account's process."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return file.read().split(b"\0")
    return []


def marked(mark: bytes) -> set[int]:
    """The processes that began with ``mark``, a ``NAME=value``, in their environment, and what descends from them."""
    found = {int(entry) for entry in os.listdir("/proc") if entry.isdigit() and mark in environment_of(int(entry))}
    return set().union(*map(tree, found))


def descends(pid: int, ancestor: int) -> bool:
    """Whether ``pid`` is a child, grandchild and so on of ``ancestor``. Far cheaper than ``tree``."""
    while pid > 1 and (fields := _stat(pid)) is not None:
        pid = int(fields[1])
        if pid == ancestor:
            return True
    return False


def pid_of(pidfd: int) -> int | None:
    """The process of a pidfd, as this process would call it; None once it has ended.

    What a job says about its pids is of its own namespace, and only said. This is the kernel's answer. Raises
    ValueError if the descriptor is no pidfd.
    """
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        fields = dict(line.split(":", 1) for line in file.read().splitlines())
    if "Pid" not in fields:
        raise ValueError("not a pidfd")
    pid = int(fields["Pid"])
    return pid if pid > 0 else None


def kill_all(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def become_subreaper() -> None:
    """From now on orphaned descendants become this process's children, not init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_from_equals(*, hidden: bool) -> None:
    """Whether processes of the same account are kept from tracing this one and from taking its descriptors."""
    _prctl(_PR_SET_DUMPABLE, 0 if hidden else 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on: 1 parent, 3 session, 19 start ticks."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    return text[text.rindex(b")") + 2 :].decode().split()
