"""CPU time, memory and I/O of a node's process tree, read from outside it."""

import contextlib
from collections.abc import Mapping

import psutil

from ..model import ResourceUsage


def sample(pids: Mapping[str, int]) -> dict[str, ResourceUsage]:
    """The present figures of each named process tree. Blocks for some milliseconds."""
    return {name: usage for name, pid in pids.items() if (usage := _tree(pid)) is not None}


def _tree(pid: int) -> ResourceUsage | None:
    cpu, memory, read, written = 0.0, 0, 0, 0
    try:
        leader = psutil.Process(pid)
        processes = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return None
    for process in processes:
        with contextlib.suppress(psutil.Error), process.oneshot():
            times = process.cpu_times()
            # A process that was waited for counts with its parent, so nothing is counted twice.
            cpu += times.user + times.system + times.children_user + times.children_system
            memory += process.memory_info().rss
            io = process.io_counters()
            read, written = read + io.read_chars, written + io.write_chars
    return ResourceUsage(cpu, memory, read, written)
