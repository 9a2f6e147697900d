"""Which processes are a job's, and the end of those that a dead shim left behind. Standard library only."""

import os
import shutil
import time
from collections.abc import Iterable

from ..procfs import ProcessId, alive, descends, kill_all, marked, pid_of, tree

_DEATH_DEADLINE = 10.0
_ROUNDS = 100  # of killing what may fork meanwhile


def clear(runner: ProcessId | None, temporaries: Iterable[str]) -> None:
    """End the processes of dead shims, and remove what they had as temporary directories."""
    if runner is not None:
        _end_runner(runner)
    for temporary in temporaries:
        _end_orphans(temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def _end_runner(runner: ProcessId) -> None:
    """A sandbox died with its shim, or is about to."""
    deadline = time.monotonic() + _DEATH_DEADLINE
    while alive(runner) and time.monotonic() < deadline:
        kill_all(tree(runner.pid))
        time.sleep(0.01)


def own_process(pidfd: int) -> int | None:
    """The pid of a process that the runner reports, None if it has ended. Raises ValueError if it is not the job's."""
    pid = pid_of(pidfd)
    if pid is None or descends(pid, os.getpid()):
        return pid
    if pid_of(pidfd) is None:  # between the two looks
        return None
    raise ValueError("not a process of this job")


def reap(besides: int | None) -> None:
    """Orphans of the job become the shim's children; ``besides`` the runner, which is waited for by its Popen."""
    while True:
        try:
            result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if result is None or result.si_pid == besides:
            return
        os.waitpid(result.si_pid, 0)


def _end_orphans(temporary: str) -> None:
    """What a shim and a runner that died together left behind: known by the directory that was made for them alone."""
    for _ in range(_ROUNDS):
        orphans = marked(f"TMPDIR={temporary}".encode()) - {os.getpid()}
        if not orphans:
            break
        kill_all(orphans)
        time.sleep(0.01)
