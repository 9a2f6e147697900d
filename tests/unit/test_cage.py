"""What a shim reads of its job's cgroup, and where jobs have none. tests/integration/test_cgroups.py has real ones."""

from pathlib import Path

import pytest

from scd.launcher.cage import Cage
from scd.launcher.cgroup import Cgroups, Gone, Unavailable, look
from scd.launcher.output import MOST_BYTES, Output


def events(place: Path, *, killed: int, limited: int) -> None:
    text = f"low 0\nhigh 0\nmax 900\noom {limited}\noom_kill {killed}\noom_group_kill 0\n"
    (place / "memory.events").write_text(text)


def test_a_shortage_is_told_once_and_says_whose_it_is(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{8 * 2**30}\n")
    events(tmp_path, killed=3, limited=3)
    cage = Cage(str(tmp_path))
    assert cage.shortage() == "", "what was before this shim is none of its business"
    events(tmp_path, killed=4, limited=4)
    assert cage.shortage() == "out of memory: the job's limit of 8GiB"
    assert cage.shortage() == ""
    events(tmp_path, killed=5, limited=4)
    assert cage.shortage() == "out of memory: the machine, or all jobs together, had no more"


def test_without_a_cgroup_nothing_is_said(tmp_path: Path) -> None:
    cage = Cage("")
    cage.enter()
    assert cage.shortage() == ""
    assert Cage(str(tmp_path / "gone")).shortage() == ""


def test_a_place_without_controllers_is_none(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu pids\n")
    with pytest.raises(Unavailable, match="lacks memory, which cgroups v1 may have"):
        Cgroups(tmp_path, 0, 0).check()
    with pytest.raises(Unavailable, match="No such file"):
        Cgroups(tmp_path / "none", 0, 0).check()


def test_a_place_that_is_gone_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(Gone, match=r"Start scd-jobs\.service"):
        Cgroups(tmp_path / "gone", 0, 0).make("0" * 32)


def test_the_log_says_what_is_in_force_and_why_not() -> None:
    cgroups, told = look(2**30, 100)
    if cgroups is None:
        assert told.startswith("jobs have no cgroups of their own, and nothing limits a job to 1GiB of memory: ")
    else:
        assert told == f"each job has a cgroup of its own in {cgroups.place}: 1GiB of memory, 100 processes"
    assert str(Cgroups(Path("/x"), 0, 0)).endswith("in /x: no limit of memory, no limit of processes")


def test_what_a_job_prints_is_bounded(tmp_path: Path) -> None:
    output = Output(tmp_path / "runner.log")
    piece = b"x" * 2**16
    with open(output.end, "wb", buffering=0, closefd=False) as printed:
        for number in range(3 * MOST_BYTES // len(piece)):
            printed.write(piece[:-8] + f"{number:7}\n".encode())
            assert output.take()
        printed.write(b"the last words\n")
    output.hand_over()
    output.close()
    files = {path.name: path for path in tmp_path.iterdir()}
    assert files.keys() == {"runner.log", "runner.log.1"}
    assert all(path.stat().st_size <= MOST_BYTES for path in files.values())
    assert files["runner.log"].read_bytes().endswith(b"the last words\n")
