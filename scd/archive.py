"""Archives of results: packing a node's directory, reading a member, removing a tree.

Standard library only, and isal where it is. Packing runs in the runner, as the job's account.
"""

import gzip
import io
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

gzip_file: Any
GZIP_ERRORS: Any  # what damage and tricks in gzip data raise
try:
    from isal import igzip, isal_zlib

    gzip_file = igzip.IGzipFile
    GZIP_ERRORS = (isal_zlib.IsalError, gzip.BadGzipFile, EOFError, OverflowError)  # the last: an endless gzip header
except ImportError:  # no wheel for this Python: four times slower, otherwise the same
    gzip_file, GZIP_ERRORS = gzip.GzipFile, (zlib.error, gzip.BadGzipFile, EOFError)

_LEVEL = 1


def pack(target: IO[bytes], root: Path, paths: Iterable[Path]) -> None:
    """Write a gzip tar of ``paths``, named relative to ``root``, which the client's ``data`` filter will take.

    Files that change or vanish meanwhile are tolerated: a node may still write. Links inside ``root`` are followed,
    others are left out, as are devices, sockets and pipes.
    """
    with (
        gzip_file(fileobj=target, mode="wb", compresslevel=_LEVEL, mtime=0) as plain,
        tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in paths:
            _add(tar, root, path)


def _add(tar: tarfile.TarFile, root: Path, path: Path) -> None:
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            real = path.resolve(strict=True)
            if not real.is_relative_to(root.resolve()) or not real.is_file():
                return
            _add_file(tar, root, path, real)
        elif stat.S_ISREG(status.st_mode):
            _add_file(tar, root, path, path)
        elif stat.S_ISDIR(status.st_mode):
            entry = _entry(root, path, status)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
            for child in sorted(path.iterdir()):
                _add(tar, root, child)
    except FileNotFoundError:
        return


def _add_file(tar: tarfile.TarFile, root: Path, path: Path, real: Path) -> None:
    with open(real, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return
        entry = _entry(root, path, status)
        entry.size = status.st_size
        tar.addfile(entry, _Exactly(file, status.st_size))


def _entry(root: Path, path: Path, status: os.stat_result) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(str(path.relative_to(root)))
    entry.mode = stat.S_IMODE(status.st_mode) & 0o755 | 0o600
    entry.mtime = int(status.st_mtime)
    return entry


class _Exactly(io.RawIOBase):
    """A file cut or filled with zeros to the size its header already announced."""

    def __init__(self, file: IO[bytes], size: int):
        self._file, self._left = file, size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        self._left -= wanted
        return data + bytes(wanted - len(data))


def read_member(archive: IO[bytes], suffix: str) -> bytes | None:
    """The content of the first member whose name ends with ``/suffix``."""
    with gzip_file(fileobj=archive) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        for member in tar:
            if member.isreg() and member.name.endswith(f"/{suffix}") and (file := tar.extractfile(member)) is not None:
                return file.read()
    return None


def remove_tree(path: Path) -> None:
    """Remove a directory, also one in which a job took the permissions from its own directories."""
    os.chmod(path, 0o700)
    for parent, directories, _ in os.walk(path):
        for name in directories:
            place = os.path.join(parent, name)
            if not os.path.islink(place):
                os.chmod(place, 0o700)
    shutil.rmtree(path)
