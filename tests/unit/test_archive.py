"""Strangers' archives: nothing is ever written outside, and each refusal says why."""

import contextlib
import gzip
import io
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scd.archive import pack, remove_tree
from scd.tar import Refused
from scd.unpack import Limits, unpack

from ..security import tarbytes
from ..security.tarbytes import data, extended, header

Make = Callable[[tarfile.TarFile], object]


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def file(tar: tarfile.TarFile, name: str, content: bytes = b"x", mode: int = 0o644) -> str:
    tar.addfile(entry(name, size=len(content), mode=mode), io.BytesIO(content))
    return name


def link(tar: tarfile.TarFile, name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> str:
    tar.addfile(entry(name, kind, linkname=to))
    return name


def archive(make: Make, layout: int = tarfile.PAX_FORMAT) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=layout) as tar:
        make(tar)
    packed.seek(0)
    return packed


def extract(source: io.BytesIO, root: Path, *, max_bytes: int = 2**20, max_members: int = 100) -> Path:
    target = root / "outer" / "target"
    target.mkdir(parents=True)
    unpack(source, target, Limits(max_bytes, max_members, 10_000))
    return target


HOSTILE: dict[str, tuple[Make, str]] = {
    "traversal": (lambda t: file(t, "../../escaped"), "leads out of the job's directory"),
    "hidden-traversal": (lambda t: file(t, "a/../../escaped"), "leads out of the job's directory"),
    "absolute": (lambda t: file(t, "/tmp/escaped"), "leads out of the job's directory"),
    "absolute-link": (lambda t: link(t, "a", "/etc/passwd"), "the link 'a' is absolute or empty"),
    "link-out": (lambda t: link(t, "a", "../../escaped"), "leads out of the job's directory"),
    "link-out-from-below": (lambda t: link(t, "d/a", "../../escaped"), "leads out of the job's directory"),
    "file-over-link": (lambda t: (link(t, "a", "b"), file(t, "a/escaped")), "leads over a link"),
    "replace-link": (lambda t: (link(t, "a", "b"), file(t, "a")), "leads over a link"),
    "link-over-link": (lambda t: (link(t, "a", "b"), link(t, "c", "a/d")), "leads over another link"),
    "link-to-link": (lambda t: (link(t, "a", "."), link(t, "b", "a")), "leads over another link"),
    "link-to-later-link": (lambda t: (link(t, "b", "a/.."), link(t, "a", "d"), link(t, "a/x", "y")), "link"),
    "link-to-later-link-and-up": (
        lambda t: (link(t, "b", "a/../a/.."), link(t, "a", ".")),
        "the link 'b' leads down and up again",
    ),
    "link-becomes-target": (lambda t: (link(t, "b", "a/c"), link(t, "a", "d")), "a link leads to the link 'a'"),
    "hardlink-out": (lambda t: link(t, "a", "../../etc/passwd", tarfile.LNKTYPE), "leads out of the job's directory"),
    "hardlink-absolute": (lambda t: link(t, "a", "/etc/passwd", tarfile.LNKTYPE), "leads out of the job's directory"),
    "hardlink-to-nothing": (lambda t: link(t, "a", "b", tarfile.LNKTYPE), "does not lead to a file of this archive"),
    "hardlink-to-link": (
        lambda t: (link(t, "a", "b"), link(t, "c", "a", tarfile.LNKTYPE)),
        "does not lead to a file of this archive",
    ),
    "file-then-directory": (lambda t: [file(t, "a"), file(t, "a/b")], "is a directory and something else"),
    "directory-then-file": (lambda t: [file(t, "a/b"), file(t, "a")], "is a directory and something else"),
    "fifo": (lambda t: t.addfile(entry("a", tarfile.FIFOTYPE)), "is neither a file, a directory nor a link"),
    "device": (lambda t: t.addfile(entry("a", tarfile.CHRTYPE)), "is neither a file, a directory nor a link"),
    "block-device": (lambda t: t.addfile(entry("a", tarfile.BLKTYPE)), "is neither a file, a directory nor a link"),
    "root-is-a-file": (lambda t: file(t, "."), "the archive's root is not a directory"),
    "pax-path": (
        lambda t: t.addfile(entry("harmless", pax_headers={"path": "../../escaped"})),
        "leads out of the job's directory",
    ),
    "too-long": (lambda t: file(t, "d/" * 2100 + "f"), "has more than 2048 bytes"),
    "too-deep": (lambda t: file(t, "d/" * 100 + "f"), "lies more than 100 directories deep"),
    "too-long-a-part": (lambda t: file(t, "n" * 256), "has more than 255 bytes"),
    "control-character": (lambda t: file(t, "a\x1b[31m"), "holds a control character"),
    "bytes": (lambda t: file(t, "a", b"0" * (2**20 + 1)), "unpacks to more than 1048576 bytes"),
    "members": (lambda t: [file(t, f"f{n}") for n in range(101)], "has more than 100 members"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(tmp_path: Path, name: str) -> None:
    make, reason = HOSTILE[name]
    with pytest.raises(Refused) as caught:
        extract(archive(make), tmp_path)
    assert reason in str(caught.value)
    inside = tmp_path / "outer" / "target"
    outside = [path for path in tmp_path.rglob("*") if not path.is_relative_to(inside) and path not in inside.parents]
    assert outside == [], "something was written outside"
    assert not Path("/tmp/escaped").exists()


def test_gnu_long_names_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="leads out"):
        extract(archive(lambda t: file(t, "../" * 60 + "x"), tarfile.GNU_FORMAT), tmp_path)


# -- made byte by byte, as no library writes them


def pax(key: str, value: str, kind: bytes = b"x") -> bytes:
    return tarbytes.pax({key: value}, kind)


def packed(*blocks: bytes) -> io.BytesIO:
    return io.BytesIO(tarbytes.packed(*blocks))


FILE = header(b"harmless", size=b"1") + data(b"x")
BYTE_MADE: dict[str, tuple[bytes, str]] = {
    "pax path": (pax("path", "../../escaped") + FILE, "leads out of the job's directory"),
    "pax path, absolute": (pax("path", "/tmp/escaped") + FILE, "leads out of the job's directory"),
    "pax path for all": (pax("path", "../../escaped", b"g") + FILE, "gives one name, target or size to all"),
    "pax link": (pax("linkpath", "../../escaped") + header(b"a", b"2", link=b"b"), "leads out of the job's directory"),
    "pax link, absolute": (pax("linkpath", "/etc/passwd") + header(b"a", b"2", link=b"b"), "is absolute or empty"),
    "pax hard link": (pax("linkpath", "/etc/passwd") + header(b"a", b"1", link=b"b"), "leads out"),
    "pax path with a NUL": (pax("path", "a\0b") + FILE, "holds a control character"),
    "pax size": (pax("size", str(2**40)) + header(b"a"), "unpacks to more than 1048576 bytes"),
    "pax sparse": (
        pax("GNU.sparse.major", "0") + pax("GNU.sparse.size", str(2**40)) + pax("GNU.sparse.map", "0,1") + FILE,
        "'harmless' is a sparse file",
    ),
    "gnu name": (extended(b"L", b"../" * 50 + b"escaped\0") + FILE, "leads out of the job's directory"),
    "gnu link": (extended(b"K", b"../" * 50 + b"escaped\0") + header(b"a", b"2"), "leads out of the job's directory"),
    "gnu sparse": (header(b"a", b"S", b"1"), "'a' is a sparse file"),
    "ustar prefix": (
        (lambda head: head[:345] + b"/tmp" + head[349:])(header(b"escaped")), "damaged"  # its checksum is wrong now
    ),
    "announced terabyte": (header(b"a", size=b"\x80" + (2**40).to_bytes(11, "big")), "unpacks to more than"),
    "negative size": (header(b"a", size=b"\xff" * 12) + FILE, "size is below zero"),
    "directory with content": (header(b"d/", b"5", size=b"1") + data(b"x"), "claims to have content"),
    "unknown kind": (header(b"a", b"Z"), "is neither a file, a directory nor a link"),
    "volume label": (header(b"a", b"V"), "is neither a file, a directory nor a link"),
    "backslashes": (header(b"..\\..\\escaped", size=b"1") + data(b"x"), ""),
    "root by dots": (header(b"a/..", b"2", link=b"b"), "the archive's root is not a directory"),
    "root as a hard link": (header(b".", b"1", link=b"harmless"), "the archive's root is not a directory"),
}  # fmt: skip


def test_the_maker_of_these_makes_good_archives(tmp_path: Path) -> None:
    target = extract(packed(header(b"", b"5"), pax("path", "d/named by pax"), FILE), tmp_path)
    assert (target / "d" / "named by pax").read_bytes() == b"x"


@pytest.mark.parametrize("name", BYTE_MADE)
def test_archives_made_byte_by_byte(tmp_path: Path, name: str) -> None:
    """Refused for their reason; those without one are taken, and all stays inside."""
    blocks, reason = BYTE_MADE[name]
    target = tmp_path / "outer" / "target"
    if reason:
        with pytest.raises(Refused) as caught:
            extract(packed(blocks), tmp_path)
        assert reason in str(caught.value)
    else:
        extract(packed(blocks), tmp_path)
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(target)} == {tmp_path / "outer"}
    assert not Path("/tmp/escaped").exists()
    assert sum(path.lstat().st_blocks for path in target.rglob("*")) < 100


