"""Hostile archives by how they are written: headers, sizes, bombs, damage. As in ``shapes``, one function a shape.

``SHAPES`` of this module return the blocks of a tar; ``RAW`` the whole upload, gzip included.
"""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable

from .shapes import Maker, Shape, shape
from .tarbytes import (
    BLOCK,
    END,
    ROOT,
    base256,
    data,
    extended,
    file,
    header,
    packed,
    pax,
    record,
    symlink,
)

# What the suite allows: a bomb here is what is above these, not what would hurt the machine of the test.
MAX_BYTES = 2**19
MAX_MEMBERS = 150
MAX_RATIO = 20
RATIO_FROM = 2**18

RAW: dict[str, tuple[Shape, str]] = {}

TOO_LARGE = f"unpacks to more than {MAX_BYTES} bytes"
DAMAGED = "the archive is damaged"


def raw(reason: str) -> Callable[[Shape], Shape]:
    """As ``shape``, for whole uploads."""

    def register(function: Shape) -> Shape:
        RAW[function.__name__] = (function, reason)
        return function

    return register


# -- sparse files


@shape("is a sparse file")
def sparse_as_gnu_had_it(make: Maker) -> bytes:
    return header(make.path(), b"S", b"%o" % make.rng.randint(0, 9)) + data(b"x")


@shape("is a sparse file")
def sparse_by_an_extended_header(make: Maker) -> bytes:
    size = str(make.rng.choice([1, 2**20, 2**40, 2**62]))
    return make.rng.choice([
        pax({"GNU.sparse.size": size, "GNU.sparse.numblocks": "1", "GNU.sparse.offset": "0"}),
        pax({"GNU.sparse.map": "0,1", "GNU.sparse.size": size}),
        pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": size, "GNU.sparse.name": "../x"}),
    ]) + file(b"harmless", b"1\n0\n1\n")  # fmt: skip


# -- extended headers


@shape("two extended headers state the path")
def two_names(make: Maker) -> bytes:
    """Which one counts is another one for each program."""
    ways = [extended(b"L", b"harmless\0"), pax({"path": "harmless"})]
    evil = [extended(b"L", make.up() + b"\0"), pax({"path": make.up()})]
    order = [make.rng.choice(ways), make.rng.choice(evil)]
    make.rng.shuffle(order)
    return b"".join(order) + file(b"harmless")


@shape("two extended headers state the linkpath")
def two_targets(make: Maker) -> bytes:
    return extended(b"K", make.path() + b"\0") + pax({"linkpath": make.up()}) + symlink(b"a", b"b")


@shape("gives one name, target or size to all members")
def a_name_for_all(make: Maker) -> bytes:
    key = make.rng.choice(["path", "linkpath", "size", "GNU.sparse.name", "GNU.sparse.realsize"])
    return pax({key: make.rng.choice([make.up(), b"1", b"0"])}, b"g") + file(b"harmless")


@shape("extended headers stand before one member")
def extended_headers_without_end(make: Maker) -> bytes:
    count = make.rng.randint(9, 400)
    return b"".join(pax({f"key{n}": "x"}, make.rng.choice([b"x", b"g"])) for n in range(count)) + file(b"harmless")


@shape("extended headers take more than")
def a_huge_extended_header(make: Maker) -> bytes:
    """Announced, or really there: tarfile reads all of it into memory."""
    kind, size = make.rng.choice([b"L", b"K", b"x", b"g"]), 2 ** make.rng.randint(21, 60)
    return header(b"extended", kind, base256(size)) + bytes(make.rng.choice([0, BLOCK, 100 * BLOCK]))


@raw("an extended header belongs to no member")
def an_extended_header_at_the_end(make: Maker) -> bytes:
    return packed(file(b"harmless"), make.rng.choice([extended(b"L", make.up() + b"\0"), pax({"path": make.up()})]))


