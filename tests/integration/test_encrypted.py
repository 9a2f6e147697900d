"""What lies encrypted on the disk: what it is charged, whether it is whole, and what a disk or a new key does to it."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import argon2
import pytest

from ..encrypted import bob, content, credentials, fetch, holding, resume, submit, wait_until_sealed
from ..harness import ROOT, Daemon, Json, wait_until
from ..keys import Pair, make_pair
from .submission import collected, manifest

NewDaemon = Callable[..., Daemon]
CANARY = "canary-in-the-output"
NOISE = "script=head -c 30000000 /dev/urandom > noise"
QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("keys") / "bob")


def ctl(daemon: Daemon, *arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "scd.cli.main", "-c", str(daemon.file), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def sealed_job(daemon: Daemon, pair: Pair, script: str = f"script=echo {CANARY} > said", *, to: str = "after") -> str:
    job_hash = submit(daemon, pair, script, to=to)
    assert daemon.wait(job_hash, credentials=credentials(pair))["status"] == "completed", daemon.log.read_text()
    wait_until_sealed(daemon, job_hash)
    return job_hash


def wait_until_measured(daemon: Daemon, job_hash: str) -> Json:
    """The job's row."""

    def row() -> Json:
        return daemon.rows("SELECT * FROM jobs WHERE job_hash = ?", job_hash)[0]

    wait_until(lambda: row()["sealed"] and row()["disk_bytes"] is not None, "what it takes encrypted is not measured")
    return row()


# -- what it costs


def test_what_is_charged_and_shown_of_an_encrypted_job(new_daemon: NewDaemon, pair: Pair) -> None:
    """Time as of any job, bytes as they are sent, and room as the encrypted files take it."""
    daemon = new_daemon(bob(pair))
    job_hash = sealed_job(daemon, pair, "script=head -c 3000000 /dev/urandom > noise")
    (owed,) = daemon.rows("SELECT sum(elapsed * cores) AS s FROM attempts")
    (before,) = json.loads(ctl(daemon, "--json", "usage"))["usage"]
    assert before["core_seconds"] == pytest.approx(owed["s"])
    assert before["result_bytes"] == 0

    got = fetch(daemon, pair, job_hash, node="work0")
    assert len(got) > 3_000_000
    wait_until(lambda: daemon.rows("SELECT 1 FROM ledger WHERE result_bytes > 0"), "the download is not charged")
    (after,) = json.loads(ctl(daemon, "--json", "usage"))["usage"]
    assert after["result_bytes"] == len(got), "not what was sent, but what lies on the disk"
    assert after["core_seconds"] == before["core_seconds"], "to encrypt costs the user nothing"

    row = wait_until_measured(daemon, job_hash)
    directory = daemon.job_directory(job_hash)
    there = sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))
    assert there > 3_000_000
    assert row["disk_bytes"] == there, "its tree is gone, and must not be counted any more"
    (shown,) = json.loads(ctl(daemon, "--json", "show", job_hash[:8]))["jobs"]
    assert shown["disk_bytes"] == there


# -- scdctl check


def test_check_finds_what_is_cut_off_or_gone(new_daemon: NewDaemon, pair: Pair) -> None:
    daemon = new_daemon(bob(pair))
    job_hash = sealed_job(daemon, pair)
    wait_until_measured(daemon, job_hash)
    assert ctl(daemon, "check") == "Disk and database fit together.\n"
    directory = daemon.job_directory(job_hash)
    cut, gone, _ = sorted((directory / "archives").glob("[1-9]*.age"))
    size = daemon.rows("SELECT archive_bytes AS n FROM attempts WHERE archive = ?", cut.name.removesuffix(".age"))
    os.truncate(cut, cut.stat().st_size - 1)
    gone.unlink()
    assert (directory / "upload" / "import.tar.gz.age").exists()
    os.truncate(directory / "upload" / "import.tar.gz.age", 100)  # within its header
    found = json.loads(ctl(daemon, "--json", "check", status=1))["findings"]
    assert {one["problem"] for one in found} == {
        f"its archives/{cut.name.removesuffix('.age')} holds {size[0]['n'] - 1} of {size[0]['n']} bytes",
        f"its archive {gone.name.removesuffix('.age')} is gone",
        "its upload/import.tar.gz cannot be read: a sealed file is damaged: it has no header",
    }
    assert {one["job_hash"] for one in found} == {job_hash}
    mended = json.loads(ctl(daemon, "--json", "check", "--fix", status=1))["findings"]
    assert [one["problem"] for one in mended if one["mended"]] == [f"its archive {gone.name[:-4]} is gone"]
    assert cut.exists(), "nobody but a person may decide what becomes of half a file"
    assert "to mend it: restore the file from a backup of the spool" in ctl(daemon, "check", status=1)


