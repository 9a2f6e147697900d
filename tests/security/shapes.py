"""Hostile archives by what they are called and where they lead: one function a published shape.

Each returns the blocks of a tar, different at each call; the decorator says what the refusal must say.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from .tarbytes import anyhow, directory, extended, file, hardlink, pax, symlink


class Maker(NamedTuple):
    """What a shape is made of."""

    rng: random.Random
    outside: bytes  # an absolute path that must never come to be, or never change

    def word(self, most: int = 8) -> bytes:
        """Never one of the shapes' own names: these do not begin with a w."""
        return b"w" + bytes(self.rng.choices(b"abcdefghijklmnopqrstuvwxyz0123456789_-", k=self.rng.randint(1, most)))

    def path(self, deepest: int = 3) -> bytes:
        return b"/".join(self.word() for _ in range(self.rng.randint(1, deepest)))

    def up(self, most: int = 6) -> bytes:
        """Out of the target, to something that is there or to something new."""
        steps = self.rng.choice([b"../", b"./../", b".././", b"..//"]) * self.rng.randint(1, most)
        return steps + self.rng.choice([b"canary", b"other/canary", b"program", b"escaped", b"etc/passwd"])

    def absolute(self) -> bytes:
        """Canaries, places that all can write, and files of the system."""
        return self.rng.choice(
            [self.outside, b"/" + self.outside, b"/." + self.outside, self.outside + b"/" + self.word(), b"/etc/passwd",
             b"/etc/shadow", b"/proc/self/cwd/../canary", b"/proc/self/root" + self.outside, b"/dev/shm/scd-escaped"]
        )  # fmt: skip

    def named(self, name: bytes, kind: bytes = b"0", content: bytes = b"", link: bytes = b"") -> bytes:
        return anyhow(self.rng, name, kind, content, link)

    def harmless(self, most: int = 2) -> bytes:
        """What may stand around the trick."""
        return b"".join(file(b"harmless-" + self.word()) for _ in range(self.rng.randint(0, most)))


Shape = Callable[[Maker], bytes]
SHAPES: dict[str, tuple[Shape, str]] = {}


def shape(reason: str) -> Callable[[Shape], Shape]:
    """Register a shape under its name, with a piece of the message that refuses it."""

    def register(function: Shape) -> Shape:
        SHAPES[function.__name__] = (function, reason)
        return function

    return register


OUT = "leads out of the job's directory"
OVER = "leads over a link"
ODD = "is neither a file, a directory nor a link"

# -- names


@shape(OUT)
def traversal(make: Maker) -> bytes:
    return make.named(make.up(), content=b"escaped")


@shape(OUT)
def traversal_behind_names(make: Maker) -> bytes:
    depth = make.rng.randint(1, 4)
    return make.named(b"d/" * depth + b"../" * depth + make.up(), content=b"escaped")


@shape(OUT)
def traversal_by_a_directory(make: Maker) -> bytes:
    return make.named(make.up() + b"/", b"5")


@shape(OUT)
def the_parent_itself(make: Maker) -> bytes:
    return make.named(make.rng.choice([b"..", b"../", b"a/../..", b"./.."]), make.rng.choice([b"5", b"2"]), link=b"x")


@shape(OUT)
def absolute(make: Maker) -> bytes:
    return make.named(make.absolute(), content=b"escaped")


@shape(OUT)
def absolute_directory(make: Maker) -> bytes:
    return make.named(make.absolute(), b"5")


@shape("the archive's root is not a directory")
def root_as_something_else(make: Maker) -> bytes:
    name = make.rng.choice([b".", b"./", b"a/..", b"./.", b"a/b/../.."])
    kind = make.rng.choice([b"2", b"1"]) if name.endswith(b"/") else make.rng.choice([b"0", b"2", b"1"])
    return make.named(name, kind, link=make.word() if kind != b"0" else b"")


