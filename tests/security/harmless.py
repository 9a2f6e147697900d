"""Archives that must be taken, and what each must unpack to: a suite that refuses everything proves nothing.

Among them are those that only look evil: on this system their names and contents are just names and contents.
"""

import gzip
import io
import random
import tarfile
from collections.abc import Callable

from .shapes import Maker
from .tarbytes import END, ROOT, anyhow, base256, data, directory, file, hardlink, header, packed, pax, symlink
from .tricks import MAX_BYTES, MAX_MEMBERS, MAX_RATIO, RATIO_FROM
from .watch import Entry

Tree = dict[str, Entry]
Harmless = Callable[[Maker], tuple[bytes, Tree]]
HARMLESS: list[Harmless] = []


def harmless(function: Harmless) -> Harmless:
    HARMLESS.append(function)
    return function


def _file(content: bytes = b"x", mode: int = 0o644) -> Entry:
    return Entry(content=content, mode=mode & 0o755 | 0o600)


@harmless
def as_the_client_sends_it(make: Maker) -> tuple[bytes, Tree]:
    """By tarfile, in the formats that it has."""
    content = {
        f"collected/{make.word().decode()}{n}.v": make.rng.randbytes(make.rng.randint(0, 3000)) for n in range(5)
    }
    out = io.BytesIO()
    layout = make.rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
    with tarfile.open(fileobj=out, mode="w:gz", format=layout) as tar:
        root = tarfile.TarInfo("")
        root.type = tarfile.DIRTYPE
        tar.addfile(root)
        for name, text in content.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(text), make.rng.choice([0, 1_700_000_000.5, 2**32])
            entry.mtime = int(entry.mtime) if layout != tarfile.PAX_FORMAT else entry.mtime
            tar.addfile(entry, io.BytesIO(text))
    return out.getvalue(), {"collected": Entry(), **{name: _file(text) for name, text in content.items()}}


@harmless
def names_in_every_way(make: Maker) -> tuple[bytes, Tree]:
    name = b"/".join([b"directory-" + make.word()] * make.rng.randint(1, 20)) + b"/file"
    content = make.rng.randbytes(make.rng.choice([0, 1, 511, 512, 513, 4096]))
    found = {"/".join(name.decode().split("/")[:n]): Entry() for n in range(1, name.count(b"/") + 1)}
    return packed(ROOT, anyhow(make.rng, name, content=content)), {**found, name.decode(): _file(content)}


@harmless
def what_only_looks_evil(make: Maker) -> tuple[bytes, Tree]:
    """Fullwidth dots, backslashes, percent signs, URLs, shell words, an overlong UTF-8 dot: names like others here."""
    name = make.rng.choice(
        ["..\\..\\escaped", "C:\\escaped", "%2e%2e%2fescaped", "...", "....", "..x", "x..", "~root", "$(id)", "-rf",
         "\uff0e\uff0e", "file:", "a b", ".ssh", "*", "\u202egpj.exe", "CON", "NUL", "'; DROP TABLE jobs",
         "ä", "e\u0301", "🙂"]
    ).encode()  # fmt: skip
    name = make.rng.choice([name, b"\xc0\xae\xc0\xae", b"\xff\xfe", b"\xe4"])
    text = name.decode(errors="surrogateescape")
    return packed(anyhow(make.rng, b"d/" + name, content=b"x")), {"d": Entry(), f"d/{text}": _file()}


@harmless
def dots_that_cancel(make: Maker) -> tuple[bytes, Tree]:
    name = make.rng.choice([b"./a", b"b/../a", b".//a", b"b/c/../../a", b"./././a"])
    return packed(directory(b"./"), anyhow(make.rng, name, content=b"x")), {"a": _file()}


@harmless
def links_that_stay(make: Maker) -> tuple[bytes, Tree]:
    target = make.rng.choice(["f", "./f", "nowhere", "../d/f", "."])
    blocks = [
        file(b"d/f"),
        anyhow(make.rng, b"d/l", b"2", link=target.encode()),
        anyhow(make.rng, b"h", b"1", link=b"./d/f"),
    ]
    return packed(*blocks), {"d": Entry(), "d/f": _file(), "d/l": Entry(target=target), "h": _file()}


