"""The directory of one batch attempt, on the file system that compute nodes share. Everything here blocks.

::

    control/slurm/<n>.<attempt>/claim          whoever made it may run the attempt, or give it up; nobody else
                               /started.json   written by the batch job, whole or not there
                               /ended.json
                               /alive          its time changes while the batch job lives
                               /revoked        how the attempt is to end, if it has not: the daemon's word
                               /never          it was given up before it began
                               /output         what was caught of the batch job, for people
                               /runner.log

No job can write in here; its account can, where it has one of its own. So nothing is read through a link.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from ..durable import open_plain
from ..launcher.claims import CLAIM, held
from ..launcher.records import ALIVE, ENDED, OUTPUT, STARTED

_MOST_OUTPUT = 2000
_MOST_RECORD = 64 * 2**20  # a plan of many thousand nodes fits

Record = dict[str, Any]


class Look(NamedTuple):
    """What was found in a place."""

    claimed: bool = False
    started: Record | None = None
    ended: Record | None = None
    beat: float | None = None  # the time of the last sign of life, by the file system's clock
    said: str = ""  # the last line of the output of one that left no record yet


def look(place: Path, *, known_started: bool) -> Look:
    """Listing a directory asks a network file system's server anew: a name that was missing a moment ago is seen."""
    try:
        with held(place) as there:
            names = set(os.listdir(there))
            return Look(
                CLAIM in names,
                None if known_started or STARTED not in names else _read(there / STARTED),
                _read(there / ENDED) if ENDED in names else None,
                _changed(there / ALIVE) if ALIVE in names else None,
                _last_line(there / OUTPUT) if not names & {STARTED, ENDED} else "",
            )
    except OSError:
        return Look()


def _last_line(path: Path) -> str:
    """Of what the batch job, or Slurm about it, said; what a crash left in its place may be anything."""
    with contextlib.suppress(OSError), open(open_plain(path), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_OUTPUT))
        text = "".join(
            char if char.isprintable() or char == "\n" else " " for char in file.read().decode(errors="replace")
        )
        return next((line.strip()[-300:] for line in reversed(text.split("\n")) if line.strip()), "")
    return ""


def _read(path: Path) -> Record | None:
    with contextlib.suppress(OSError, ValueError, RecursionError), open(open_plain(path), "rb") as file:
        record = json.loads(file.read(_MOST_RECORD))
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
