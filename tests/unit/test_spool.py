import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scd.spool import Spool, disk_usage

HASH = "ab" + "0" * 30


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "deep" / "spool")
    made.create()
    return made


def submit(spool: Spool, job_hash: str = HASH) -> None:
    staged = spool.stage()
    staged.manifest(1).write_bytes(b"{}")
    staged.import_archive.write_bytes(b"gzip")
    spool.commit(staged, job_hash)


def test_a_submission_gets_its_place(spool: Spool) -> None:
    submit(spool)
    job = spool.job(HASH)
    assert job.path == spool.root / "jobs" / "ab" / HASH
    assert job.unacknowledged.exists()
    spool.acknowledge(HASH)
    assert sorted(path.name for path in job.path.iterdir()) == ["archives", "control", "upload", "work"]
    assert job.manifest(1).read_bytes() == b"{}"
    assert job.manifest(1).name == "manifest-1.json"
    assert job.import_archive.read_bytes() == b"gzip"
    assert list(spool.staging.iterdir()) == []
    assert spool.hashes() == {HASH}


def test_nobody_else_looks_into_a_job(spool: Spool) -> None:
    submit(spool)
    for path in (spool.jobs, spool.staging, *spool.jobs.rglob("*")):
        if path.is_dir():
            assert path.stat().st_mode & 0o777 == 0o700, path


def test_uploads_do_not_meet(spool: Spool) -> None:
    one, two = spool.stage(), spool.stage()
    assert one.path != two.path
    spool.discard(one)
    spool.discard(one)
    assert [path.name for path in spool.staging.iterdir()] == [two.path.name]


def test_all_is_on_the_disk_when_a_commit_returns(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the client promises it. First what is renamed, then the directory that got the new name."""
    staged = spool.stage()
    staged.manifest(1).write_bytes(b"{}")
    staged.import_archive.write_bytes(b"gzip")
    happened: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watch_fsync(fd: int) -> None:
        fsync(fd)
        happened.append(os.readlink(f"/proc/self/fd/{fd}"))

    def watch_rename(self: Path, target: Path) -> Path:
        happened.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(Path, "rename", watch_rename)
    spool.commit(staged, HASH)
    before, after = happened[: happened.index("rename")], happened[happened.index("rename") + 1 :]
    needed = {staged.manifest(1), staged.import_archive, staged.upload, staged.path, spool.jobs}
    assert {str(path) for path in needed} <= set(before)
    assert after == [str(spool.jobs / "ab")]


def test_two_jobs_share_a_first_directory(spool: Spool) -> None:
    submit(spool)
    submit(spool, "ab" + "1" * 30)
    submit(spool, "cd" + "1" * 30)
    assert spool.hashes() == {HASH, "ab" + "1" * 30, "cd" + "1" * 30}


def test_a_commit_never_replaces_a_job(spool: Spool) -> None:
    submit(spool)
    spool.job(HASH).manifest(1).write_bytes(b"the first")
    staged = spool.stage()
    with pytest.raises(OSError):
        spool.commit(staged, HASH)
    assert spool.job(HASH).manifest(1).read_bytes() == b"the first"


def test_a_resumes_manifest_stands_beside_the_first(spool: Spool) -> None:
    submit(spool)
    spool.add_manifest(HASH, 2, lambda path: path.write_bytes(b"second"))
    assert spool.job(HASH).manifest(1).read_bytes() == b"{}"
    assert spool.job(HASH).manifest(2).read_bytes() == b"second"


def test_a_start_clears_what_a_crash_cut_off_and_keeps_jobs(spool: Spool) -> None:
    submit(spool)
    staged = spool.stage()
    staged.import_archive.write_bytes(b"half")
    staged.work.chmod(0)
    later = Spool(spool.root)
    later.create()
    fresh = later.stage()
    later.clear()
    assert list(spool.staging.iterdir()) == [fresh.path], "an upload that has begun since is none of it"
    assert spool.hashes() == {HASH}


def test_a_job_is_removed_whatever_it_left(spool: Spool) -> None:
    submit(spool)
    outside = spool.root / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    work = spool.job(HASH).work
    (work / "locked").mkdir()
    (work / "locked" / "file").touch()
    (work / "locked").chmod(0)
    (work / "link").symlink_to(outside)
    spool.remove(HASH)
    assert not spool.job(HASH).path.exists()
    assert (outside / "kept").exists(), "a link in a job's directory was followed"
    spool.remove(HASH)


def test_a_removed_job_is_gone_whole_or_swept_at_start(spool: Spool) -> None:
    submit(spool)
    (spool.job(HASH).work / "file").write_text("x")
    spool.remove(HASH)
    spool.remove(HASH)
    assert spool.hashes() == set()
    assert list(spool.staging.iterdir()) == []


def test_what_no_job_owns_is_moved_and_never_overwritten(spool: Spool) -> None:
    places = []
    for text in ("first", "second"):
        submit(spool)
        (spool.job(HASH).work / "file").write_text(text)
        places.append(spool.set_aside(HASH))
    assert [(place / "work" / "file").read_text() for place in places] == ["first", "second"]


def test_a_jobs_size_is_what_it_takes_on_the_disk(spool: Spool) -> None:
    assert spool.size(HASH) == 0
    submit(spool)
    empty = spool.size(HASH)
    (spool.job(HASH).work / "big").write_bytes(bytes(2**20))
    (spool.job(HASH).work / "link").symlink_to("/etc/passwd")
    with open(spool.job(HASH).work / "hole", "wb") as file:
        file.truncate(2**30)
    assert 2**20 <= spool.size(HASH) - empty < 2**20 + 2**16


def test_many_empty_files_take_what_their_directories_take(tmp_path: Path) -> None:
    crowded = tmp_path / "work" / "crowded"
    crowded.mkdir(parents=True)
    for number in range(500):
        (crowded / f"{'name' * 40}{number}").touch()
    if not (taken := crowded.stat().st_blocks * 512):
        pytest.skip("on this file system directories take nothing")
    assert disk_usage(tmp_path) >= taken
    assert disk_usage(tmp_path, besides="work") < taken


def test_clearing_does_not_meet_those_who_drop_uploads(spool: Spool) -> None:
    """The janitor clears away what is left, while threads drop uploads that were broken off and files of jobs."""

    def drop() -> None:
        for number in range(15):
            spool.discard(spool.stage())
            submit(spool, f"{number:032x}")
            spool.remove(f"{number:032x}")

    with ThreadPoolExecutor(1) as pool:
        dropping = pool.submit(drop)
        while not dropping.done():
            spool.clear()
    dropping.result()
    spool.clear()
    assert list(spool.staging.iterdir()) == []
