"""The directory of one batch attempt, on the file system that compute nodes share. Everything here blocks.

::

    control/slurm/<n>.<attempt>/claim/         whoever made it may run the attempt, or give it up; nobody else
                               /started.json   written by the batch job, whole or not there
                               /ended.json
                               /alive          its time changes while the batch job lives
                               /revoked        written by the daemon: how the attempt ends, if it has not
                               /output         what Slurm caught of the batch job, for people
                               /runner.log

No job can write in here.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from ..durable import open_plain, replace
from ..launcher.batch import ALIVE, CLAIM, ENDED, REVOKED, STARTED, claim
from ..states import NodeState

_OUTPUT = "output"
_MOST_OUTPUT = 2000

Record = dict[str, Any]


class Look(NamedTuple):
    """What was found in a place."""

    claimed: bool = False
    started: Record | None = None
    ended: Record | None = None
    beat: float | None = None  # the time of the last sign of life, by the file system's clock
    said: str = ""  # the last line of the output of one that left no record yet


def make(place: Path) -> bool:
    """Whether it is new: then nothing of this attempt was ever submitted. Raises OSError."""
    place.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def look(place: Path, *, known_started: bool) -> Look:
    """Listing a directory asks a network file system's server anew: a name that was missing a moment ago is seen."""
    try:
        names = set(os.listdir(place))
    except OSError:
        return Look()
    return Look(
        CLAIM in names,
        None if known_started or STARTED not in names else _read(place / STARTED),
        _read(place / ENDED) if ENDED in names else None,
        _changed(place / ALIVE) if ALIVE in names else None,
        _last_line(place / _OUTPUT) if not names & {STARTED, ENDED} else "",
    )


def give_up(place: Path, state: NodeState, reason: str) -> bool:
    """End an attempt, whatever became of it; whether it never ran and now never will. Raises OSError.

    A batch job that runs sees this at its next look, also while Slurm cannot be reached.
    """
    make(place)
    aside = place / f".{REVOKED}"
    aside.write_text(json.dumps({"state": state, "reason": reason}))
    replace(aside, place / REVOKED)
    return claim(place)


def _last_line(path: Path) -> str:
    """Of what the batch job, or Slurm about it, said."""
    with contextlib.suppress(OSError), open(open_plain(path), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_OUTPUT))
        lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip()[-300:] for line in reversed(lines) if line.strip()), "")
    return ""


def _read(path: Path) -> Record | None:
    with contextlib.suppress(OSError, ValueError), open(open_plain(path), "rb") as file:
        record = json.loads(file.read())
        return record if isinstance(record, dict) else None
    return None


def _changed(path: Path) -> float | None:
    """By a descriptor: opening asks the server for the file's present time."""
    with contextlib.suppress(OSError):
        fd = open_plain(path)
        try:
            return os.fstat(fd).st_mtime
        finally:
            os.close(fd)
    return None
