"""What a batch job writes for the daemon in its attempt's directory, and what it reads there. Standard library only.

Each record is whole or not there. The daemon's side is ``executors/places.py``, the directory itself ``claims``.
"""

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from ..durable import open_plain, replace
from ..procfs import boot_id
from .claims import REVOKED

ALIVE, STARTED, ENDED, OUTPUT = "alive", "started.json", "ended.json", "output"

_BEAT = 5.0  # seconds between two signs of life, and two looks for a revocation
_RETRY = 5.0  # between attempts to write a record that a full disk did not take


class Records:
    def __init__(self, place: Path, name: str):
        """``name`` is the attempt's."""
        self._place = place
        self._name = name

    def write(self, file: str, fields: dict[str, Any]) -> None:
        """A record, on the disk when this returns. A full disk makes it wait: without a record the node never ended."""
        record = {
            "type": file.removesuffix(".json"), "name": self._name, "at": time.time(), "mono": time.monotonic(),
            "boot": boot_id(), "host": socket.gethostname(), "job": _job(), **fields,
        }  # fmt: skip
        aside = self._place / f".{file}"
        complained = False
        while True:
            try:
                aside.write_text(json.dumps(record, separators=(",", ":")))
                replace(aside, self._place / file)
            except OSError as error:
                if not complained:
                    print(f"{self._place / file} cannot be written, and is tried again: {error}", file=sys.stderr)
                complained = True
                time.sleep(_RETRY)
            else:
                return

    def beat(self, wake: int) -> None:
        """Show that the batch job lives, for ever, and write to ``wake`` when there is a revocation to read.

        For a thread of its own: a shared directory may answer late, and the node goes on meanwhile.
        """
        while True:
            with contextlib.suppress(OSError):
                (self._place / ALIVE).touch()
            with contextlib.suppress(OSError):
                if (self._place / REVOKED).exists():
                    os.write(wake, b"\0")
            time.sleep(_BEAT)

    def revocation(self) -> tuple[str, str] | None:
        """The state and the reason with which the daemon has ended the attempt, if it has."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with open(open_plain(self._place / REVOKED), "rb") as file:
                order = json.loads(file.read())
            return str(order["state"]), str(order["reason"])
        return None


def catch_output(place: Path) -> None:
    """Keep what this process says from now on, as Slurm would have done."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(place / OUTPUT, flags, 0o640)
    for number in (1, 2):
        os.dup2(fd, number)
    os.close(fd)


def _job() -> str:
    """What Slurm's commands call it."""
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array else os.environ.get("SLURM_JOB_ID", "")