@harmless
def a_file_that_comes_twice(make: Maker) -> tuple[bytes, Tree]:
    """The last one stays, and a hard link of the first keeps that one's content."""
    first, second = make.rng.randbytes(9), make.rng.randbytes(9)
    return packed(file(b"a", first), hardlink(b"h", b"a"), file(b"./a", second)), {
        "a": _file(second),
        "h": _file(first),
    }


@harmless
def modes_are_tamed(make: Maker) -> tuple[bytes, Tree]:
    mode = make.rng.choice([0o4755, 0o2755, 0o1777, 0o7777, 0o000, 0o666, 0o111])
    return packed(header(b"d/", b"5", mode=b"7777"), file(b"d/f", mode=b"%o" % mode)), {
        "d": Entry(), "d/f": _file(mode=mode)
    }  # fmt: skip


@harmless
def archives_within_an_archive(make: Maker) -> tuple[bytes, Tree]:
    """Not unpacked: a bomb in a bomb stays one file. A header in a content is content."""
    inner = make.rng.choice(
        [file(b"../escaped") + END, packed(file(b"../escaped")), symlink(b"l", b"/etc/passwd") + END]
    )
    return packed(file(b"inner.tar", inner), file(b"last")), {"inner.tar": _file(inner), "last": _file()}


@harmless
def the_size_in_an_extended_header(make: Maker) -> tuple[bytes, Tree]:
    """CVE-2025-62518: who takes the 0 of the header finds another archive in the content."""
    inner = file(b"../escaped", b"escaped") + file(b"second")
    size = make.rng.choice([b"0", b"%o" % len(inner), base256(len(inner))])
    outer = pax({"size": str(len(inner))}) + header(b"f", size=size) + data(inner)
    return packed(outer, file(b"last")), {"f": _file(inner), "last": _file()}


@harmless
def odd_but_allowed(make: Maker) -> tuple[bytes, Tree]:
    """Old directories, contiguous files, GNU's magic, signed checksums, comments for all, times before 1970."""
    blocks, found = make.rng.choice([
        (header(b"d/", b"\0"), {"d": Entry()}),
        (header(b"f", b"7", b"1") + data(b"x"), {"f": _file()}),
        (header(b"f", size=b"1", magic=b"ustar  \0", prefix=b"\0000123") + data(b"x"), {"f": _file()}),
        (header(b"f", size=b"1", magic=bytes(8)) + data(b"x"), {"f": _file()}),
        (header("ä".encode(), size=b"1", signed=True) + data(b"x"), {"ä": _file()}),
        (pax({"comment": "0" * 40, "mtime": "1"}, b"g") + file(b"f"), {"f": _file()}),
        (pax({"mtime": "-86400.5", "atime": "1", "uname": "root", "SCHILY.xattr.user.x": b"\0\xff"}) + file(b"f"),
         {"f": _file()}),
        (header(b"f", size=b"1", mtime=base256(-5)) + data(b"x"), {"f": _file()}),
        (pax({"path": ""}) + file(b"f"), {"f": _file()}),
    ])  # fmt: skip
    return packed(ROOT, blocks), dict(found)


@harmless
def just_within_the_limits(make: Maker) -> tuple[bytes, Tree]:
    match make.rng.randrange(4):
        case 0:
            names = [f"m{n}" for n in range(MAX_MEMBERS)]
            return packed(*(directory(name.encode()) for name in names)), {name: Entry() for name in names}
        case 1:
            content = random.Random(make.rng.random()).randbytes(MAX_BYTES - 512 - len(END))
            return packed(file(b"f", content), level=0), {"f": _file(content)}
        case 2:
            content = bytes(RATIO_FROM - 512 - len(END))
            assert len(packed(file(b"f", content))) * MAX_RATIO < RATIO_FROM
            return packed(file(b"f", content)), {"f": _file(content)}
        case _:
            name = "/".join(["d" * 18] * 99 + ["f"])
            found = {"/".join(name.split("/")[:n]): Entry() for n in range(1, 100)}
            return packed(pax({"path": name}) + file(b"x")), {**found, name: _file()}


@harmless
def an_archive_in_pieces(make: Maker) -> tuple[bytes, Tree]:
    """Several gzip members are one file, as gzip(1) has it."""
    tar = ROOT + file(b"a", make.rng.randbytes(700)) + END
    cut = make.rng.randint(0, len(tar))
    return gzip.compress(tar[:cut]) + gzip.compress(tar[cut:]), {"a": _file(tar[1024 : 1024 + 700])}