@shape("holds a control character")
def control_characters(make: Maker) -> bytes:
    evil = make.rng.choice(
        [b"\x1b[2J", b"\r\n", b"\n", b"\x07", b"\x7f", b"\xc2\x9b31m", b"\xe2\x80\xa8", b"\t", b"\x01"]
    )
    return make.named(make.word() + evil + make.word(), content=b"x")


@shape("holds a control character")
def a_nul_in_the_name(make: Maker) -> bytes:
    return pax({"path": make.word() + b"\0" + make.up()}) + file(b"harmless")


@shape("a long name holds a NUL")
def a_nul_in_a_long_name(make: Maker) -> bytes:
    return extended(make.rng.choice([b"L", b"K"]), make.word() + b"\0" + make.up() + b"\0") + file(b"harmless")


@shape("has more than 2048 bytes")
def too_long_a_name(make: Maker) -> bytes:
    part = make.word() + b"x"
    return make.named((part + b"/") * (2048 // len(part) + make.rng.randint(1, 3000)) + b"f", content=b"x")


@shape("has more than 255 bytes")
def too_long_a_part(make: Maker) -> bytes:
    return make.named(
        make.path() + b"/" + make.rng.choice([b"x", b"\xc3\xa4"]) * make.rng.randint(256, 900), content=b"x"
    )


@shape("directories deep")
def too_deep(make: Maker) -> bytes:
    return make.named(b"d/" * make.rng.randint(100, 900) + b"f", make.rng.choice([b"0", b"5"]))


@shape("has a directory's name")
def a_file_like_a_directory(make: Maker) -> bytes:
    return make.named(make.path() + b"/", content=b"x")


@shape("is a directory and something else")
def a_file_over_a_directory(make: Maker) -> bytes:
    name = make.word()
    return make.named(name + b"/" + make.word(), content=b"x") + make.named(name, content=b"y")


@shape("is a directory and something else")
def a_directory_over_a_file(make: Maker) -> bytes:
    name = make.word()
    return make.named(name, content=b"y") + make.rng.choice(
        [make.named(name, b"5"), make.named(name + b"/" + make.word(), content=b"x")]
    )


# -- symbolic links


@shape("is absolute or empty")
def link_to_an_absolute_path(make: Maker) -> bytes:
    return make.named(make.path(), b"2", link=make.absolute())


@shape("is absolute or empty")
def link_to_nothing(make: Maker) -> bytes:
    return symlink(make.path(), b"")


@shape(OUT)
def link_out(make: Maker) -> bytes:
    name = make.path()
    return make.named(name, b"2", link=b"../" * name.count(b"/") + make.up())


@shape(OUT)
def link_out_then_write(make: Maker) -> bytes:
    return make.named(b"a", b"2", link=make.up()) + make.named(b"a", content=b"escaped")


@shape(OVER)
def write_through_a_link(make: Maker) -> bytes:
    """It leads inside when it is made."""
    name = make.word()
    return make.named(name, b"2", link=make.rng.choice([b".", b"x-y", b"x-y/z"])) + make.named(
        name + b"/" + make.path(), make.rng.choice([b"0", b"5", b"2", b"1"]), link=b"q"
    )


@shape(OVER)
def a_link_replaced(make: Maker) -> bytes:
    """By a file that would be written through it, or by another link."""
    name, kind = make.path(), make.rng.choice([b"0", b"2", b"1", b"5"])
    return directory(b"o-o") + make.named(name, b"2", link=b"o-o") + make.named(name, kind, link=b"p")


@shape("leads over another link")
def link_over_a_link(make: Maker) -> bytes:
    first = make.named(b"a", b"2", link=make.rng.choice([b".", b"b-b", b"b-b/c"]))
    target = make.rng.choice([b"a", b"./a", b"a/" + make.word(), b"a//b"])
    return first + make.named(make.word() + b".l", b"2", link=target)


@shape("a link leads to the link")
def link_that_becomes_a_target(make: Maker) -> bytes:
    """Harmless when it was made; then what it leads to becomes a link itself."""
    name = make.word() + b".t"
    return make.named(b"a", b"2", link=name + make.rng.choice([b"", b"/b", b"/b/c"])) + make.named(
        name, b"2", link=make.rng.choice([b".", b"d-d"])
    )


@shape("leads down and up again")
def link_down_and_up(make: Maker) -> bytes:
    """``b -> a/../a/..`` is ``.`` by its text; once ``a -> .``, it is the parent of the parent."""
    steps = (make.word() + b"/../") * make.rng.randint(1, 5)
    return make.named(b"b", b"2", link=steps + make.rng.choice([b"", b"canary", b"x/y"])) + make.named(
        b"a", b"2", link=b"."
    )


@shape("leads over another link")
def link_chain(make: Maker) -> bytes:
    """The shape of CVE-2025-4517: a chain of links too long to be resolved by name."""
    long = b"d" * make.rng.randint(100, 240)
    blocks, here = [], b""
    for step in b"abcdefgh"[: make.rng.randint(2, 8)]:
        name = bytes([step])
        blocks += [make.named(here + long, b"5"), make.named(here + name, b"2", link=long)]
        here += long + b"/"
    return b"".join(blocks) + make.named(b"l", b"2", link=b"a/" + b"/".join([b"b", b"c"]) + b"/x")


@shape("a link leads to the link")
def directory_that_becomes_a_link_elsewhere(make: Maker) -> bytes:
    return make.named(b"x", b"2", link=b"y/z/" + make.word()) + make.named(b"y", b"2", link=make.word() + b".q")


@shape("is a directory and something else")
def a_directory_replaced_by_a_link(make: Maker) -> bytes:
    """node-tar, CVE-2021-37701: a cache of directories that were made."""
    name = make.word()
    return make.named(name, b"5") + make.named(name, b"2", link=make.word() + b".o") + file(name + b"/x")


@shape("a link leads to the link")
def a_file_replaced_by_a_link(make: Maker) -> bytes:
    name = make.path()
    return make.named(name, content=b"x") + make.named(name, b"2", link=make.word() + b".o")


# -- hard links


@shape(OUT)
def hardlink_out(make: Maker) -> bytes:
    return make.named(make.path(), b"1", link=make.rng.choice([make.up(), make.absolute(), b"a/../" + make.up()]))


@shape("does not lead to a file of this archive")
def hardlink_to_nothing(make: Maker) -> bytes:
    return make.named(make.path(), b"1", link=make.path() + b".missing")


@shape("does not lead to a file of this archive")
def hardlink_to_a_directory(make: Maker) -> bytes:
    return directory(b"d-d") + make.named(make.path(), b"1", link=make.rng.choice([b"d-d", b".", b"./d-d/"]))


@shape("does not lead to a file of this archive")
def hardlink_to_a_link(make: Maker) -> bytes:
    """Debian's and python.org's 3.11.7: the data filter looked at the link, the system at what it led to."""
    return (
        make.named(b"a", b"2", link=make.word())
        + make.named(make.path() + b".h", b"1", link=b"a")
        + file(b"a.h", b"escaped")
    )


@shape("does not lead to a file of this archive")
def hardlink_to_itself(make: Maker) -> bytes:
    name = make.path()
    return make.named(name, content=b"x") + make.named(name, b"1", link=b"./" + name)


@shape("does not lead to a file of this archive")
def hardlink_through_a_link(make: Maker) -> bytes:
    return file(b"d-d/f") + make.named(b"l", b"2", link=b"d-d") + make.named(b"h", b"1", link=b"l/f")


@shape(OUT)
def hardlink_out_then_write(make: Maker) -> bytes:
    return hardlink(b"a", make.up()[:100]) + make.named(b"a", content=b"escaped")


# -- kinds


@shape(ODD)
def devices_and_pipes(make: Maker) -> bytes:
    return make.named(make.path(), make.rng.choice([b"3", b"4", b"6"]))


@shape(ODD)
def kinds_that_nobody_knows(make: Maker) -> bytes:
    flags = b"89ABDEFGHIJMNOPQRTUVWXYZabcdefhijklmnopqrstuvwyz!~\x01\xff"
    return make.named(make.path(), bytes([make.rng.choice(flags)]))
