"""What a batch job writes for the daemon in its attempt's directory, and what it reads there. Standard library only.

Each record is whole or not there. The daemon's side is ``executors/places.py``, the directory itself ``claims``.
"""

import contextlib
import errno
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
# A file server that was started again may know nothing of a directory for a while.
_MARGIN = 300.0
_GONE = "error", "its directory was removed"


class Records:
    def __init__(self, place: Path, name: str):
        """``name`` is the attempt's."""
        self._place = place
        self._name = name
        self._missing: float | None = None  # since when the file system does not know the directory

    def write(self, file: str, fields: dict[str, Any]) -> None:
        """A record, on the disk when this returns, unless the directory is gone: then nobody waits for it any more.

        A full disk makes it wait: without a record the node never ended.
        """
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
                if not self._show_life():
                    print(f"{self._place / file} is not written: {_GONE[1]}", file=sys.stderr)
                    return
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
                if not self._show_life() or self._is_revoked():
                    os.write(wake, b"\0")
            time.sleep(_BEAT)

    def revocation(self) -> tuple[str, str] | None:
        """The state and the reason with which the daemon has ended the attempt, if it has.

        It has, too, when it has removed the directory, with the job: so the end of one that was cut off meanwhile.
        """
        if not self._show_life():
            return _GONE
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if self._is_revoked():
                with open(open_plain(self._place / REVOKED), "rb") as file:
                    order = json.loads(file.read())
                return str(order["state"]), str(order["reason"])
        return None

    def _is_revoked(self) -> bool:
        """By a listing, which asks a network file system's server anew. Raises OSError.

        That a name was missing is remembered for a minute by a client of NFS.
        """
        return REVOKED in os.listdir(self._place)

    def _show_life(self) -> bool:
        """Whether there still is a directory for that, as far as is known."""
        try:
            (self._place / ALIVE).touch()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                return True
        else:
            self._missing = None
            return True
        with contextlib.suppress(OSError):
            if os.stat(self._place).st_nlink == 0:  # it is held by a descriptor, and was removed
                return False
        self._missing = self._missing or time.monotonic()
        return time.monotonic() - self._missing < _MARGIN


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