def test_who_fetches_what_is_cut_off_is_not_told_of_another_key(new_daemon: NewDaemon, pair: Pair) -> None:
    daemon = new_daemon(bob(pair))
    job_hash = sealed_job(daemon, pair)
    (archive,) = (row["archive"] for row in daemon.rows("SELECT archive FROM attempts WHERE step = 'work'"))
    os.truncate(daemon.job_directory(job_hash) / "archives" / f"{archive}.age", 600)
    answer = daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0", **credentials(pair)})
    assert answer.status_code == 500
    assert answer.json()["message"] == (
        "These files are cut off, or damaged, on the server's disk. The administrator finds them at "
        f"jobs/{job_hash[:2]}/{job_hash}/archives/{archive}.age."
    )
    assert f"job={job_hash}" in daemon.log.read_text()
    assert "is cut off, or damaged" in daemon.log.read_text(), "the administrator is not told"

    code, message = resume(daemon, pair, job_hash, "script=true")
    assert code == 200, message
    told = daemon.wait(job_hash, credentials=credentials(pair))
    assert told["status"] == "failed", told
    (row,) = daemon.rows("SELECT reason FROM jobs WHERE job_hash = ?", job_hash)
    assert row["reason"] == "These files are cut off, or damaged, on the server's disk."


def test_check_finds_a_plain_archive_that_is_cut_off(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = str(daemon.submit(manifest("chain"), collected("chain")).json()["job_hash"])
    assert daemon.wait(job_hash)["status"] == "completed"
    wait_until(lambda: daemon.rows("SELECT 1 FROM attempts WHERE archive_bytes > 0"), "no archive was measured")
    assert ctl(daemon, "check") == "Disk and database fit together.\n"
    path = max((daemon.job_directory(job_hash) / "archives").glob("*.tar.gz"))
    size = path.stat().st_size
    os.truncate(path, size // 2)
    assert f"its archives/{path.name} holds {size // 2} of {size} bytes" in ctl(daemon, "check", status=1)


# -- a disk that takes no more


def test_what_a_disk_did_not_take_is_encrypted_later(new_daemon: NewDaemon, pair: Pair) -> None:
    """The kernel refuses the daemon's writes. The owner can fetch all the same, and nothing plain is left at last."""
    daemon = new_daemon(bob(pair))
    job_hash = submit(daemon, pair, f"{NOISE}; echo {CANARY} > said; until [ -e $HOME/go ]; do sleep 0.1; done")
    directory = daemon.job_directory(job_hash)
    wait_until(lambda: list(directory.rglob("said")), "the node does not run", 60)
    unlimited = resource.RLIM_INFINITY
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (16_000_000, unlimited))  # not of the shim, which is there
    (directory / "work" / "go").touch()
    assert daemon.wait(job_hash, credentials=credentials(pair))["status"] == "completed"
    wait_until(
        lambda: f"job={job_hash} its files cannot be encrypted; it is tried again: [Errno" in daemon.log.read_text(),
        "nothing is said of a file that could not be written", 60,
    )  # fmt: skip
    assert daemon.rows("SELECT sealed FROM jobs") == [{"sealed": 0}]
    assert content(fetch(daemon, pair, job_hash, node="work0"), "/said").strip() == CANARY, "it cannot be fetched"
    wait_until(lambda: not list((directory / "work").iterdir()), "what needs no room does not go")

    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    wait_until_sealed(daemon, job_hash)
    files = [path for name in ("archives", "upload") for path in (directory / name).iterdir()]
    assert files
    assert [path.name for path in files if path.suffix != ".age" or path.name.startswith(".")] == []
    assert holding(daemon, CANARY) == set()
    assert content(fetch(daemon, pair, job_hash, node="work0"), "/said").strip() == CANARY
    assert daemon.log.read_text().count("cannot be encrypted") == 1, "the same complaint every two seconds"
    assert daemon.stop() == 0


# -- who is given a key, or another one


def test_who_is_given_a_key_has_his_earlier_jobs_encrypted(new_daemon: NewDaemon, pair: Pair) -> None:
    """Those that have ended at once, and what runs when it ends; those of others stay as they are."""
    more = f'[users.alice]\npassword_hash = "{QUICK.hash("alice")}"\n'
    daemon = new_daemon()
    daemon.stop()
    plain = daemon.file.read_text()
    daemon.file.write_text(f'{plain}{more}[users.bob]\npassword_hash = "{QUICK.hash("bob")}"\n')
    daemon.start()
    passwords = {name: {"username": name, "key": name} for name in ("alice", "bob")}

    def start(user: str, script: str) -> str:
        response = daemon.submit(manifest("work", script), collected("work", script), **passwords[user])
        assert response.status_code == 200, response.text
        return str(response.json()["job_hash"])

    ended = {user: start(user, f"script=echo {CANARY}-{user} > said") for user in passwords}
    for user, job_hash in ended.items():
        assert daemon.wait(job_hash, credentials=passwords[user])["status"] == "completed"
    running = start("bob", f"script=echo {CANARY}-bob > said; until [ -e $HOME/go ]; do sleep 0.1; done")
    directory = daemon.job_directory(running)
    wait_until(lambda: list(directory.rglob("said")), "the node does not run", 60)
    assert holding(daemon, f"{CANARY}-bob"), "this test would not find what it looks for"

    daemon.file.write_text(plain + more + bob(pair))
    ctl(daemon, "reload")
    wait_until_sealed(daemon, ended["bob"])
    assert daemon.post("/check_server/", passwords["bob"]).status_code == 403, "the password is no longer his"
    (directory / "work" / "go").touch()
    assert daemon.wait(running, credentials=credentials(pair))["status"] == "completed"
    wait_until_sealed(daemon, running)
    assert holding(daemon, f"{CANARY}-bob") == set()
    for job_hash in (ended["bob"], running):
        assert content(fetch(daemon, pair, job_hash, node="work0"), "/said").strip() == f"{CANARY}-bob"
    assert holding(daemon, f"{CANARY}-alice"), "who has no key has nothing encrypted"

    code, message = resume(daemon, pair, ended["bob"], f"script=echo {CANARY}-bob > said")
    assert code == 200, message
    assert daemon.wait(ended["bob"], credentials=credentials(pair))["status"] == "completed", daemon.log.read_text()
    wait_until_sealed(daemon, ended["bob"])


def test_who_goes_back_to_a_password_is_told_where_his_files_are(new_daemon: NewDaemon, pair: Pair) -> None:
    daemon = new_daemon(bob(pair))
    job_hash = sealed_job(daemon, pair, to="get")
    text = daemon.file.read_text()
    daemon.file.write_text(text.replace(bob(pair), f'[users.bob]\npassword_hash = "{QUICK.hash("bob")}"\n'))
    ctl(daemon, "reload")
    refused = daemon.post(f"/get_results/{job_hash}.tar.gz", {"username": "bob", "key": "bob"})
    assert refused.status_code == 403
    assert refused.json()["message"].startswith("These files are encrypted to a key, and none was sent. ")


def test_what_is_encrypted_to_an_earlier_key(tmp_path: Path, new_daemon: NewDaemon, pair: Pair) -> None:
    """It stays so. Its owner is told, and the file that he is shown opens with the earlier key, without scd."""
    daemon = new_daemon(bob(pair))
    job_hash = sealed_job(daemon, pair)
    other = make_pair(tmp_path / "next")
    daemon.file.write_text(daemon.file.read_text().replace(pair.public, other.public))
    ctl(daemon, "reload")
    assert daemon.post("/check_server/", credentials(pair)).status_code == 403, "the earlier key still logs in"
    refused = daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0", **credentials(other)})
    assert refused.status_code == 403
    message = refused.json()["message"]
    assert message.startswith("These files are encrypted to another key than the one that was sent. ")
    assert message.endswith("who has their key opens them: age -d -i KEY FILE.")
    (named,) = (word for word in message.split() if word.endswith(".age,"))
    file = daemon.state / "spool" / named.removesuffix(",")
    pyrage = pytest.importorskip("pyrage")
    opened = pyrage.decrypt(file.read_bytes(), [pyrage.ssh.Identity.from_buffer(pair.private.encode())])
    assert content(opened, "/said").strip() == CANARY

    new = sealed_job(daemon, other)
    assert content(fetch(daemon, other, new, node="work0"), "/said").strip() == CANARY
    assert {row["public_key"] for row in daemon.rows("SELECT public_key FROM jobs")} == {pair.public, other.public}
    wait_until_measured(daemon, job_hash)
    wait_until_measured(daemon, new)
    assert ctl(daemon, "check") == "Disk and database fit together.\n"


# -- Slurm


def test_keys_and_slurm_are_refused_together(tmp_path: Path, pair: Pair) -> None:
    """Before anything is started, with what to do about it."""
    daemon = Daemon(tmp_path / "scd", f"[slurm]\n{bob(pair)}")
    for mode in ([], ["--check-config"]):
        done = subprocess.run(
            [sys.executable, "-m", "scd.daemon", "-c", str(daemon.file), *mode],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 78, done.stderr
        assert "[slurm] cannot be used together with keys of users" in done.stderr
        assert "Take out [slurm], or public_key of all [users.NAME]" in done.stderr
    assert not (daemon.state / "scd.db").exists()
