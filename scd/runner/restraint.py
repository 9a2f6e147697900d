"""What a job's processes may take from the machine, set once in the runner and inherited by all of them."""

import contextlib
import os
import resource
from collections.abc import Mapping, Sequence

_OOM_SCORE = 500  # of 1000: when memory runs out, a node goes before the daemon and before other services


def misplaced(places: Mapping[str, Sequence[int]]) -> list[str]:
    """The paths at which something else is than must be there, by device and inode.

    Asked in the sandbox, whose mounts nobody changes any more: whoever renamed something while it was being made, in
    order to have another directory shown in it, is found out before anything of the job is touched.
    """
    found = ((path, os.stat(path)) for path in places)
    return [path for path, status in found if [status.st_dev, status.st_ino] != list(places[path])]


def restrain(processes: int) -> None:
    """No core files, the first to go when memory runs out, and at most so many processes and threads (0: any number).

    The kernel counts processes by account and user namespace: set inside a sandbox, the limit is the job's own. It does
    not hold for root.
    """
    _bound(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < _OOM_SCORE:
            file.seek(0)
            file.write(str(_OOM_SCORE))
    if processes:
        _bound(resource.RLIMIT_NPROC, processes)


def _bound(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or hard > limit:
        resource.setrlimit(kind, (limit, limit))