def test_a_file_may_come_twice_and_the_last_one_stays(tmp_path: Path) -> None:
    target = extract(archive(lambda t: (file(t, "a", b"first"), file(t, "./a", b"second"))), tmp_path)
    assert (target / "a").read_bytes() == b"second"


def test_a_hard_link_does_not_open_a_way_to_an_earlier_file_of_the_machine(tmp_path: Path) -> None:
    """The file it names is one of this archive, also where another of that name was there before."""
    target = tmp_path / "outer" / "target"
    target.mkdir(parents=True)
    (target / "before").write_text("not of this archive")
    with pytest.raises(Refused, match="does not lead to a file of this archive"):
        unpack(archive(lambda t: link(t, "a", "before", tarfile.LNKTYPE)), target, Limits(2**20, 100, 10_000))


@pytest.mark.parametrize("mode", [0o7777, 0o000, 0o4755, 0o2666])
def test_modes_are_tamed(tmp_path: Path, mode: int) -> None:
    def make(tar: tarfile.TarFile) -> None:
        tar.addfile(entry("d", tarfile.DIRTYPE, mode=mode))
        file(tar, "d/f", mode=mode)

    target = extract(archive(make), tmp_path)
    assert (target / "d").stat().st_mode & 0o7777 == 0o755
    assert (target / "d" / "f").stat().st_mode & 0o7777 == mode & 0o755 | 0o600


