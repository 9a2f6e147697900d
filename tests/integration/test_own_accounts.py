"""People of the site's directory on a gateway: each runs as the Unix account of his name, and as no other."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..gateway import (
    ALICE,
    NOBODYS,
    PREFIX,
    SCD,
    Gateway,
    accounts,
    as_account,
    owner_of,
    passage,
    place,
    started,
    uid,
    why_not,
)  # fmt: skip
from ..harness import ROOT, wait_until
from .people import PASSWORD, pam_service, why_no_pam
from .submission import collected, manifest, member, set_value

_WHY_NOT = why_not() or why_no_pam()
pytestmark = pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)

STUDENT, OTHER, STRANGER = (f"{PREFIX}-{name}" for name in ("s", "o", "x"))
NOT_HERE, TOO_LONG = f"{PREFIX}-y", f"{PREFIX}-{'z' * 40}"
COURSE = f"{PREFIX}-course"


@pytest.fixture(scope="module")
def somewhere() -> Iterator[Path]:
    with accounts(STUDENT, OTHER, STRANGER), place() as directory:
        subprocess.run(["groupadd", COURSE], check=True)
        try:
            for name in (STUDENT, OTHER):
                subprocess.run(["usermod", "--append", "--groups", COURSE, name], check=True)
            yield directory
        finally:
            subprocess.run(["groupdel", COURSE], check=True)


@pytest.fixture(scope="module")
def gateway(somewhere: Path) -> Iterator[Gateway]:
    names = (STUDENT, OTHER, STRANGER, NOT_HERE, TOO_LONG, NOBODYS, SCD, "root", "nobody", "daemon")
    passwords = somewhere / "passwords"
    with pam_service(passwords, *names) as service:
        passwords.chmod(0o644)
        more = f'account = "{{user}}"\naccount_groups = ["{COURSE}"]\n[auth.pam]\nservice = "{service}"\n'
        with started(Gateway(somewhere / "gateway", more)) as made:
            yield made


def credentials(user: str) -> dict[str, str]:
    return {"username": user, "key": PASSWORD}


def submit(gateway: Gateway, user: str, script: str) -> str:
    option = f"script={script}"
    cfg = set_value(manifest("work", option), 1, "option", "scheduler", "cores")
    response = gateway.submit(cfg, collected("work", option), **credentials(user))
    assert response.status_code == 200, response.text
    return str(response.json()["job_hash"])


def test_each_runs_as_the_account_of_his_name(gateway: Gateway) -> None:
    jobs = {user: submit(gateway, user, "sleep 300") for user in (STUDENT, OTHER)}
    for user, job_hash in jobs.items():
        wait_until(lambda job=job_hash: gateway.node_state(job) == "running", f"it never ran:\n{gateway.logs()}", 60)  # type: ignore[misc]
        for kind in ("shim", "runner", "started"):
            assert owner_of(gateway.pid_of(job_hash, kind)) == uid(user), kind
        assert gateway.rows("SELECT user FROM jobs WHERE job_hash = ?", job_hash) == [{"user": user}]
    work = gateway.job_directory(jobs[STUDENT]) / "work"
    look = subprocess.run([*as_account(OTHER), "ls", str(work)], capture_output=True, text=True)
    assert "Permission denied" in look.stderr, "one's files can be read by the other"
    for user, job_hash in jobs.items():
        assert gateway.post("/cancel_job/", {"job_hash": job_hash, **credentials(user)}).status_code == 200
        assert gateway.wait(job_hash, credentials=credentials(user))["status"] == "canceled"


def test_his_results_come_back_and_he_sees_his_jobs(gateway: Gateway) -> None:
    job_hash = submit(gateway, STUDENT, "id -u >out")
    assert gateway.wait(job_hash, credentials=credentials(STUDENT))["status"] == "completed", gateway.logs()
    answer = gateway.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0", **credentials(STUDENT)})
    assert member(answer.content, "/out").decode().strip() == str(uid(STUDENT))

    def listed(account: str) -> str:
        command = [*passage(gateway.directory), *as_account(account), sys.executable, "-m", "scd.cli.main"]
        done = subprocess.run(
            [*command, "-c", str(gateway.file), "jobs", "-t", "completed"], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert job_hash[:8] in listed(STUDENT)
    assert job_hash[:8] not in listed(OTHER)


def test_who_is_named_in_the_configuration_keeps_the_account_that_it_names(gateway: Gateway) -> None:
    """Also if that is a system's account: root has said so."""
    assert uid(ALICE) < 1000
    assert gateway.output("alice", "id -u").strip() == str(uid(ALICE))


NOBODY_RUNS_AS = [
    ("root", "is root, or of its group"),
    (SCD, "is scd's own"),
    (NOBODYS, "which is no person's: [local] min_uid is 1000"),
    ("daemon", "which is no person's"),
    ("nobody", "which is no person's"),
    (STRANGER, f"is in none of the groups whose members may run jobs: {COURSE}"),
    (NOT_HERE, f"there is no Unix account '{NOT_HERE}'"),
]


@pytest.mark.parametrize(("account", "reason"), NOBODY_RUNS_AS)
@pytest.mark.parametrize("request_", ["check", "adopt", "start", "usage", "alive"])
def test_the_launcher_takes_no_other_account(gateway: Gateway, request_: str, account: str, reason: str) -> None:
    """Whatever an scd says that was taken over."""
    fields: dict[str, object] = {  # type: ignore[assignment]
        "check": {}, "adopt": {"job_hash": "0" * 32}, "usage": {"pids": [1]},
        "alive": {"pid": 1, "ticks": 1, "boot": ""},
        "start": {"job_hash": "0" * 32, "design": "d", "jobname": "j", "runtime": "default"},
    }[request_]  # fmt: skip
    answer = json.loads(gateway.ask(json.dumps({"request": request_, "account": account, **fields}).encode()))
    assert reason in answer["error"], answer


@pytest.mark.parametrize(
    ("user", "reason"), [*NOBODY_RUNS_AS, (TOO_LONG, "has no account: that is not the name of a Unix account")]
)
def test_who_has_no_account_for_jobs_is_told_so(gateway: Gateway, user: str, reason: str) -> None:
    """The directory knows him, and his password is right; nothing of his job runs."""
    job_hash = submit(gateway, user, "true")
    assert gateway.wait(job_hash, credentials=credentials(user))["status"] == "failed", gateway.logs()
    (row,) = gateway.rows("SELECT reason FROM jobs WHERE job_hash = ?", job_hash)
    assert reason in row["reason"]
    assert not any((gateway.job_directory(job_hash) / "work").iterdir())


def test_a_group_that_is_not_there_is_named(somewhere: Path) -> None:
    made = Gateway(somewhere / "groups", f'account = "{{user}}"\naccount_groups = ["{PREFIX}-none"]')
    try:
        made.start_launcher()
        assert f"local.account_groups: there is no group '{PREFIX}-none'" in made.logs_of_launcher()
    finally:
        made.end_everything()
