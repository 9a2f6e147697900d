import os
import resource
import threading
from pathlib import Path

import pytest

from scd.auth import private_key
from scd.sealed import WrongKey, open_either, seal, sealed, size_of

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
    for spoilt in (b"", b"nonsense", whole[:50]):
        sealed(path).write_bytes(spoilt)
        with pytest.raises((OSError, WrongKey)):
            open_either(path, private_key(pair.sent))


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
