"""Space that is held back, and given up when the disk is full: what must be written then, or deleted, still can be."""

import contextlib
import os
import shutil
from pathlib import Path

_SIZE = 8 * 2**20
_FRACTION = 16  # of a small disk
_HEADROOM = 4  # times the reserve must be free before it is taken back


class Reserve:
    """A file beside the database. Everything here blocks: call it from a thread."""

    def __init__(self, path: Path):
        self._path = path

    @property
    def held(self) -> bool:
        return self._path.exists()

    def hold(self) -> bool:
        """Set the space aside if there is room for it; whether it is held."""
        if self.held:
            return True
        disk = shutil.disk_usage(self._path.parent)
        size = min(_SIZE, disk.total // _FRACTION)
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
            self.release()
        return self.held

    def release(self) -> bool:
        """Give it up; whether there was one."""
        with contextlib.suppress(OSError):
            self._path.unlink()
            return True
        return False