NAMES = st.sampled_from(
    [
        "a",
        "b",
        "a/b",
        "a/c",
        "b/c",
        "a/b/c",
        "./a",
        "a/../b",
        "a//b",
        "a/",
        "a/..",
        "",
        ".",
        "..",
        "../x",
        "b/../../x",
        "/x",
    ]
)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CONTTYPE])


@settings(max_examples=400)
@given(entries=st.lists(st.tuples(NAMES, KINDS, NAMES), min_size=1, max_size=6))
def test_no_archive_at_all_reaches_outside(entries: list[tuple[str, bytes, str]]) -> None:
    def make(tar: tarfile.TarFile) -> None:
        for name, kind, to in entries:
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                link(tar, name, to, kind)
            else:
                size = 0 if kind == tarfile.DIRTYPE else 3
                tar.addfile(entry(name, kind, size=size), io.BytesIO(b"new"))

    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory, "target").resolve()
        target.mkdir()
        outside = target.parent / "x"
        outside.write_text("outside")
        # The latter three: what is there already is in the way.
        with contextlib.suppress(Refused, IsADirectoryError, NotADirectoryError, FileExistsError):
            unpack(archive(make), target, Limits(2**20, 100, 10_000))
        assert outside.read_text() == "outside"
        assert set(target.parent.iterdir()) == {target, outside}
        for path in target.rglob("*"):
            if path.exists():
                assert path.resolve().is_relative_to(target), f"{path} leads out"


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip", "empty", "no tar"])
def test_damaged_archives(tmp_path: Path, damage: str) -> None:
    whole = archive(lambda t: file(t, "a", os.urandom(50_000))).getvalue()
    data = {
        "cut": whole[:-20000],
        "flipped": whole[:30000] + bytes([whole[30000] ^ 255]) + whole[30001:],
        "no gzip": b"not a gzip file at all",
        "empty": b"",
        "no tar": gzip.compress(b"not a tar file" * 100),
    }[damage]
    with pytest.raises(Refused, match="the archive is damaged"):
        extract(io.BytesIO(data), tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A gigabyte of zeros in a megabyte."""
    with pytest.raises(Refused, match="unpacks to more than"):
        extract(archive(lambda t: t.addfile(entry("a", size=2**27), io.BytesIO(bytes(2**27)))), tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) == 0


def test_what_the_client_sends(tmp_path: Path) -> None:
    """Its root member has an empty name; its links are relative and stay inside."""

    def make(tar: tarfile.TarFile) -> None:
        tar.addfile(entry("", tarfile.DIRTYPE, mode=0o755))
        tar.addfile(entry("sc_collected_files", tarfile.DIRTYPE, mode=0o755))
        file(tar, "sc_collected_files/a.v", b"module a;", mode=0o4777)
        link(tar, "sc_collected_files/b.v", "a.v")
        link(tar, "sc_collected_files/c.v", "sc_collected_files/a.v", tarfile.LNKTYPE)

    target = extract(archive(make), tmp_path)
    for name in "abc":
        assert (target / "sc_collected_files" / f"{name}.v").read_bytes() == b"module a;"
    status = (target / "sc_collected_files" / "a.v").stat()
    assert not status.st_mode & 0o7022, "no set-id bit, nothing for others to write"
    assert status.st_uid == os.geteuid()


def test_results_pass_the_clients_filter(tmp_path: Path) -> None:
    node = tmp_path / "root" / "hash" / "syn" / "0"
    (node / "outputs").mkdir(parents=True)
    (node / "outputs" / "net.v").write_text("module")
    (node / "outputs" / "inside").symlink_to("net.v")
    (node / "outputs" / "outside").symlink_to("/etc/passwd")
    (node / "outputs" / "dangling").symlink_to("nowhere")
    os.mkfifo(node / "pipe")
    (node / "log").write_text("log")
    os.link(node / "log", node / "again")
    packed = io.BytesIO()
    pack(packed, tmp_path / "root", sorted(node.iterdir()))
    packed.seek(0)
    with tarfile.open(fileobj=packed, mode="r:gz") as tar:
        names = tar.getnames()
        if hasattr(tarfile, "data_filter"):  # as the client does it
            tar.extractall(tmp_path / "client", filter="data")
        else:
            tar.extractall(tmp_path / "client")
    assert sorted(names) == [
        "hash/syn/0/again", "hash/syn/0/log", "hash/syn/0/outputs", "hash/syn/0/outputs/inside",
        "hash/syn/0/outputs/net.v",
    ]  # fmt: skip
    assert (tmp_path / "client/hash/syn/0/outputs/inside").read_text() == "module"
    assert (tmp_path / "client/hash/syn/0/again").read_text() == "log"


@pytest.mark.parametrize("size", [10, 5000])
def test_a_file_that_changes_while_it_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a" * 1000)
    real = os.fstat

    def change(fd: int) -> os.stat_result:
        """The size is known; now the node writes on."""
        status = real(fd)
        log.write_bytes(b"b" * size)
        return status

    monkeypatch.setattr(os, "fstat", change)
    packed = io.BytesIO()
    pack(packed, tmp_path, [log, tmp_path / "vanished"])
    monkeypatch.undo()
    packed.seek(0)
    with tarfile.open(fileobj=packed, mode="r:gz") as tar:
        (member,) = tar.getmembers()
        content = tar.extractfile(member)
        assert content is not None
        assert len(content.read()) == 1000, "other than the header announced"


def test_a_tree_without_permissions_can_be_removed(tmp_path: Path) -> None:
    locked = tmp_path / "job" / "locked"
    locked.mkdir(parents=True)
    (locked / "file").touch()
    locked.chmod(0)
    remove_tree(tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_a_tree_deeper_than_any_path_can_be_removed(tmp_path: Path) -> None:
    """A node can make one, step by step; its job must not stay for ever."""
    job, outside = tmp_path / "job", tmp_path / "outside"
    job.mkdir()
    outside.mkdir()
    (outside / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    here = os.open(job, os.O_PATH)
    for _ in range(1500):
        os.mkdir("directory", dir_fd=here)
        os.symlink(outside, "link", dir_fd=here)
        below = os.open("directory", os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
    os.mkdir("locked", 0, dir_fd=here)
    os.close(here)
    remove_tree(job)
    assert not job.exists()
    assert (outside / "file").exists(), "a link was followed"
    assert len(os.listdir("/proc/self/fd")) == before
