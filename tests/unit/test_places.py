"""What processes of another account could put in a path's way."""

import os
from pathlib import Path

import pytest

from scd.durable import open_plain
from scd.launcher.results import discard, open_archive, publish
from scd.runner.restraint import misplaced


def test_another_directory_at_a_place_is_seen(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    status = (tmp_path / "work").stat()
    places = {str(tmp_path / "work"): [status.st_dev, status.st_ino]}
    assert misplaced(places) == []
    (tmp_path / "work").rename(tmp_path / "aside")
    (tmp_path / "work").symlink_to("/etc")
    assert misplaced(places) == [str(tmp_path / "work")]


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with open(open_plain(tmp_path / "file")) as file:
        assert file.read() == "text"
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("link", "pipe", "directory", "nothing"):
        with pytest.raises(FileNotFoundError):
            open_plain(tmp_path / name)


def test_an_archive_is_made_in_its_directory_alone(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "archives" / ".1.1.tar.gz").symlink_to(tmp_path / "precious")
    for name in ("1.1.tar.gz", "/../../precious"):
        with pytest.raises(OSError):
            open_archive(tmp_path / "archives", name)
    with pytest.raises(OSError):
        publish(tmp_path / "archives", "/../../precious")
    discard(tmp_path / "archives", "/../../precious")
    assert (tmp_path / "precious").read_text() == "kept"