@shape("an extended header cannot be read")
def a_broken_extended_header(make: Maker) -> bytes:
    length = make.rng.choice([b"0", b"1", b"5", b"99999", b"-9", b"+9", b"", b" 9", b"1e1", b"999999999999"])
    good = record(b"comment", b"x")
    broken = make.rng.choice([
        length + b" path=../x\n", record(b"path", b"x")[:-1] + b"x", record(b"path", b"x") + b"\0", b"path=x\n",
        record(b"", b"x"), record(b"path", b"x").replace(b"=", b"_"),
    ])  # fmt: skip
    return extended(make.rng.choice([b"x", b"g"]), make.rng.choice([b"", good]) + broken) + file(b"harmless")


@shape("twice")
def a_statement_that_comes_twice(make: Maker) -> bytes:
    return extended(b"x", record(b"path", b"harmless") + record(b"path", make.up())) + file(b"harmless")


# -- sizes, times, numbers


@shape("impossible size")
def a_size_that_is_none(make: Maker) -> bytes:
    text = make.rng.choice(["-1", "1.5", "1e3", "x", "0x10", " 1", "9" * 30, "\u0661", "1_0", "-0"])
    return pax({"size": text}) + file(make.path())


@shape("size is below zero")
def a_negative_size(make: Maker) -> bytes:
    """Programs that go back by it read the same header for ever (CVE-2025-8194)."""
    return header(make.path(), size=base256(-make.rng.randint(1, 2**40))) + data(b"x")


@shape("is no number")
def a_number_that_is_none(make: Maker) -> bytes:
    junk = make.rng.choice([b"9", b"12 34", b"-1", b"0x1", b"\xc0", b"1.5", b"8"])
    return make.rng.choice([header(b"f", size=junk), header(b"f", mode=junk), header(b"f", mtime=junk)])


@shape("impossible time")
def a_time_that_is_none(make: Maker) -> bytes:
    text = make.rng.choice(["nan", "inf", "-inf", "1e300", "x", "1e11", "-1e12", "0x1", "1 2"])
    number = make.rng.choice([2**63, 2**36, -(2**40)])
    return make.rng.choice([pax({"mtime": text}) + file(b"f"), header(b"f", mtime=base256(number))])


@shape("claims to have content")
def content_where_none_can_be(make: Maker) -> bytes:
    """What stands in it is a header for some, and skipped by others."""
    name, kind = make.rng.choice([(b"d/", b"5"), (b"l", b"2"), (b"h", b"1"), (b"d/", b"\0")])
    hidden = file(make.up()[:100], b"escaped")
    return file(b"f") + header(name, kind, b"%o" % len(hidden), link=b"f") + hidden


# -- bombs


@shape(TOO_LARGE)
def a_bomb_in_one_file(make: Maker) -> bytes:
    return make.harmless() + make.named(make.path(), content=make.rng.randbytes(MAX_BYTES + make.rng.randint(0, 999)))


