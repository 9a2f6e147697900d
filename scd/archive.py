"""Archives: unpacking a stranger's upload, packing a node's results. Standard library only, and isal where it is.

Both run in the runner, as the job's account.
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

_gzip_file: Any
_gzip_errors: Any
try:
    from isal import igzip, isal_zlib

    _gzip_file, _gzip_errors = igzip.IGzipFile, (isal_zlib.IsalError, gzip.BadGzipFile)
except ImportError:  # no wheel for this Python: four times slower, otherwise the same
    _gzip_file, _gzip_errors = gzip.GzipFile, (zlib.error, gzip.BadGzipFile)

_LEVEL = 1


class Refused(Exception):
    """An archive that is damaged, hostile or too large. The text is for the user."""


# -- unpacking


def unpack(source: IO[bytes], target: Path, max_bytes: int, max_members: int) -> None:
    """Extract a gzip tar below ``target``, which exists. Raises Refused, and OSError if the disk is full.

    Only files, directories and links that stay inside are taken. A link whose path or target leads over another link
    is refused: that is how tarfile's own filter was got around. No owner, no set-id bit, no device is kept.
    (tarfile's filters are not used: Debian 12's Python has none, and they are no defence against bombs.)
    """
    guard = _Guard(max_bytes, max_members)
    try:
        with _gzip_file(fileobj=source) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            for member in tar:
                path = guard.check(member)
                if path is not None:
                    _extract(tar, member, target, path)
            _read_to_end(plain, guard)
    except (tarfile.TarError, EOFError, ValueError, RecursionError, *_gzip_errors) as error:
        raise Refused(f"the archive is damaged: {error}") from None


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, path: str) -> None:
    """Write a checked member. No step of ``path`` is a link: the guard knows all that were made."""
    place = target / path
    try:
        if member.isdir():
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            return
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        if member.issym():
            place.symlink_to(member.linkname)
        elif member.islnk():
            os.link(target / member.linkname, place, follow_symlinks=False)
        else:
            content = tar.extractfile(member)
            assert content is not None
            with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                shutil.copyfileobj(content, file)
                os.fchmod(file.fileno(), member.mode & 0o755 | 0o600)
            # SiliconCompiler looks at times to know whether a source has changed.
            os.utime(place, (member.mtime, member.mtime))
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError):
        raise Refused(f"{member.name!r} is a directory and something else") from None
    except OverflowError:
        raise Refused(f"{member.name!r} has an impossible time") from None


def _read_to_end(plain: IO[bytes], guard: "_Guard") -> None:
    """The checksum stands behind the archive's own end, and is only looked at there."""
    while chunk := plain.read(2**20):
        guard.bytes_left -= len(chunk)
        if guard.bytes_left < 0:
            raise Refused(f"the archive unpacks to more than {guard.max_bytes} bytes")


class _Guard:
    """What an archive has claimed so far."""

    def __init__(self, max_bytes: int, max_members: int):
        self.bytes_left, self.members_left = max_bytes, max_members
        self.max_bytes, self.max_members = max_bytes, max_members
        self.files: set[str] = set()
        self.links: set[str] = set()
        self.link_targets: set[str] = set()

    def check(self, member: tarfile.TarInfo) -> str | None:
        """Where below the target the member may be extracted, None for the target itself."""
        self._count(member)
        path = _inside(member.name, member.name)
        if path == ".":
            if not member.isdir():
                raise Refused("the archive's root is not a directory")
            return None
        if any(step in self.links for step in (*_parents(path), path)):
            raise Refused(f"{member.name!r} leads over a link")
        if member.issym():
            if not member.linkname or member.linkname.startswith("/"):
                raise Refused(f"the link {member.name!r} is absolute or empty")
            self._check_link(path, _inside(os.path.join(os.path.dirname(path), member.linkname), member.name))
        elif member.islnk():
            source = _inside(member.linkname, member.name)
            if source not in self.files or source == path:
                raise Refused(f"the hard link {member.name!r} does not lead to a file of this archive")
            member.linkname = source
        if not (member.issym() or member.isdir()):
            self.files.add(path)
        return path

    def _count(self, member: tarfile.TarInfo) -> None:
        self.members_left -= 1
        if member.size < 0:
            raise Refused(f"{member.name!r} has an impossible size")
        self.bytes_left -= member.size
        if self.members_left < 0:
            raise Refused(f"the archive has more than {self.max_members} members")
        if self.bytes_left < 0:
            raise Refused(f"the archive unpacks to more than {self.max_bytes} bytes")
        if member.sparse is not None:
            raise Refused(f"{member.name!r} is a sparse file")
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            raise Refused(f"{member.name!r} is neither a file, a directory nor a link")

    def _check_link(self, path: str, target: str) -> None:
        if path in self.link_targets or path in self.files:
            raise Refused(f"a link leads to the link {path!r}")
        if any(step in self.links for step in (*_parents(target), target)):
            raise Refused(f"the link {path!r} leads over another link")
        self.links.add(path)
        self.link_targets.update((*_parents(target), target))


def _inside(path: str, name: str) -> str:
    if len(name) > 4096 or "\0" in name:
        raise Refused("a member's name is too long or holds a NUL")
    normal = os.path.normpath(path or ".")
    if path.startswith("/") or normal == ".." or normal.startswith("../"):
        raise Refused(f"{name!r} leads out of the job's directory")
    return normal


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


# -- packing


def pack(target: IO[bytes], root: Path, paths: Iterable[Path]) -> None:
    """Write a gzip tar of ``paths``, named relative to ``root``, which the client's ``data`` filter will take.

    Files that change or vanish meanwhile are tolerated: a node may still write. Links inside ``root`` are followed,
    others are left out, as are devices, sockets and pipes.
    """
    with (
        _gzip_file(fileobj=target, mode="wb", compresslevel=_LEVEL, mtime=0) as plain,
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
    with _gzip_file(fileobj=archive) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
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
