"""Space that is held back, and given up when the disk is full: what must be written then, or deleted, still can be.

It goes a slice at a time. What filled the disk takes the first of them too, and fails at its next write; the later ones
are left for the database.
"""

import contextlib
import os
import shutil
from pathlib import Path

_SIZE = 8 * 2**20
_FRACTION = 16  # of a small disk
_SLICES = 8
_HEADROOM = 4  # times the reserve must be free before it is taken back


class Reserve:
    """A file beside the database. Everything here blocks: call it from a thread."""

    def __init__(self, path: Path):
        self._path = path

    @property
    def size(self) -> int:
        """Bytes that are held."""
        with contextlib.suppress(OSError):
            return self._path.stat().st_size
        return 0

    def hold(self) -> bool:
        """Set the whole of it aside if there is room for that; whether it is held."""
        disk = shutil.disk_usage(self._path.parent)
        size = min(_SIZE, disk.total // _FRACTION)
        if self.size >= size:
            return True
        if disk.free < _HEADROOM * size:
            return False
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError:
            self._shrink(0)
        return self.size >= size

    def release(self) -> bool:
        """Give up a slice; whether there was one."""
        held = self.size
        if not held:
            return False
        full = min(_SIZE, shutil.disk_usage(self._path.parent).total // _FRACTION)
        return self._shrink(max(0, held - max(1, full // _SLICES)))

    def _shrink(self, size: int) -> bool:
        with contextlib.suppress(OSError):
            if size:
                os.truncate(self._path, size)
            else:
                self._path.unlink()
            return True
        return False
