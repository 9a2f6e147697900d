"""Archives of results: packing a node's directory, removing a tree.

Standard library only, and isal where it is. Packing runs in the runner, as the job's account.
"""

import gzip
import io
import itertools
import os
import secrets
import stat
import tarfile
import zlib
from collections.abc import Iterable, Iterator
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


def remove_tree(path: Path) -> None:
    """Remove a directory, however deep it is and whatever permissions a job took from its own directories.

    Each directory is moved up to the root before it is emptied: no path grows past the system's limit, nothing recurs.
    """
    root = _open_unlocked(str(path))
    try:
        aside = (f"{prefix}-{number}" for prefix in [secrets.token_hex(8)] for number in itertools.count())
        pending = _empty(root, root, aside)
        while pending:
            name = pending.pop()
            directory = _open_unlocked(name, dir_fd=root)
            try:
                pending += _empty(directory, root, aside)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=root)
    finally:
        os.close(root)
    os.rmdir(path)


def _empty(directory: int, root: int, aside: Iterator[str]) -> list[str]:
    """Remove all files of a directory; its directories are moved to the root. Their names there."""
    moved = []
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
        elif directory == root:
            moved.append(name)
        else:
            os.close(_open_unlocked(name, dir_fd=directory))  # a directory without permissions cannot be moved
            moved.append(next(aside))
            os.rename(name, moved[-1], src_dir_fd=directory, dst_dir_fd=root)
    return moved


def _open_unlocked(name: str, dir_fd: int | None = None) -> int:
    """A descriptor of a directory, which is given its permissions back. Never of what a link leads to."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)
