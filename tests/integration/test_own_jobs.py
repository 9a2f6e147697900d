"""scdctl in the hands of who is neither root nor scd: by their accounts, users see and cancel what is their own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..gateway import ALICE, BOB, NOBODYS, Gateway, accounts, as_account, passage, place, started, why_not
from ..harness import ROOT, wait_until

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with accounts(), place() as directory, started(Gateway(directory / "gateway")) as made:
        yield made


@pytest.fixture(scope="module")
def jobs(gateway: Gateway) -> dict[str, str]:
    """One ended job of each user."""
    found = {user: gateway.start_job(user, f"echo this is {user}; false") for user in ("alice", "bob")}
    for user, job_hash in found.items():
        gateway.finish(user, job_hash)
    return found


def scdctl(gateway: Gateway, account: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*passage(gateway.directory), *as_account(account), sys.executable, "-m", "scd.cli.main"]
    return subprocess.run(
        [*command, "-c", str(gateway.file), *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT
    )


def listed(gateway: Gateway, account: str, *arguments: str) -> list[str]:
    done = scdctl(gateway, account, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    (records,) = (value for key, value in json.loads(done.stdout).items() if key != "version")
    return [record["job_hash"] for record in records]


def test_each_sees_his_own(gateway: Gateway, jobs: dict[str, str]) -> None:
    for account, user in ((ALICE, "alice"), (BOB, "bob")):
        assert listed(gateway, account, "jobs") == [jobs[user]]
        assert set(listed(gateway, account, "nodes", "-S", "today")) == {jobs[user]}
        assert listed(gateway, account, "show", jobs[user][:8]) == [jobs[user]]
    assert set(listed(gateway, "root", "jobs")) == set(jobs.values())


def test_anothers_job_is_as_one_that_is_not_there(gateway: Gateway, jobs: dict[str, str]) -> None:
    other, nothing = jobs["bob"], "0" * 32
    assert listed(gateway, ALICE, "jobs", "-u", "bob") == []
    for verb in ("show", "log", "cancel"):
        refused, unknown = (scdctl(gateway, ALICE, verb, job_hash) for job_hash in (other, nothing))
        assert refused.returncode == unknown.returncode == 1
        assert refused.stdout == unknown.stdout == ""
        assert refused.stderr.replace(other, nothing) == unknown.stderr
    assert "There is no job" in scdctl(gateway, ALICE, "log", f"{other}.work/0").stderr
    assert "There is no job" in scdctl(gateway, ALICE, "jobs", "-j", other[:8]).stderr


def test_the_log_of_an_ended_node(gateway: Gateway, jobs: dict[str, str]) -> None:
    done = scdctl(gateway, ALICE, "log", f"{jobs['alice'][:8]}.work/0")
    assert done.returncode == 0, done.stderr
    assert "Halting work/0 due to errors." in done.stdout
    whole = scdctl(gateway, ALICE, "log", jobs["alice"])
    assert "queued -> preparing" in whole.stdout
    assert "== work/0: " in whole.stdout


def test_a_running_job_is_cancelled_by_its_user_and_by_no_other(gateway: Gateway) -> None:
    job_hash = gateway.running("alice", "sleep 60")
    assert scdctl(gateway, BOB, "cancel", job_hash).returncode == 1
    script = f"""import http.client, socket
c = http.client.HTTPConnection("localhost"); c.sock = socket.socket(socket.AF_UNIX)
c.sock.connect({str(gateway.state / "scd.sock")!r}); c.request("POST", "/admin/cancel/{job_hash}")
print(c.getresponse().status)"""
    done = subprocess.run([*as_account(BOB), "/usr/bin/python3", "-c", script], capture_output=True, text=True, cwd="/")
    assert done.stdout == "404\n", done.stderr
    assert gateway.node_state(job_hash) == "running", "somebody else could end it"
    assert scdctl(gateway, ALICE, "cancel", job_hash[:8]).stdout == f"Job {job_hash} is being cancelled.\n"
    assert gateway.finish("alice", job_hash)["message"] == "by alice"


def test_a_node_is_followed_by_its_user(gateway: Gateway, tmp_path: Path) -> None:
    job_hash = gateway.running("alice", "sleep 60")
    command = [*passage(gateway.directory), *as_account(ALICE), sys.executable, "-m", "scd.cli.main"]
    with open(tmp_path / "out", "wb") as out:
        follow = subprocess.Popen([*command, "-c", str(gateway.file), "log", "-f", f"{job_hash}.work/0"], stdout=out,
                                  cwd=ROOT)  # fmt: skip
    try:
        wait_until(lambda: "Running in" in (tmp_path / "out").read_text(), "nothing of the running node's log is shown")
        assert scdctl(gateway, ALICE, "cancel", job_hash).returncode == 0
        assert follow.wait(30) == 0
    finally:
        follow.kill()
    assert "Halting work/0 due to errors." in (tmp_path / "out").read_text(), "it was not followed to its end"


def test_who_is_no_user_is_told_so(gateway: Gateway) -> None:
    done = scdctl(gateway, NOBODYS, "jobs")
    assert done.returncode == 4
    assert f"The account {NOBODYS} is no user of scd" in done.stderr


def test_what_is_the_administrators_stays_his(gateway: Gateway) -> None:
    for arguments in (("check",), ("check", "--fix"), ("backup", "/tmp/none"), ("doctor",)):
        done = scdctl(gateway, ALICE, *arguments)
        assert done.returncode == 4, f"{arguments}: {done.stdout}{done.stderr}"


def test_without_the_daemon_users_are_told_that_it_is_down(gateway: Gateway, jobs: dict[str, str]) -> None:
    gateway.stop()
    done = scdctl(gateway, ALICE, "jobs")
    assert done.returncode == 3
    assert "Is it running?" in done.stderr
    assert set(listed(gateway, "root", "jobs")) >= set(jobs.values())
