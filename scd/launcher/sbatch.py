"""Attempts as what sbatch is called with: a batch job, or a job array of some that differ in little."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from .. import slurm_cli as cli
from ..model import attempt_number
from ..placement import Placement
from ..slurm_calls import Command
from .base import Work
from .claims import SLURM
from .orders import Ordered, order
from .spec import BatchScripts


class Batched(Ordered, Protocol):
    @property
    def element(self) -> int: ...


def alone(
    scripts: BatchScripts, work: Work, placement: Placement, attempt: Batched, inodes: Mapping[str, int] | None = None
) -> Command:
    """``inodes`` as ``BatchScripts.write`` has them: then Slurm opens no file in the job's directories."""
    place = attempt_number(attempt.name)
    directory = str(work.directory.control / SLURM / place) if inodes is None else None
    what = cli.comment(work.job_hash, attempt.key, work.user)
    script = scripts.write(work, order(attempt, work.directory), place, inodes)
    return Command(cli.sbatch(attempt.name, what, directory, placement), script)


def array(
    scripts: BatchScripts, work: Work, placement: Placement, name: str, attempts: Sequence[Batched],
    inodes: Mapping[str, int] | None = None,
) -> Command:  # fmt: skip
    """Each attempt is the ``element`` of the array that it says."""
    orders = {attempt.element: (attempt_number(attempt.name), order(attempt, work.directory)) for attempt in attempts}
    what = cli.comment(work.job_hash, f"{attempts[0].key} and others", work.user)
    script = scripts.write_array(work, orders, inodes)
    return Command(cli.sbatch(name, what, None, placement, list(orders)), script)
