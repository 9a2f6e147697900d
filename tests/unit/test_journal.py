import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scd.launcher.journal import FILE, Journal, read
from scd.procfs import boot_id


def kinds(directory: Path) -> list[str]:
    return [record["type"] for record in read(directory)[0]]


def test_records_come_back_stamped(tmp_path: Path) -> None:
    Journal(tmp_path).append("started", name="scd-x-1.1", pid=7)
    (record,), offset = read(tmp_path)
    assert {key: record[key] for key in ("type", "name", "pid")} == {"type": "started", "name": "scd-x-1.1", "pid": 7}
    assert abs(record["at"] - time.time()) < 60
    assert 0 < record["mono"] <= time.monotonic()
    assert record["boot"] == boot_id()
    assert offset == (tmp_path / FILE).stat().st_size


def test_an_offset_goes_on_where_the_last_read_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("a")
    _, offset = read(tmp_path)
    assert read(tmp_path, offset) == ([], offset)
    journal.append("b")
    journal.append("c")
    records, end = read(tmp_path, offset)
    assert [record["type"] for record in records] == ["b", "c"]
    assert read(tmp_path, end) == ([], end)


def test_no_journal_is_no_records(tmp_path: Path) -> None:
    assert read(tmp_path) == ([], 0)
    assert read(tmp_path, 5) == ([], 5)


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_torn_last_line_is_not_read_and_not_lost_sight_of(tmp_path: Path, cut: int) -> None:
    """Its writer may be in the middle of it: the next read finds it whole."""
    journal = Journal(tmp_path)
    journal.append("a")
    _, offset = read(tmp_path)
    journal.append("b")
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:-cut])
    assert kinds(tmp_path) == ["a"]
    assert read(tmp_path, offset) == ([], offset)
    (tmp_path / FILE).write_bytes(whole)
    assert [record["type"] for record in read(tmp_path, offset)[0]] == ["b"]


@pytest.mark.parametrize("torn", [b'{"type":"to', b"\0" * 4096, b"{", b'{"type":"b"}'])
def test_a_new_writer_cuts_a_torn_line_off(tmp_path: Path, torn: bytes) -> None:
    Journal(tmp_path).append("a")
    with open(tmp_path / FILE, "ab") as file:
        file.write(torn)
    Journal(tmp_path).append("after")
    assert kinds(tmp_path) == ["a", "after"]
    for line in (tmp_path / FILE).read_bytes().splitlines():
        json.loads(line)


def test_a_journal_of_one_torn_line_is_empty(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"type": "shi')
    Journal(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b""


@pytest.mark.parametrize("text", ["a\nb", "\r", "\u2028", "\ud800", '"}\n{"type": "forged"}', "\x85"])
def test_no_text_breaks_a_line(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path)
    journal.append("ended", reason=text)
    journal.append("next")
    assert kinds(tmp_path) == ["ended", "next"]
    assert read(tmp_path)[0][0]["reason"] == text


def test_a_record_is_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    real = os.fsync

    def watch(fd: int) -> None:
        real(fd)
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().read_bytes())

    journal = Journal(tmp_path)
    monkeypatch.setattr(os, "fsync", watch)
    journal.append("a")
    assert synced == [(tmp_path / FILE).read_bytes()], "not synced, or not after the write"


def test_the_journal_is_out_of_reach_of_others(tmp_path: Path) -> None:
    Journal(tmp_path)
    assert not (tmp_path / FILE).stat().st_mode & 0o027


def test_a_runner_does_not_inherit_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (fd,) = (
        int(name) for name in os.listdir("/proc/self/fd")
        if os.path.realpath(f"/proc/self/fd/{name}") == str(tmp_path / FILE)
    )  # fmt: skip
    assert not os.get_inheritable(fd)
    journal.append("a")


def test_what_a_full_disk_did_not_take_is_written_later_whole_and_in_order(tmp_path: Path) -> None:
    """A limit on the file's size fails a write in its middle, as a full disk does."""
    journal = Journal(tmp_path)
    assert journal.append("first")
    size = (tmp_path / FILE).stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        assert not journal.append("second")
        assert not journal.append("third")
        assert journal.pending
        assert kinds(tmp_path) == ["first"]
        assert (tmp_path / FILE).stat().st_size == size, "a torn line would spoil the next one"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert journal.flush()
    assert not journal.pending
    assert kinds(tmp_path) == ["first", "second", "third"]


def test_a_damaged_line_spoils_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("a")
    with open(tmp_path / FILE, "ab") as file:
        file.write(b"\x00\xff{rot\n[1]\n")
    journal.append("b")
    assert kinds(tmp_path) == ["a", "b"]


def test_a_full_disk_takes_an_end_all_the_same(small_disk: Path) -> None:
    """What a job wrote fills its disk; that it ended must still be written down, or it could never be deleted."""
    journal = Journal(small_disk)
    assert journal.append("started")
    with open(small_disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert journal.append("ended", reason="x" * 10_000)
    assert [record["type"] for record in read(small_disk)[0]] == ["started", "ended"]
    journal.close()
    assert sorted(path.name for path in small_disk.iterdir()) == [FILE, "filler"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "scd-test", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no small disk can be mounted here (it takes root)")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)
