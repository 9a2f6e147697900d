"""A node's log out of an archive that its job has made, and may have made badly."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from scd import logs
from scd.errors import NoResults
from scd.logs import read_log
from scd.model import NodeKey

KEY = NodeKey("syn", "0")
NAME = "hash/top/job0/syn/0/sc_syn_0.log"
TEXT = b"".join(b"line %d\n" % number for number in range(200_000))


def archive(path: Path, **members: bytes) -> Path:
    """``members`` by their last names; the log stands behind the outputs, as the runner packs it."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(f"hash/top/job0/syn/0/{name.replace('__', '.')}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_a_log_is_read_in_pieces(tmp_path: Path) -> None:
    path = archive(tmp_path / "1.1.tar.gz", outputs=b"x" * 3_000_000, sc_syn_0__log=TEXT)
    found, offset = b"", 0
    while piece := read_log(path, KEY, offset, 300_001):
        found, offset = found + piece, offset + len(piece)
        assert len(piece) <= 300_001
    assert found == TEXT


def test_another_nodes_log_is_not_taken_for_it(tmp_path: Path) -> None:
    path = archive(tmp_path / "1.1.tar.gz", sc_syn_1__log=b"of another")
    with pytest.raises(NoResults, match=r"^Node syn/0 wrote no log\.$"):
        read_log(path, KEY, 0, 100)


@pytest.mark.parametrize("damage", [b"", b"no gzip", gzip.compress(b"no tar" * 200), gzip.compress(b"x" * 700)[:-9]])
def test_a_damaged_archive_says_so(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "1.1.tar.gz"
    path.write_bytes(damage)
    with pytest.raises(NoResults, match=r"^(The archive of node syn/0 cannot be read|Node syn/0 wrote no log)"):
        read_log(path, KEY, 0, 100)


def test_a_bomb_is_not_unpacked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MOST_UNPACKED", 2**20)
    path = archive(tmp_path / "1.1.tar.gz", outputs=bytes(4 * 2**20), sc_syn_0__log=b"behind it")
    with pytest.raises(NoResults, match=r"it is too large"):
        read_log(path, KEY, 0, 100)


def test_a_link_in_the_archives_place_is_not_followed(tmp_path: Path) -> None:
    real = archive(tmp_path / "real.tar.gz", sc_syn_0__log=b"secret")
    (tmp_path / "1.1.tar.gz").symlink_to(real)
    with pytest.raises(OSError, match="not a plain file"):
        read_log(tmp_path / "1.1.tar.gz", KEY, 0, 100)
