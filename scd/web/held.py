"""A submission's ``params`` while it is taken: strangers send it, and it may have a hundred megabytes."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

_IN_MEMORY = 2**20  # bytes; SiliconCompiler's manifests mostly have less
_BLOCK = 2**20
_TAIL = 2**16  # never on the disk: the client's credentials, which come after the manifest


class Held:
    """In memory while it is small, else in a file without a name: what is broken off leaves nothing.

    ``check_space`` is asked before each block that goes to the disk; it raises DiskFull.
    """

    def __init__(self, directory: Path, check_space: Callable[[int], None]):
        self._directory = directory
        self._check_space = check_space
        self._data = bytearray()
        self._file: IO[bytes] | None = None
        self.size = 0

    @property
    def is_large(self) -> bool:
        return self.size > _IN_MEMORY

    async def add(self, data: bytes) -> None:
        self._data += data
        self.size += len(data)
        if self.is_large and len(self._data) >= _BLOCK + _TAIL:
            await asyncio.to_thread(self._spill)

    async def read(self) -> bytes:
        """All of it. Large ones: a few at a time, please."""
        return await asyncio.to_thread(self._read)

    async def replace(self, data: bytes | memoryview) -> None:
        """Hold this instead."""
        await asyncio.to_thread(self._replace, data)

    def write_to(self, path: Path) -> None:
        """Blocks."""
        with open(path, "wb") as target:
            if self._file is not None:
                self._file.seek(0)
                shutil.copyfileobj(self._file, target, _BLOCK)
            target.write(self._data)

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what a full disk did not take is not wanted any more
                self._file.close()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=_BLOCK)  # noqa: SIM115 - see close()
        self._check_space(len(self._data))
        with memoryview(self._data) as data:
            self._file.write(data[:-_TAIL])
        del self._data[:-_TAIL]

    def _read(self) -> bytes:
        if self._file is None:
            return bytes(self._data)
        self._file.seek(0)
        return b"".join((self._file.read(), self._data))

    def _replace(self, data: bytes | memoryview) -> None:
        self.size = len(data)
        if self._file is None:
            self._data = bytearray(data)
            return
        before = self._file.seek(0, os.SEEK_END)
        self._data = bytearray()
        self._file.seek(0)
        self._file.write(data)
        self._file.write(bytes(max(0, before - self.size)))  # a password may have stood there
        self._file.truncate(self.size)
