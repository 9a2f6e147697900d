"""What a job's processes may take from the machine, set once in the runner and inherited by all of them."""

import contextlib
import resource

_OOM_SCORE = 500  # of 1000: when memory runs out, a node goes before the daemon and before other services


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
