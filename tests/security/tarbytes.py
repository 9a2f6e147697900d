"""Tar and gzip archives made byte by byte, also such as no library writes."""

import gzip
import random
from collections.abc import Mapping

BLOCK = 512


def header(
    name: bytes, kind: bytes = b"0", size: bytes = b"0", link: bytes = b"", mode: bytes = b"644", *,
    prefix: bytes = b"", mtime: bytes = b"0", magic: bytes = b"ustar\x0000", signed: bool = False, off: int = 0,
) -> bytes:  # fmt: skip
    """A header block. Numbers are octal digits, or raw base 256. ``off`` is added to the checksum."""
    head = bytearray(BLOCK)
    fields = {
        0: name[:100], 100: mode, 108: b"0", 116: b"0", 124: size, 136: mtime, 156: kind, 157: link[:100],
        257: magic, 345: prefix[:155],
    }  # fmt: skip
    for offset, value in fields.items():
        head[offset : offset + len(value)] = value
    head[148:156] = b" " * 8
    total = sum(byte - 256 * (signed and byte > 127) for byte in head)
    head[148:155] = b"%06o\0" % (total + off)
    return bytes(head)


def data(content: bytes) -> bytes:
    """Content, padded to whole blocks."""
    return content + bytes(-len(content) % BLOCK)


def base256(number: int) -> bytes:
    """A 12 byte field's number, as GNU tar writes large and negative ones."""
    if number < 0:
        return number.to_bytes(12, "big", signed=True)
    return b"\x80" + number.to_bytes(11, "big")


def extended(kind: bytes, content: bytes) -> bytes:
    return header(b"extended", kind, b"%o" % len(content)) + data(content)


def record(key: bytes, value: bytes) -> bytes:
    """One statement of a POSIX extended header; its length counts itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(b"%d" % length) + len(rest):
        length += 1
    return b"%d" % length + rest


def pax(statements: Mapping[str, str | bytes], kind: bytes = b"x") -> bytes:
    records = (
        record(key.encode(), value.encode() if isinstance(value, str) else value) for key, value in statements.items()
    )
    return extended(kind, b"".join(records))


def file(name: bytes, content: bytes = b"x", mode: bytes = b"644") -> bytes:
    return header(name, size=b"%o" % len(content), mode=mode) + data(content)


def directory(name: bytes) -> bytes:
    return header(name, b"5", mode=b"755")


def symlink(name: bytes, target: bytes) -> bytes:
    return header(name, b"2", link=target)


def hardlink(name: bytes, target: bytes) -> bytes:
    return header(name, b"1", link=target)


ROOT = header(b"/", b"5", mode=b"755")  # the client's first member
END = bytes(2 * BLOCK)


def packed(*blocks: bytes, level: int = 6) -> bytes:
    """A whole gzip tar of these blocks."""
    return gzip.compress(b"".join(blocks) + END, level, mtime=0)


def anyhow(
    rng: random.Random, name: bytes, kind: bytes = b"0", content: bytes = b"", link: bytes = b"", mode: bytes = b"644"
) -> bytes:
    """A member, its name and target written in one of the ways that fit: plain, with a prefix, GNU's or POSIX's."""
    before, short, prefix, statements = b"", name, b"", {}
    at = name.rfind(b"/", 0, 156)
    ways = ["gnu", "pax"] + ["plain"] * (len(name) <= 100) + ["prefix"] * (0 < at < len(name) - 1 < at + 101)
    match rng.choice(ways):
        case "gnu":
            before, short = extended(b"L", name + b"\0"), name[: rng.choice([0, 20])] or b"harmless"
        case "pax":
            statements["path"], short = name, b"harmless"
        case "prefix":
            prefix, short = name[:at], name[at + 1 :]
    if link and (len(link) > 100 or rng.random() < 0.5):
        if rng.random() < 0.5:
            before, link = before + extended(b"K", link + b"\0"), b"harmless"
        else:
            statements["linkpath"], link = link, b"harmless"
    if statements:
        before += pax(statements)
    return before + header(short, kind, b"%o" % len(content), link, mode, prefix=prefix) + data(content)
