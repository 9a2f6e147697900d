"""A job's ``events.jsonl``: what happened, written down outside the daemon and read back by it.

Standard library only. The shim appends and fsyncs; the daemon and a later shim read. A torn last line (the writer was
killed) is cut off before anything is appended.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..procfs import boot_id

FILE = "events.jsonl"

Record = dict[str, Any]


class Journal:
    """The writer. One at a time: the shim holds a lock on the directory."""

    def __init__(self, directory: Path):
        self._fd = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._boot = boot_id()
        size = os.fstat(self._fd).st_size
        whole = _whole(os.pread(self._fd, size, 0))
        if whole < size:
            os.ftruncate(self._fd, whole)

    def append(self, kind: str, **fields: Any) -> None:
        """Stamped, on the disk when this returns. ``mono`` counts seconds since ``boot``."""
        record = {"type": kind, "at": time.time(), "mono": time.monotonic(), "boot": self._boot, **fields}
        data = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        size = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:  # the disk is full: a torn line would spoil the next one
            os.ftruncate(self._fd, size)
            raise
        os.fsync(self._fd)


def read(directory: Path, offset: int = 0) -> tuple[list[Record], int]:
    """The whole records from ``offset`` on, and the offset behind them."""
    try:
        with open(directory / FILE, "rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = _whole(data)
    return list(_records(data[:whole])), offset + whole


def _whole(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _records(data: bytes) -> Iterator[Record]:
    for line in data.splitlines():
        record = json.loads(line)
        if isinstance(record, dict):
            yield record
