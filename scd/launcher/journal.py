"""A job's ``events.jsonl``: what happened, written down outside the daemon and read back by it.

Standard library only. The shim appends and fsyncs; the daemon and a later shim read. A torn last line (the writer was
killed) is cut off before anything is appended. What cannot be written is kept and tried again. A spare file beside the
journal holds the space for it: a job that has filled its disk must still be able to end.
"""

import contextlib
import errno
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..durable import fsync, open_plain, replace
from ..procfs import boot_id

FILE = "events.jsonl"
SPARE = "spare"
_SPARE_SIZE = 2**18
_FULL = (errno.ENOSPC, errno.EDQUOT)

Record = dict[str, Any]


class Journal:
    """The writer. One at a time: the shim holds a lock on the directory."""

    def __init__(self, directory: Path):
        self._fd = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        fsync(directory)
        self._boot = boot_id()
        self._pending = b""
        self._spare = directory / SPARE
        self._hold_spare()
        size = os.fstat(self._fd).st_size
        whole = _whole(os.pread(self._fd, size, 0))
        if whole < size:
            os.ftruncate(self._fd, whole)

    def append(self, kind: str, **fields: Any) -> bool:
        """Whether the stamped record is on the disk; else it is pending. ``mono`` counts seconds since ``boot``."""
        record = {"type": kind, "at": time.time(), "mono": time.monotonic(), "boot": self._boot, **fields}
        self._pending += _line(record)
        return self.flush()

    @property
    def pending(self) -> bool:
        return bool(self._pending)

    def flush(self) -> bool:
        """Write what is pending, in its order; whether all of it is on the disk."""
        if not self._pending:
            return True
        try:
            try:
                self._write()
            except OSError as error:
                if error.errno not in _FULL or not self._give_up_spare():
                    raise
                self._write()
        except OSError as error:
            with contextlib.suppress(OSError):  # it lies on the same disk
                print(f"the journal cannot be written; what happens is kept in memory: {error}", file=sys.stderr)
                sys.stderr.flush()
            return False
        self._pending = b""
        return True

    def close(self) -> None:
        """Nothing more is to come."""
        self._give_up_spare()

    def _write(self) -> None:
        size = os.fstat(self._fd).st_size
        data = self._pending
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
        except OSError:
            # All of it again: a torn line would spoil the next one, and after a failed fsync nothing can be relied on.
            os.ftruncate(self._fd, size)
            raise

    def _hold_spare(self) -> None:
        with contextlib.suppress(OSError):
            fd = os.open(self._spare, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _SPARE_SIZE)
            finally:
                os.close(fd)

    def _give_up_spare(self) -> bool:
        with contextlib.suppress(OSError):
            self._spare.unlink()
            return True
        return False


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


def redact(directory: Path) -> None:
    """Take the job's own words out of a journal that has no writer any more. Names, states and times stay."""
    path, aside = directory / FILE, directory / f".{FILE}"
    records, _ = read(directory)
    if not any(record.get("reason") for record in records):
        return
    aside.unlink(missing_ok=True)
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.writelines(_line({**record, "reason": ""} if "reason" in record else record) for record in records)
        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
    replace(aside, path)


def _line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


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
