"""Unpacking a stranger's upload. Standard library only, and isal where it is. Runs in the runner, as the job's account.

Only files, directories and links that stay inside are taken. No owner, no set-id bit, no device is kept. tarfile is not
used: its filters are missing in older Pythons, were got around more than once, and are no defence against bombs.
"""

import itertools
import os
import re
from pathlib import Path
from typing import IO, NamedTuple

from .archive import GZIP_ERRORS, gzip_file, remove_tree
from .tar import Kind, Member, Refused, Source, TarReader, damaged, quote

_MAX_NAME = 2048  # bytes; the system takes 4096, the job's own directory included
_MAX_COMPONENT = 255  # bytes, as file systems have it
_MAX_DEPTH = 100
_MAX_NAMES = 2**28  # bytes of all names: they are kept in memory
_LOOK_EVERY = 2**26  # bytes
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_IN_THE_WAY = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


class Limits(NamedTuple):
    """What an upload may unpack to."""

    max_bytes: int  # of the whole tar
    max_members: int
    max_ratio: int  # tar to upload, looked at above ``ratio_from`` bytes
    ratio_from: int = 2**28
    min_free: int = 0  # bytes that stay free on the disk


def unpack(source: IO[bytes], target: Path, limits: Limits) -> None:
    """Extract a gzip tar below ``target``, which exists. Raises Refused, and OSError if the disk is full.

    Of an archive that is not taken whole nothing stays: ``target`` is empty then.
    """
    guard = _Guard(limits.max_members)
    try:
        with gzip_file(fileobj=source) as plain:
            meter = _Meter(plain, _size(source), target, limits)
            tar = TarReader(meter)
            for member in tar:
                path = guard.check(member)
                meter.require(member.size)
                if path is not None:
                    _extract(tar, member, target, path)
    except BaseException as error:
        _empty(target)
        if isinstance(error, GZIP_ERRORS):
            raise damaged("it is cut off, or no gzip file") from None
        raise


def _extract(tar: TarReader, member: Member, target: Path, path: str) -> None:
    """Write a checked member. No step of ``path`` is a link: the guard knows all that were made."""
    place = target / path
    try:
        if member.kind is Kind.DIRECTORY:
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            return
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        if member.kind is Kind.SYMLINK:
            place.symlink_to(member.target)
        elif member.kind is Kind.HARDLINK:
            os.link(target / os.path.normpath(member.target), place, follow_symlinks=False)
        else:
            with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.writelines(tar.content())
                os.fchmod(file.fileno(), member.mode & 0o755 | 0o600)
            # SiliconCompiler looks at times to know whether a source has changed.
            os.utime(place, (member.mtime, member.mtime))
    except _IN_THE_WAY:
        raise Refused(f"{quote(member.name)} is a directory and something else") from None


def _empty(target: Path) -> None:
    for path in target.iterdir():
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()


def _size(source: IO[bytes]) -> int:
    """Bytes of the upload, which stands at its beginning."""
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return size


class _Meter:
    """An uncompressed tar that may not be longer than it is allowed to be."""

    def __init__(self, plain: Source, upload: int, target: Path, limits: Limits):
        self._plain = plain
        self._target = target
        self._min_free = limits.min_free
        self._room = 0  # on the disk, as it was last looked at
        by_ratio = max(limits.max_ratio * upload, limits.ratio_from)
        self._left = min(limits.max_bytes, by_ratio)
        self._reason = (
            f"the archive unpacks to more than {limits.max_bytes} bytes"
            if limits.max_bytes <= by_ratio
            else f"the archive unpacks to more than {limits.max_ratio} times its size"
        )

    def read(self, count: int, /) -> bytes:
        data = self._plain.read(count)
        self.require(len(data))
        self._left -= len(data)
        self._room -= len(data)
        return data

    def require(self, size: int) -> None:
        """What a header announces is refused before it is unpacked."""
        if size > self._left:
            raise Refused(self._reason)
        if size > self._room:
            self._look(size)

    def _look(self, size: int) -> None:
        """A slice at a time, for others fill the disk too."""
        disk = os.statvfs(self._target)
        room = disk.f_bavail * disk.f_frsize - self._min_free
        if size > room:
            raise Refused("the server's disk has no space for it; try again when jobs have been deleted")
        self._room = min(room, _LOOK_EVERY)


class _Guard:
    """What an archive has claimed so far."""

    def __init__(self, max_members: int):
        self._max_members = self._members_left = max_members
        self._names_left = _MAX_NAMES
        self._files: set[str] = set()
        self._links: set[str] = set()
        self._link_targets: set[str] = set()

    def check(self, member: Member) -> str | None:
        """Where below the target the member may be extracted, None for the target itself."""
        self._members_left -= 1
        if self._members_left < 0:
            raise Refused(f"the archive has more than {self._max_members} members")
        path = self._inside(member.name, member)
        if path == ".":
            if member.kind is not Kind.DIRECTORY:
                raise Refused("the archive's root is not a directory")
            return None
        if self._crosses_link(path):
            raise Refused(f"{quote(member.name)} leads over a link")
        if member.kind is Kind.SYMLINK:
            self._check_symlink(path, member)
        elif member.kind is Kind.HARDLINK:
            source = self._inside(member.target, member)
            if source not in self._files or source == path:
                raise Refused(f"the hard link {quote(member.name)} does not lead to a file of this archive")
        if member.kind in (Kind.FILE, Kind.HARDLINK):
            self._files.add(path)
        return path

    def _check_symlink(self, path: str, member: Member) -> None:
        name = quote(member.name)
        if not member.target or member.target.startswith("/"):
            raise Refused(f"the link {name} is absolute or empty")
        # ".." behind a name depends on what that name will be: a link would lead elsewhere than the text says.
        steps = [step for step in member.target.split("/") if step not in ("", ".")]
        if ".." in itertools.dropwhile("..".__eq__, steps):
            raise Refused(f"the link {name} leads down and up again")
        target = self._inside(os.path.join(os.path.dirname(path), member.target), member)
        if path in self._link_targets or path in self._files:
            raise Refused(f"a link leads to the link {name}")
        if self._crosses_link(target):
            raise Refused(f"the link {name} leads over another link")
        self._links.add(path)
        self._link_targets.update(_steps(target))

    def _crosses_link(self, path: str) -> bool:
        return bool(self._links) and any(step in self._links for step in _steps(path))

    def _inside(self, path: str, member: Member) -> str:
        """A path of the member, as short as it can be written."""
        name = quote(member.name)
        size = len(os.fsencode(path))
        self._names_left -= size
        if self._names_left < 0:
            raise Refused(f"the names in the archive take more than {_MAX_NAMES} bytes")
        if size > _MAX_NAME:
            raise Refused(f"the name {name} has more than {_MAX_NAME} bytes")
        if _CONTROL.search(path):
            raise Refused(f"the name {name} or its target holds a control character")
        normal = os.path.normpath(path or ".")
        steps = normal.split("/")
        if path.startswith("/") or steps[0] == "..":
            raise Refused(f"{name} leads out of the job's directory")
        if len(steps) > _MAX_DEPTH:
            raise Refused(f"{name} lies more than {_MAX_DEPTH} directories deep")
        if any(len(os.fsencode(step)) > _MAX_COMPONENT for step in steps):
            raise Refused(f"a part of the name {name} has more than {_MAX_COMPONENT} bytes")
        return normal


def _steps(path: str) -> list[str]:
    """``["a", "a/b", "a/b/c"]`` of ``a/b/c``."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
