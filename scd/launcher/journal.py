"""A job's ``events.jsonl``: what happened, written down outside the daemon and read back by it.

Standard library only. The shim appends and fsyncs; the daemon and a later shim read. A torn last line (the writer was
killed) is cut off before anything is appended. What cannot be written (the disk is full) is kept and tried again.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..durable import open_plain
from ..procfs import boot_id

FILE = "events.jsonl"

Record = dict[str, Any]


class Journal:
    """The writer. One at a time: the shim holds a lock on the directory."""

    def __init__(self, directory: Path):
        self._fd = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._boot = boot_id()
        self._pending = b""
        size = os.fstat(self._fd).st_size
        whole = _whole(os.pread(self._fd, size, 0))
        if whole < size:
            os.ftruncate(self._fd, whole)

    def append(self, kind: str, **fields: Any) -> bool:
        """Whether the stamped record is on the disk; else it is pending. ``mono`` counts seconds since ``boot``."""
        record = {"type": kind, "at": time.time(), "mono": time.monotonic(), "boot": self._boot, **fields}
        self._pending += json.dumps(record, separators=(",", ":")).encode() + b"\n"
        return self.flush()

    @property
    def pending(self) -> bool:
        return bool(self._pending)

    def flush(self) -> bool:
        """Write what is pending, in its order; whether all of it is on the disk."""
        if not self._pending:
            return True
        size = os.fstat(self._fd).st_size
        data = self._pending
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
        except OSError as error:
            # All of it again: a torn line would spoil the next one, and after a failed fsync nothing can be relied on.
            os.ftruncate(self._fd, size)
            with contextlib.suppress(OSError):  # it lies on the same disk
                print(f"the journal cannot be written; what happens is kept in memory: {error}", file=sys.stderr)
                sys.stderr.flush()
            return False
        self._pending = b""
        return True


def read(directory: Path, offset: int = 0) -> tuple[list[Record], int]:
    """The whole records from ``offset`` on, and the offset behind them."""
    try:
        with open(open_plain(directory / FILE), "rb") as file:
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
        try:
            record = json.loads(line)
        except ValueError:  # a damaged disk: the rest still counts
            continue
        if isinstance(record, dict):
            yield record