@shape(TOO_LARGE)
def a_bomb_in_many_files(make: Maker) -> bytes:
    size = make.rng.randint(8000, 40_000)
    return b"".join(file(b"f%d" % n, make.rng.randbytes(size)) for n in range(MAX_BYTES // size + 8))


@shape("unpacks to more than")
def a_bomb_that_is_only_announced(make: Maker) -> bytes:
    size = 2 ** make.rng.randint(20, 62)
    return make.rng.choice([pax({"size": str(size)}) + header(b"f"), header(b"f", size=base256(size))])


@shape(f"has more than {MAX_MEMBERS} members")
def too_many_members(make: Maker) -> bytes:
    kind, link = make.rng.choice([(b"5", b""), (b"0", b""), (b"2", b"x-x")])
    return b"".join(header(b"m%d" % n, kind, link=link) for n in range(MAX_MEMBERS + make.rng.randint(1, 200)))


@shape(f"has more than {MAX_MEMBERS} members")
def one_name_again_and_again(make: Maker) -> bytes:
    return file(make.path()) * (MAX_MEMBERS + make.rng.randint(1, 100))


@raw(f"unpacks to more than {MAX_RATIO} times its size")
def a_bomb_by_ratio(make: Maker) -> bytes:
    """Far below the limit on bytes, out of almost nothing."""
    size = make.rng.randint(RATIO_FROM + 1, MAX_BYTES - 9000)
    return packed(
        ROOT, make.rng.choice([file(b"f", bytes(size)), file(b"f", bytes(size // 3)) * 3 + file(b"g", bytes(2**14))])
    )


@raw("unpacks to more than")
def a_bomb_behind_the_end(make: Maker) -> bytes:
    return gzip.compress(file(b"f") + bytes(MAX_BYTES * make.rng.randint(2, 9)))


@raw("unpacks to more than")
def a_bomb_between_members(make: Maker) -> bytes:
    """Extended headers are no members: what counts these does not see them."""
    one = pax({"comment": "x" * make.rng.randint(20_000, 60_000)}, b"g") + file(b"f")
    return packed(one * (MAX_BYTES // 20_000 + 2))


@raw(DAMAGED)
def gzip_within_gzip(make: Maker) -> bytes:
    """What unpacks again and again fills the disk at some turn; here the first is the only one."""
    inner = packed(file(b"f", bytes(10_000)))
    for _ in range(make.rng.randint(1, 6)):
        inner = gzip.compress(inner)
    return inner


# -- damage


@raw(DAMAGED)
def a_wrong_checksum(make: Maker) -> bytes:
    bad = header(make.path(), off=make.rng.choice([-1, 1, 8, 100])) + data(b"x")
    return packed(ROOT, make.harmless(), bad, file(b"behind"))


@raw(DAMAGED)
def rubbish_between_members(make: Maker) -> bytes:
    return packed(file(b"f"), make.rng.randbytes(BLOCK * make.rng.randint(1, 4)), file(b"behind"))


@raw(DAMAGED)
def something_behind_the_end(make: Maker) -> bytes:
    """A second archive, which another program may find."""
    return gzip.compress(file(b"f") + bytes(BLOCK * make.rng.randint(1, 9)) + file(make.up()[:100], b"escaped") + END)


@raw(DAMAGED)
def no_end_marker(make: Maker) -> bytes:
    return gzip.compress(ROOT + make.harmless() + file(make.path()))


@raw(DAMAGED)
def a_tar_that_is_cut(make: Maker) -> bytes:
    """Within a good gzip file: its checksum is right."""
    whole = ROOT + make.named(make.path(), content=make.rng.randbytes(3000)) + file(b"last", bytes(2000))
    return gzip.compress(whole[: make.rng.randint(1, len(whole))])


@raw(DAMAGED)
def a_gzip_that_is_cut(make: Maker) -> bytes:
    whole = packed(ROOT, file(make.path(), make.rng.randbytes(3000)))
    return whole[: make.rng.randint(0, len(whole) - 1)]


@raw(DAMAGED)
def a_gzip_with_a_wrong_end(make: Maker) -> bytes:
    whole = bytearray(packed(ROOT, file(make.path(), make.rng.randbytes(300))))
    whole[-make.rng.randint(1, 8)] ^= 1 << make.rng.randint(0, 7)
    return bytes(whole)


@raw(DAMAGED)
def a_gzip_with_something_behind(make: Maker) -> bytes:
    return packed(file(b"f")) + b"\x1f\x8b" * make.rng.randint(0, 1) + b"rubbish" + make.rng.randbytes(40)


@raw(DAMAGED)
def a_gzip_with_an_odd_header(make: Maker) -> bytes:
    """Another method, or a name that never ends."""
    whole = packed(file(b"f"))
    return make.rng.choice([
        b"\x1f\x8b\x07" + whole[3:], b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * make.rng.randint(10, 2**20),
        b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff" + make.rng.randbytes(make.rng.randint(0, 500)),
    ])  # fmt: skip


@raw(DAMAGED)
def no_gzip_at_all(make: Maker) -> bytes:
    tar = file(make.up()[:100], b"escaped") + END
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr(make.up().decode(), "escaped")
    return make.rng.choice([
        tar, bz2.compress(tar), lzma.compress(tar), zlib.compress(tar), zipped.getvalue(), b"PK\x05\x06" + bytes(18),
        b"\x28\xb5\x2f\xfd" + make.rng.randbytes(99), make.rng.randbytes(make.rng.randint(0, 2000)), b"#!/bin/sh\nid\n",
        b"!<arch>\n", b"070701" + b"0" * 104, b"",
    ])  # fmt: skip
