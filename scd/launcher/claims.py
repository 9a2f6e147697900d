"""The directory of a batch attempt, ``control/slurm/<n>.<attempt>``, and the claim on it. Standard library only.

It belongs to the account of the job, as its batch job does: whoever makes ``claim`` in it may run the attempt, or give
it up, and nobody else can then. Whoever shares it with the account reads it by way of ``held``.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..durable import replace

SLURM = "slurm"  # in a job's ``control``
CLAIM, REVOKED = "claim", "revoked"
_NEVER = "never"

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o750  # less what the caller's umask takes: a group that reads is that of ``control``


def make(place: Path) -> bool:
    """Whether it is new: then nothing of this attempt was ever submitted. Raises OSError."""
    try:
        place.mkdir(mode=_MODE)
    except FileNotFoundError:  # its first
        place.parent.mkdir(mode=_MODE, exist_ok=True)
        return make(place)
    except FileExistsError:
        return False
    return True


def claim(place: Path) -> bool:
    """Whether this attempt is now ours to run, or to give up. Nobody else can have it then. Raises OSError.

    A client of NFS repeats what was not answered, as when the server is restarted. An exclusive creation is known as
    the same one then; a directory, made by the first request, would be found to be there already.
    """
    try:
        os.close(os.open(place / CLAIM, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def give_up(place: Path, state: str, reason: str) -> bool:
    """End an attempt, whatever became of it; whether it never ran and now never will. Again is no harm. Raises OSError.

    A batch job that runs sees this at its next look, also while Slurm cannot be reached.
    """
    make(place)
    aside = place / f".{REVOKED}"
    aside.write_text(json.dumps({"state": state, "reason": reason}))
    replace(aside, place / REVOKED)
    if claim(place):
        (place / _NEVER).touch()  # for whoever asks again, having missed the answer
    return (place / _NEVER).exists()


@contextlib.contextmanager
def held(place: Path) -> Iterator[Path]:
    """A path that leads to the attempt's directory whatever is renamed meanwhile, and through no link of ``control``.

    Raises OSError.
    """
    fd = os.open(place.parent.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in (place.parent.name, place.name):
            inner = os.open(step, _STEP, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
