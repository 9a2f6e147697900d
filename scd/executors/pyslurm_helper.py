"""Reads Slurm's queue with pyslurm: ``python -m scd.executors.pyslurm_helper SECONDS``, started by ``slurm_pyslurm``.

It says first what pyslurm there is, then, for each line of its input, what jobs there are: a line of JSON each. It ends
with its input; where Slurm lets it wait for more than SECONDS, by SIGALRM, since it would not hear of that.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    limit = int(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # libraries may print
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's: whoever started this ends it

    def answer(work: Callable[[], dict[str, Any]]) -> bool:
        signal.alarm(limit)
        try:
            found = work()
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        signal.alarm(0)
        print(json.dumps(found), file=answers, flush=True)
        return "error" not in found

    if not answer(_version):
        return
    for _ in sys.stdin.buffer:
        answer(_jobs)


def _version() -> dict[str, Any]:
    import pyslurm

    return {"version": pyslurm.__version__}


def _jobs() -> dict[str, Any]:
    """As squeue would tell them, by the fields of ``slurm_queue``; without those that are certainly not scd's."""
    import pyslurm

    found = []
    for job in pyslurm.Jobs.load().values():
        try:
            name = str(job.name)
        except UnicodeDecodeError:
            continue
        if name.startswith("scd-"):
            found.append([
                _id(job), str(job.user_id), job.state, _time(job.start_time), _time(job.end_time),
                job.allocated_nodes or "", name, job.state_reason or "None",
            ])  # fmt: skip
    return {"jobs": found}


def _id(job: Any) -> str:
    """As squeue writes it: those of an array that wait are one job still."""
    if job.array_id is None:
        return str(job.id)
    if job.array_tasks_waiting:
        return f"{job.array_id}_[{job.array_tasks_waiting}]"
    # None is the element 0, too; what is left of an array of which nothing ever ran has no element.
    ran = job.array_task_id or job.id != job.array_id or job.allocated_nodes
    return f"{job.array_id}_{job.array_task_id or 0}" if ran else str(job.id)


def _time(seconds: int | None) -> str:
    return str(seconds) if seconds else "N/A"


if __name__ == "__main__":
    main()
