"""What a runner and its nodes print, within bounds: on the disk it is counted as nobody's. Standard library only."""

import contextlib
import os
from pathlib import Path

MOST_BYTES = 4 * 2**20  # of a file; there are two, of which the older one goes
_PIECE = 2**16


class Output:
    """A pipe that is emptied into ``path``. What does not fit on the disk is lost, and the job goes on."""

    def __init__(self, path: Path):
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._file).st_size
        self.source, self.end = os.pipe()
        os.set_blocking(self.source, False)

    def hand_over(self) -> None:
        """The other end now belongs to others."""
        os.close(self.end)

    def take(self) -> bool:
        """Keep a piece of what was printed; False if there is none now, or never will be."""
        try:
            data = os.read(self.source, _PIECE)
        except BlockingIOError:
            return False
        with contextlib.suppress(OSError):
            self._keep(data)
        return bool(data)

    def close(self) -> None:
        """With what is left in the pipe."""
        for _ in range(MOST_BYTES // _PIECE):  # who still holds the other end cannot keep the shim here
            if not self.take():
                break
        os.close(self.source)
        os.close(self._file)

    def _keep(self, data: bytes) -> None:
        if self._size + len(data) > MOST_BYTES:
            os.replace(self._path, self._path.with_suffix(".log.1"))
            fresh = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
            os.dup2(fresh, self._file, inheritable=False)
            os.close(fresh)
            self._size = 0
        self._size += os.write(self._file, data)
