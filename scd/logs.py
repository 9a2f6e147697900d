"""A node's log out of its archive. The job has filled that: it is read as a stranger's, and a piece at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .archive import GZIP_ERRORS, gzip_file
from .durable import open_plain
from .errors import NoResults
from .model import NodeKey
from .sealed import sealed
from .tar import Kind, Refused, TarReader

_MOST_UNPACKED = 16 * 2**30  # bytes before the log, which stands at an archive's end


def read_log(archive: Path, key: NodeKey, offset: int, most: int) -> bytes:
    """Up to ``most`` bytes from ``offset`` on. Blocks. Raises OSError, or NoResults if there is no log to be read."""
    return _part(_content(archive, key), offset, most)


def read_end(archive: Path, key: NodeKey, most: int) -> tuple[bytes, int]:
    """The last ``most`` bytes, and how many there are in all. As ``read_log``."""
    end, size = bytearray(), 0
    for data in _content(archive, key):
        size += len(data)
        end += data
        del end[:-most]
    return bytes(end), size


def _content(archive: Path, key: NodeKey) -> Iterator[bytes]:
    name = f"/{key.step}/{key.index}/sc_{key.step}_{key.index}.log"
    try:
        with open(open_plain(archive), "rb") as file, gzip_file(fileobj=file) as plain:
            reader = TarReader(_Bounded(plain))
            for member in reader:
                if member.kind is Kind.FILE and member.name.endswith(name):
                    yield from reader.content()
                    return
    except FileNotFoundError:
        if not sealed(archive).exists():
            raise
        raise NoResults(
            f"The log of node {key} is encrypted to the key of the job's owner: his client fetches it."
        ) from None
    except (Refused, *GZIP_ERRORS) as error:
        raise NoResults(f"The archive of node {key} cannot be read: {error}.") from None
    raise NoResults(f"Node {key} wrote no log.")


def _part(content: Iterator[bytes], offset: int, most: int) -> bytes:
    part = bytearray()
    for data in content:
        part += data[offset : offset + most - len(part)]
        offset = max(0, offset - len(data))
        if len(part) >= most:
            break
    return bytes(part)


class _Bounded:
    """What a few kilobytes unpack to has no limit of its own."""

    def __init__(self, plain: IO[bytes]):
        self._plain, self._left = plain, _MOST_UNPACKED

    def read(self, count: int, /) -> bytes:
        self._left -= count
        if self._left < 0:
            raise Refused("it is too large")
        return self._plain.read(count)
