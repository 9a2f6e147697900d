"""What a batch job writes down: that it waits for a disk, and not for a directory that nobody will make again."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scd.launcher import records
from scd.launcher.claims import held, make
from scd.launcher.records import ENDED, Records

DEADLINE = 30.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_RETRY", 0.01)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """As a batch job has it: held by a descriptor."""
    (tmp_path / "control").mkdir()
    assert make(tmp_path / "control" / "slurm" / "1.1")
    with held(tmp_path / "control" / "slurm" / "1.1") as there:
        yield there


def writing(place: Path) -> threading.Thread:
    thread = threading.Thread(target=Records(place, "scd-x-1.1").write, args=[ENDED, {"state": "success"}], daemon=True)
    thread.start()
    return thread


def test_a_record_waits_until_the_disk_takes_it(place: Path) -> None:
    (place / f".{ENDED}").mkdir()  # nothing can be written there, by root neither
    thread = writing(place)
    thread.join(0.2)
    assert thread.is_alive(), "a record was given up"
    (place / f".{ENDED}").rmdir()
    thread.join(DEADLINE)
    assert json.loads((place / ENDED).read_text())["state"] == "success"


def test_a_record_does_not_wait_for_a_directory_that_was_removed(place: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "control" / "slurm" / "1.1")
    thread = writing(place)
    thread.join(DEADLINE)
    assert not thread.is_alive(), "it is tried for ever"
    assert Records(place, "scd-x-1.1").revocation() == ("error", "its directory was removed")


def test_a_directory_that_a_file_server_does_not_know_may_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not held by a descriptor here: that is the same answer of the file system as a server gives by another number."""
    missing = Records(tmp_path / "1.1", "scd-x-1.1")
    assert missing.revocation() is None
    (tmp_path / "1.1").mkdir()
    assert missing.revocation() is None
    shutil.rmtree(tmp_path / "1.1")
    monkeypatch.setattr(records, "_MARGIN", 0.0)
    assert missing.revocation() == ("error", "its directory was removed")
    thread = writing(tmp_path / "1.1")
    thread.join(DEADLINE)
    assert not thread.is_alive(), "it is tried for ever"
