"""Reading a stranger's tar, header by header, as POSIX and GNU have it, and nothing that only resembles it.

tarfile is too kind for this: it takes a broken header in the middle for the end, a cut file for a whole one, and reads
a header's extension of any size into memory. Standard library only.
"""

import math
import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple, Protocol

_BLOCK = 512
_CHUNK = 2**20
_MAX_EXTENSION = 2**20  # bytes of extended headers of one member
_MAX_EXTENSIONS = 8  # headers of that kind before one member
_MAX_QUOTED = 100  # characters
_MAX_TIME = 2.0**35  # seconds; a thousand years from now
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_DECIMAL = re.compile(r"[0-9]{1,20}", re.ASCII)
# What an extended header may say of one member, and never of all that follow.
_OF_ONE = frozenset({"path", "linkpath", "size"})
_SPARSE = "GNU.sparse."


class Refused(Exception):
    """An archive that is damaged, hostile or too large. The text is for the user."""


class Kind(Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"


_KINDS = {b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"5": Kind.DIRECTORY, b"2": Kind.SYMLINK,
          b"1": Kind.HARDLINK}  # fmt: skip


class Member(NamedTuple):
    """One member as its headers claim. Nothing of it is checked but that it can be read."""

    name: str
    kind: Kind
    size: int  # bytes of content, 0 for all but files
    mode: int
    mtime: float
    target: str  # of a link, "" for others


class Source(Protocol):
    def read(self, count: int, /) -> bytes:
        """``count`` bytes, fewer only at the end."""


class TarReader:
    """The members of an uncompressed tar, in order. ``content()`` is of the member that came last."""

    def __init__(self, source: Source):
        self._source = source
        self._left = 0  # bytes of the last member's content and padding that were not read
        self._padding = 0
        self._global: dict[str, str] = {}

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            yield member

    def content(self) -> Iterator[bytes]:
        """The last member's content. Raises Refused if the archive ends in it."""
        while self._left > self._padding:
            yield self._take(min(_CHUNK, self._left - self._padding))
        self._take(self._left)

    def _next(self) -> Member | None:
        for _ in self.content():
            pass
        own: dict[str, str] = {}
        budget = _MAX_EXTENSION
        for _ in range(_MAX_EXTENSIONS + 1):
            header = self._header()
            if header is None:
                if own:
                    raise damaged("an extended header belongs to no member")
                return None
            kind = header[156:157]
            if kind not in (b"x", b"g", b"L", b"K"):
                return self._member(header, self._global | own)
            size = _number(header[124:136], "size")
            budget -= size
            if budget < 0:
                raise Refused(f"a member's extended headers take more than {_MAX_EXTENSION} bytes")
            data = self._take(size)
            self._take(-size % _BLOCK)
            self._extend(own, kind, data)
        raise Refused(f"more than {_MAX_EXTENSIONS} extended headers stand before one member")

    def _extend(self, own: dict[str, str], kind: bytes, data: bytes) -> None:
        """Take an extended header's statements, of the next member or, with "g", of all that follow."""
        if kind in b"LK":
            name, _, rest = data.partition(b"\0")
            if rest.strip(b"\0"):
                raise damaged("a long name holds a NUL")
            found = {"path" if kind == b"L" else "linkpath": _text(name)}
        else:
            found = _records(data)
        if kind == b"g":
            if any(key in _OF_ONE or key.startswith(_SPARSE) for key in found):
                raise Refused("an extended header gives one name, target or size to all members")
            # Only what is looked at is kept: there may be any number of these headers.
            self._global |= {key: value for key, value in found.items() if key == "mtime"}
            return
        if twice := sorted(own.keys() & found.keys()):
            raise Refused(f"two extended headers state the {twice[0]} of one member")
        own |= found

    def _member(self, header: bytes, extra: dict[str, str]) -> Member:
        name = extra.get("path") or _name(header)
        target = extra.get("linkpath") or _text(header[157:257].partition(b"\0")[0])
        size = _size(extra["size"], name) if extra.get("size") else _number(header[124:136], "size")
        flag = header[156:157]
        if flag == b"S" or any(key.startswith(_SPARSE) for key in extra):
            raise Refused(f"{quote(name)} is a sparse file")
        kind = _KINDS.get(flag)
        if kind is None:
            raise Refused(f"{quote(name)} is neither a file, a directory nor a link")
        if kind is Kind.FILE and name.endswith("/"):
            if flag != b"\0":
                raise Refused(f"the file {quote(name)} has a directory's name")
            kind = Kind.DIRECTORY  # as tar wrote it before there was a flag for directories
        if kind is Kind.DIRECTORY:
            name = name.rstrip("/")  # nothing is left of the client's own root, which is "/"
        if kind is not Kind.FILE and size:
            raise Refused(f"the {kind.value} {quote(name)} claims to have content")
        self._padding = -size % _BLOCK
        self._left = size + self._padding
        return Member(
            name=name, kind=kind, size=size, mode=_number(header[100:108], "mode") & 0o7777,
            mtime=_time(extra.get("mtime"), header, name),
            target=target if kind in (Kind.SYMLINK, Kind.HARDLINK) else "",
        )  # fmt: skip

    def _header(self) -> bytes | None:
        """The next header, None at the archive's end, behind which there may only be zeros."""
        header = self._source.read(_BLOCK)
        if len(header) < _BLOCK:
            raise damaged("it ends without an end marker")
        if any(header):
            if _number(header[148:156], "checksum") not in _checksums(header):
                raise damaged("a header's checksum is wrong")
            return header
        while rest := self._source.read(_CHUNK):
            if any(rest):
                raise damaged("there is something behind its end marker")
        return None

    def _take(self, count: int) -> bytes:
        data = self._source.read(count) if count else b""
        self._left = max(0, self._left - count)
        if len(data) != count:
            raise damaged("it ends in the middle of a member")
        return data


def quote(name: str) -> str:
    """A member's name for a message: safe on a terminal, and short."""
    return repr(name if len(name) <= _MAX_QUOTED else f"{name[:_MAX_QUOTED]}...")


def damaged(why: str) -> Refused:
    return Refused(f"the archive is damaged: {why}")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    """The name in a header alone. The prefix is POSIX's: in GNU's format other things stand there."""
    name = _text(header[:100].partition(b"\0")[0])
    prefix = _text(header[345:500].partition(b"\0")[0]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _checksums(header: bytes) -> tuple[int, int]:
    """Of unsigned bytes, as it should be, and of signed ones, as some have it."""
    rest = header[:148] + b" " * 8 + header[156:]
    total = sum(rest)
    return total, total - 256 * sum(byte > 127 for byte in rest)


def _number(field: bytes, what: str) -> int:
    """Octal digits, or base 256 for numbers that have too many of them."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True) if what == "time" else _negative(what)
    found = _OCTAL.fullmatch(field)
    if found is None:
        raise damaged(f"a header's {what} is no number")
    return int(found[1] or b"0", 8)


def _negative(what: str) -> int:
    raise damaged(f"a header's {what} is below zero")


def _size(value: str, name: str) -> int:
    if not _DECIMAL.fullmatch(value):
        raise Refused(f"{quote(name)} has an impossible size")
    return int(value)


def _time(value: str | None, header: bytes, name: str) -> float:
    try:
        time = float(value) if value else float(_number(header[136:148], "time"))
    except ValueError:
        time = math.nan
    if not abs(time) <= _MAX_TIME:
        raise Refused(f"{quote(name)} has an impossible time")
    return time


def _records(data: bytes) -> dict[str, str]:
    """The ``<length> <key>=<value>\\n`` records of a POSIX extended header."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        digits = data[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not space < end - 1 < len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
            raise damaged("an extended header cannot be read")
        if _text(key) in found:
            raise Refused(f"an extended header states {quote(_text(key))} twice")
        found[_text(key)] = _text(value)
        at = end
    return found
