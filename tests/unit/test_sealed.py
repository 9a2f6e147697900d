import os
import resource
import threading
from pathlib import Path

import pytest

from scd.auth import private_key
from scd.sealed import Damaged, WrongKey, open_either, plain_size, seal, sealed, size_of

from ..keys import Pair, make_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("keys") / "key")


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 131072, 3_000_000])
def test_there_and_back(tmp_path: Path, pair: Pair, size: int) -> None:
    data, path = os.urandom(size), tmp_path / "file"
    path.write_bytes(data)
    with open_either(path, None) as plain:
        assert size_of(plain) == size
    seal(path, pair.public)
    assert os.listdir(tmp_path) == ["file.age"]
    assert data[:1000] not in sealed(path).read_bytes() or size < 5
    with open_either(path, private_key(pair.sent)) as file:
        assert size_of(file) == size, "content-length would be wrong"
        assert file.read() == data


def test_another_key(tmp_path: Path, pair: Pair) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    seal(path, pair.public)
    other = make_pair(tmp_path / "other")
    with pytest.raises(WrongKey):
        open_either(path, private_key(other.sent))
    with pytest.raises(WrongKey, match="encrypted to a key, and none was sent"):
        open_either(path, None)


def test_who_stops_reading_leaves_no_thread_and_no_descriptor(tmp_path: Path, pair: Pair) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5_000_000))
    seal(path, pair.public)
    before = set(os.listdir("/proc/self/fd"))
    threads = set(threading.enumerate())
    for _ in range(20):
        file = open_either(path, private_key(pair.sent))
        file.read(10)
        file.close()
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
    assert set(threading.enumerate()) <= threads
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_damaged_file_is_an_error_and_not_a_short_one(tmp_path: Path, pair: Pair) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1_000_000))
    seal(path, pair.public)
    whole = sealed(path).read_bytes()
    for spoilt in (whole[:-1], whole[:500_000], whole[:700_000] + b"x" + whole[700_001:], whole + b"x"):
        sealed(path).write_bytes(spoilt)
        with open_either(path, private_key(pair.sent)) as file, pytest.raises(OSError, match="damaged"):
            file.read()


def test_what_is_cut_off_at_its_beginning_is_not_another_key_s(tmp_path: Path, pair: Pair) -> None:
    """Behind the header a key that fits is told from one that does not; before its end no key could do anything."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1_000_000))
    seal(path, pair.public)
    whole = sealed(path).read_bytes()
    header = whole.index(b"\n", whole.index(b"\n--- ") + 1) + 1
    own, other = private_key(pair.sent), private_key(make_pair(tmp_path / "other").sent)
    for size in (0, 10, header - 5, header, header + 5, header + 16, header + 20):
        sealed(path).write_bytes(whole[:size])
        for key in (own, other):
            with pytest.raises(Damaged, match="cut off, or damaged"):
                open_either(path, key)
        with pytest.raises(OSError, match="damaged"):
            plain_size(path)
    for spoilt in (whole[: header + 40], whole[: header + 5000], whole[: header + 30] + b"x" + whole[header + 31 :]):
        sealed(path).write_bytes(spoilt)
        with pytest.raises(Damaged):
            open_either(path, own)
        with pytest.raises(WrongKey):
            open_either(path, other)
    sealed(path).write_bytes(b"nonsense")
    with pytest.raises(Damaged):
        open_either(path, own)


@pytest.mark.parametrize("left", ["aside", "both"])
def test_sealing_goes_on_where_it_was_stopped(tmp_path: Path, pair: Pair, left: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"results")
    if left == "aside":
        (tmp_path / ".file.age").write_bytes(b"half of it")
    else:
        seal(path, pair.public)
        path.write_bytes(b"results")
    seal(path, pair.public)
    assert os.listdir(tmp_path) == ["file.age"]
    with open_either(path, private_key(pair.sent)) as file:
        assert file.read() == b"results"


def test_it_needs_little_memory(tmp_path: Path, pair: Pair) -> None:
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.writelines(os.urandom(2**20) for _ in range(100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seal(path, pair.public)
    total = 0
    with open_either(path, private_key(pair.sent)) as source:
        while data := source.read(2**18):
            total += len(data)
    assert total == 100 * 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024, "KiB for 100 MiB"
