"""All archives of a seed: the hostile ones of every shape, the harmless ones, and such as are damaged at random."""

import gzip
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import harmless, shapes, tricks
from .tarbytes import END, ROOT, file, packed
from .watch import Entry

HOSTILE = shapes.SHAPES | tricks.RAW


class Upload(NamedTuple):
    """``reason`` is a piece of the refusal; ``tree`` what the archive must unpack to. Neither: it may go either way."""

    name: str
    data: bytes
    reason: str | None = None
    tree: dict[str, Entry] | None = None


def hostile(seed: int, each: int, outside: Path) -> Iterator[Upload]:
    """``each`` archives of each shape. ``outside`` is a path that must never be touched."""
    for name, (make, reason) in HOSTILE.items():
        for number in range(each):
            maker = _maker(seed, name, number, outside)
            data = make(maker) if name in tricks.RAW else packed(_before(maker), make(maker), maker.harmless(1))
            yield Upload(f"{name}-{number}", data, reason=reason)


def accepted(seed: int, each: int, outside: Path) -> Iterator[Upload]:
    for make in harmless.HARMLESS:
        for number in range(each):
            data, tree = make(_maker(seed, make.__name__, number, outside))
            yield Upload(f"{make.__name__}-{number}", data, tree=tree)


def mutated(seed: int, count: int, outside: Path) -> Iterator[Upload]:
    """Hostile and harmless tars with some bytes changed, the gzip around them sound."""
    names = sorted(set(HOSTILE) - set(tricks.RAW))
    for number in range(count):
        maker = _maker(seed, "mutated", number, outside)
        if maker.rng.random() < 0.5:
            tar = bytearray(ROOT + HOSTILE[maker.rng.choice(names)][0](maker) + file(b"f") + END)
        else:
            tar = bytearray(gzip.decompress(maker.rng.choice(harmless.HARMLESS)(maker)[0]))
        for _ in range(maker.rng.randint(1, 6)):
            at = maker.rng.randrange(len(tar))
            tar[at] = maker.rng.choice([0, 0xFF, ord("/"), ord("."), maker.rng.randrange(256), tar[at] ^ 1])
            if maker.rng.random() < 0.7:
                _mend_checksum(tar, at)
        yield Upload(f"mutated-{number}", packed(bytes(tar)))


def _maker(seed: int, name: str, number: int, outside: Path) -> shapes.Maker:
    return shapes.Maker(random.Random(f"{seed}/{name}/{number}"), str(outside).encode())


def _before(maker: shapes.Maker) -> bytes:
    """Often the client's root member and a harmless file stand in front."""
    return maker.rng.choice([b"", ROOT]) + maker.harmless(1)


def _mend_checksum(tar: bytearray, at: int) -> None:
    """Of the block that was changed, as if it were a header: so that the change is looked at."""
    begin = at // 512 * 512
    tar[begin + 148 : begin + 156] = b" " * 8
    tar[begin + 148 : begin + 155] = b"%06o\0" % sum(tar[begin : begin + 512])
