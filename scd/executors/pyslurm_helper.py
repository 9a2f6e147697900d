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
    """As squeue would tell them, by the fields of ``slurm_cli``; without those that are certainly not scd's."""
    import pyslurm

    found = []
    for job in pyslurm.Jobs.load().values():
        try:
            name = str(job.name)
        except UnicodeDecodeError:
            continue
        if name.startswith("scd-"):
            found.append([
                str(job.id), str(job.user_id), job.state, _time(job.start_time), _time(job.end_time),
                job.allocated_nodes or "", name, job.state_reason or "None",
            ])  # fmt: skip
    return {"jobs": found}


def _time(seconds: int | None) -> str:
    return str(seconds) if seconds else "N/A"


if __name__ == "__main__":
    main()
