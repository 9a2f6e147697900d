"""What goes of a job whose results are encrypted: its tree, and its own words beside it. The caller owns all of it."""

from pathlib import Path

from ..archive import remove_tree
from ..spool import JobDirectory
from .claims import SLURM
from .journal import redact

_LOGS = ("runner.log", "shim.log")


def wipe(directory: JobDirectory) -> None:
    """Of a job that has no shim any more. Raises OSError; whatever it was stopped in, the next time finishes it."""
    for path in (directory.work, directory.temporary):
        if path.exists():
            remove_tree(path)
    directory.work.mkdir(mode=0o700)
    wipe_control(directory.control)


def wipe_control(control: Path) -> None:
    """The journal keeps names, states and times: no name may be run twice."""
    for name in _LOGS:
        (control / name).unlink(missing_ok=True)
    if (control / SLURM).is_dir():  # a batch job that Slurm starts again finds nothing to claim
        remove_tree(control / SLURM)
    redact(control)
