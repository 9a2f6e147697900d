"""A gateway on a cluster: batch jobs of real accounts, submitted by a real scd-launcher for a real scd."""

import grp
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..gateway import (
    ALICE,
    BOB,
    NOBODYS,
    SCD,
    Gateway,
    accounts,
    gid,
    passage,
    place,
    run_as,
    started,
    uid,
    who,
    why_not,
)  # fmt: skip
from ..harness import ROOT, Json, run_client, wait_until
from ..integration.submission import collected, manifest, set_value
from . import cluster as slurm_cluster
from .cluster import Cluster
from .gateway import OnSlurm
from .site import COUNT, runs, slow, slurm_jobs

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

_PATIENCE = 120.0
_GROUP = f"{ALICE}-g"


@pytest.fixture(scope="module")
def somewhere() -> Iterator[Path]:
    if reason := slurm_cluster.why_not():
        pytest.skip(f"no Slurm cluster can be started: {reason}")
    with accounts():
        subprocess.run(["groupadd", "--system", _GROUP], check=True)
        try:
            subprocess.run(["usermod", "--append", "--groups", _GROUP, ALICE], check=True)
            with place() as directory:
                yield directory
        finally:
            subprocess.run(["groupdel", _GROUP], check=True)


@pytest.fixture(scope="module")
def slurm(somewhere: Path) -> Iterator[Cluster]:
    with slurm_cluster.cluster(under=passage(somewhere / "nodes")) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(somewhere: Path, slurm: Cluster) -> Iterator[OnSlurm]:
    with started(OnSlurm(somewhere / "gateway", slurm)) as made:
        yield made


# -- whose the nodes are


def test_nodes_and_preparations_run_under_their_users_accounts(gateway: OnSlurm) -> None:
    script = "id -u >out; id -g >>out; umask >>out; sleep 60"
    jobs = {user: gateway.running(user, script) for user in ("alice", "bob", "carol")}
    for user, account in (("alice", ALICE), ("bob", BOB), ("carol", NOBODYS)):
        groups = {gid(account), *([grp.getgrnam(_GROUP).gr_gid] if user == "alice" else [])}
        node = json.loads((gateway.place(jobs[user]) / "started.json").read_text())["pid"]
        for pid in (node, *_ancestors_in_slurm(node)):
            status = Path(f"/proc/{pid}/status").read_text()
            ids = {line.split(":")[0]: set(map(int, line.split()[1:])) for line in status.splitlines()
                   if line.startswith(("Uid", "Gid", "Groups"))}  # fmt: skip
            assert (ids["Uid"], ids["Gid"]) == ({uid(account)}, {gid(account)}), f"{user}: {status}"
            assert ids["Groups"] <= groups, "it kept a group of somebody else's"
        assert ids["Groups"] == groups, "Slurm did not give it its groups"
        for job in slurm_jobs(gateway.slurm, gateway.attempt(jobs[user])["name"]):
            shown = gateway.slurm.output("scontrol", "-o", "show", "job", job["id"])
            assert f"UserId={account}({uid(account)}) GroupId={account}({gid(account)})" in shown
        gateway.cancel(user, jobs[user])
        assert gateway.finish(user, jobs[user])["status"] == "canceled"
        inside = gateway.result(user, jobs[user]).split()
        assert inside[:2] == [str(uid(account)), str(gid(account))], "what the node itself saw"
        tree = gateway.job_directory(jobs[user]) / "work"
        assert {path.lstat().st_uid for path in tree.rglob("*")} == {uid(account)}


def _ancestors_in_slurm(pid: int) -> list[int]:
    """From a node up to its batch job, whose parent is Slurm's own process."""
    found: list[int] = []
    while b"slurmstepd" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        found.append(pid)
        (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid"))
        pid = int(line.split()[1])
        assert pid > 1, "it does not descend from Slurm"
    assert any(b"scd.launcher.batch" in Path(f"/proc/{one}/cmdline").read_bytes() for one in found)
    return found[1:]


def test_no_secret_of_the_two_reaches_the_batch_job(gateway: OnSlurm) -> None:
    job_hash = gateway.running("alice", "sleep 60")
    node = json.loads((gateway.place(job_hash) / "started.json").read_text())["pid"]
    for pid in _ancestors_in_slurm(node):
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        names = {line.partition("=")[0] for line in environment}
        assert not {name for name in names if name.startswith("SCD_TEST")}
        allowed = {
            "PATH",
            "LANG",
            "HOME",
            "USER",
            "LOGNAME",
            "TMPDIR",
            "PWD",
            "SHELL",
            "HOSTNAME",
            "ENVIRONMENT",
            "MAIL",
            "",
        }
        odd = {name for name in names - allowed if not name.startswith(("SLURM", "OLDPWD", "_"))}
        assert not odd, f"{odd} in {Path(f'/proc/{pid}/cmdline').read_bytes()!r}"
    gateway.cancel("alice", job_hash)
    gateway.finish("alice", job_hash)


def test_the_real_client_gets_its_flow(gateway: OnSlurm, tmp_path: Path) -> None:
    report = run_client(tmp_path, "work", gateway, "script=echo done > reports/done.txt", "scheduler=slurm",
                        username="bob", password="bob-secret", timeout=300)  # fmt: skip
    assert set(report["statuses"].values()) == {"success"}, report["log"]
    executors = gateway.rows("SELECT DISTINCT executor FROM attempts WHERE job_hash = ?", report["job_hash"])
    assert {row["executor"] for row in executors} >= {"slurm"}


# -- who can read and write what


def test_users_cannot_read_or_change_each_others_jobs(gateway: OnSlurm) -> None:
    victim = gateway.running("bob", "echo secret >precious; sleep 60")
    directory, there = gateway.job_directory(victim), gateway.place(victim)
    modes = {path.name: (oct(path.stat().st_mode & 0o7777), path.stat().st_uid, path.stat().st_gid)
             for path in (there.parent, there, there / "alive", there / "started.json", there / "output")}  # fmt: skip
    private = (uid(BOB), gid(SCD))
    assert modes == {
        "slurm": ("0o2750", *private), there.name: ("0o2750", *private), "alive": ("0o640", *private),
        "started.json": ("0o640", *private), "output": ("0o640", *private),
    }, "scd's group reads, nobody else does"  # fmt: skip
    look = f"ls -R {directory}; cat {there}/started.json {directory}/work/*/*/*/work/0/precious {gateway.state}/scd.db"
    inside = gateway.output("alice", look)
    assert "secret" not in inside
    assert "boot" not in inside
    for account in (ALICE, NOBODYS):
        for path in (there, there.parent, directory / "control", directory / "archives", directory / "work"):
            assert run_as(account, f"ls {path}").returncode, f"{path} can be listed"
        for name in ("started.json", "output", "runner.log", "alive"):
            assert run_as(account, f"cat {there}/{name}").returncode, f"{name} can be read"
        record = json.dumps({"type": "ended", "state": "success", "archive": None, "reason": "", "elapsed": 0, "at": 1})
        for name in ("ended.json", "revoked", "started.json", "alive"):
            assert run_as(account, f"echo '{record}' >{there}/{name}").returncode, f"{name} can be forged"
        assert run_as(account, f"rm -rf {there}; mv {there} {there}-aside").returncode
        assert run_as(account, f"mkdir {there.parent}/9.1").returncode
    assert gateway.node_state(victim) == "running"
    assert runs(gateway, victim) == 1
    gateway.cancel("bob", victim)
    gateway.finish("bob", victim)


def test_what_another_account_calls_by_a_jobs_name_is_nobodys(gateway: OnSlurm) -> None:
    """Its state, its end and its id say nothing about the job of that name."""
    gateway.slurm.output("scontrol", "update", "partitionname=compute", "state=down")
    try:
        job_hash = gateway.start_job("bob", f"{COUNT}; echo truly >out")
        name = f"scd-{job_hash}-0.1"
        wait_until(lambda: slurm_jobs(gateway.slurm, name), "it was not submitted", _PATIENCE)
        forged = run_as(
            ALICE, f"echo '#!/bin/sh\nexit 1' | sbatch --output=/dev/null -J {name}", **gateway.slurm.environment
        )
        assert forged.returncode == 0, forged.stderr
        cancelled = run_as(ALICE, f"scancel --name={name} --user={ALICE}", **gateway.slurm.environment)
        assert cancelled.returncode == 0, cancelled.stderr
        states = {job["state"] for job in slurm_jobs(gateway.slurm, name)}
        assert states == {"PENDING", "CANCELLED"}
        time.sleep(5)  # two looks at the queue
    finally:
        gateway.slurm.output("scontrol", "update", "partitionname=compute", "state=up")
    assert gateway.finish("bob", job_hash)["status"] == "completed", gateway.logs()
    assert gateway.result("bob", job_hash) == "truly\n"
    assert runs(gateway, job_hash) == 1


def test_a_link_in_an_accounts_directory_leads_scd_nowhere(gateway: OnSlurm) -> None:
    """Whoever can log in as the account can have his own jobs end as he likes, and read nobody else's records."""
    other = gateway.running("bob", "sleep 60")
    job_hash = gateway.running("alice", "sleep 60")
    mine, its = gateway.place(job_hash).parent, gateway.place(other).parent
    done = run_as(ALICE, f"mv {mine} {mine}-aside && ln -s {its} {mine}")
    assert done.returncode == 0, done.stderr
    gateway.cancel("bob", other)
    gateway.finish("bob", other)
    time.sleep(3)
    assert gateway.node_state(job_hash) == "running", "the end of bob's node was read as alice's"
    assert run_as(ALICE, f"rm {mine} && mv {mine}-aside {mine}").returncode == 0
    gateway.cancel("alice", job_hash)
    assert gateway.finish("alice", job_hash)["status"] == "canceled"


# -- ends, restarts, and what is left


WIDTH = 4  # nodes of the flow "workers"
_RUNS = "id -u >>../../../../../runs"


def workers(gateway: OnSlurm, user: str, script: str) -> str:
    options = (f"script={script}", "threads=1")
    response = gateway.submit(manifest("workers", *options), collected("workers", *options), **who(user))
    assert response.status_code == 200, response.text
    return str(response.json()["job_hash"])


def names_in_slurm(gateway: OnSlurm, job_hash: str) -> set[str]:
    shown = gateway.slurm.output("squeue", "-h", "-r", "-t", "all", "-o", "%i %j %u").splitlines()
    return {line for line in shown if job_hash in line and f"{job_hash}-0." not in line}


def test_nodes_that_are_ready_together_are_submitted_together(gateway: OnSlurm) -> None:
    """In one request each has a batch job of its own, also where one of them is refused."""
    called = gateway.everybodys / "called"
    gateway.replace(
        "sbatch", f'echo $PPID >>{called}; case "$*" in *node=work/2*) echo "sbatch: error: invalid account" >&2; '
        'exit 1; esac; exec /usr/bin/sbatch "$@"',
    )  # fmt: skip
    try:
        job_hash = workers(gateway, "alice", _RUNS)
        assert gateway.finish("alice", job_hash)["status"] == "completed", gateway.logs()
    finally:
        gateway.restore("sbatch")
    rows = gateway.rows("SELECT state, reason FROM nodes WHERE job_hash = ? AND step = 'work' ORDER BY n", job_hash)
    assert [row["state"] for row in rows] == ["success", "success", "error", "success"]
    assert rows[2]["reason"] == "Slurm refused it: invalid account"
    assert (gateway.job_directory(job_hash) / "work" / "runs").read_text() == f"{uid(ALICE)}\n" * (WIDTH - 1)
    processes = called.read_text().split()
    assert len(processes) == 1 + WIDTH, "not one sbatch for the preparation and each node"
    assert len(set(processes)) == 2, "not one request for the preparation, and one for all nodes"
    assert len(names_in_slurm(gateway, job_hash)) == WIDTH - 1


def test_where_requests_are_limited_an_accounts_nodes_are_an_array(
    gateway: OnSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run as the account, each once; and one cancel ends all of another such array."""
    limited = "rl_enable,rl_bucket_size=1000,rl_refill_rate=1000"
    gateway.replace(
        "scontrol", f'/usr/bin/scontrol "$@" | sed "s/^SlurmctldParameters .*/SlurmctldParameters = {limited}/"'
    )
    gateway.stop()
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{gateway.commands}:{os.environ['PATH']}")
        super(Gateway, gateway).start()
    try:
        job_hash = workers(gateway, "alice", _RUNS)
        assert gateway.finish("alice", job_hash)["status"] == "completed", gateway.logs()
        assert (gateway.job_directory(job_hash) / "work" / "runs").read_text() == f"{uid(ALICE)}\n" * WIDTH
        rows = gateway.rows("SELECT * FROM attempts WHERE job_hash = ? AND step = 'work' ORDER BY element", job_hash)
        array, _, _ = rows[0]["handle"].partition("_")
        assert names_in_slurm(gateway, job_hash) == {
            f"{array}_{number} {rows[0]['name']}-array {ALICE}" for number in range(1, WIDTH + 1)
        }
        another = workers(gateway, "bob", f"{_RUNS}; sleep 300")
        wait_until(lambda: gateway.node_state(another) == "running", f"it never ran:\n{gateway.logs()}", _PATIENCE)
        gateway.cancel("bob", another)
        assert gateway.finish("bob", another)["status"] == "canceled"
        wait_until(
            lambda: not gateway.slurm.output("squeue", "-h", "-u", BOB), "Slurm still has what was cancelled", 60
        )  # fmt: skip
    finally:
        gateway.restore("scontrol")
        gateway.stop()
        super(Gateway, gateway).start()


def test_a_cancel_ends_what_runs_and_what_waits(gateway: OnSlurm) -> None:
    running = gateway.running("alice", "sleep 300")
    gateway.slurm.output("scontrol", "update", "partitionname=compute", "state=down")
    try:
        waiting = gateway.start_job("bob", f"{COUNT}; true")
        name = f"scd-{waiting}-0.1"
        wait_until(lambda: slurm_jobs(gateway.slurm, name), "it was not submitted", _PATIENCE)
        for user, job_hash in (("alice", running), ("bob", waiting)):
            gateway.cancel(user, job_hash)
            assert gateway.finish(user, job_hash)["status"] == "canceled"
        names = {gateway.attempt(running)["name"], f"scd-{waiting}-0.1"}
        wait_until(
            lambda: not [job for job in gateway.slurm.jobs()
                         if job["name"] in names and job["state"] in ("PENDING", "RUNNING")],
            f"they are still in Slurm's queue: {gateway.logs()}", 60,
        )  # fmt: skip
    finally:
        gateway.slurm.output("scontrol", "update", "partitionname=compute", "state=up")
    assert not gateway.rows("SELECT * FROM attempts WHERE job_hash = ? AND ended IS NULL", running)


@pytest.mark.parametrize("victim", [pytest.param("scd", marks=slow), pytest.param("launcher", marks=slow), "both"])
def test_nodes_go_on_without_the_two(gateway: OnSlurm, victim: str) -> None:
    job_hash = gateway.running("bob", "sleep 6; echo survived >out")
    if victim != "launcher":
        gateway.stop(signal.SIGKILL)
    if victim != "scd":
        gateway.kill_launcher()
    time.sleep(0.5)
    if victim != "scd":
        gateway.start_launcher()
    if victim != "launcher":
        super(Gateway, gateway).start()
    assert gateway.finish("bob", job_hash)["status"] == "completed", gateway.logs()
    assert gateway.result("bob", job_hash) == "survived\n"
    assert runs(gateway, job_hash) == 1
    assert len(slurm_jobs(gateway.slurm, gateway.attempt(job_hash)["name"])) == 1


def test_submissions_and_cancels_wait_for_a_launcher_that_is_down(gateway: OnSlurm) -> None:
    running = gateway.running("alice", "sleep 300")
    gateway.kill_launcher()
    try:
        late = gateway.start_job("alice", f"{COUNT}; echo late >out")
        given_up = gateway.start_job("bob", f"{COUNT}; true")
        wait_until(
            lambda: "waiting for scd-launcher" in str(gateway.progress(late, **who("alice"))["message"])
            or "waiting for scd-launcher" in str(gateway.rows("SELECT * FROM jobs WHERE job_hash = ?", late)),
            "nobody says what it waits for", 30,
        )  # fmt: skip
        for user, job_hash in (("alice", running), ("bob", given_up)):
            gateway.cancel(user, job_hash)
        time.sleep(2)
        assert gateway.progress(late, **who("alice"))["status"] == "running"
    finally:
        gateway.start_launcher()
    assert gateway.finish("alice", running)["status"] == "canceled"
    assert gateway.finish("bob", given_up)["status"] == "canceled"
    assert runs(gateway, given_up) == 0
    assert gateway.finish("alice", late)["status"] == "completed", gateway.logs()
    assert runs(gateway, late) == 1


@pytest.mark.parametrize("how", ["submitted and hangs", pytest.param("hangs", marks=slow)])
def test_a_launcher_killed_while_it_submits_leaves_no_second_run(gateway: OnSlurm, how: str) -> None:
    """Its sbatch may have submitted: the job is looked for by its name before anything is submitted again."""
    said = gateway.everybodys / "said"
    submits = "/usr/bin/sbatch" if how != "hangs" else "true"
    gateway.replace("sbatch", f'{submits} "$@"; echo $$ >>{said}; exec sleep 300')
    job_hash = gateway.start_job("bob", f"{COUNT}; echo truly >out")
    wait_until(said.exists, "sbatch was not called", _PATIENCE)
    assert gateway.launcher is not None
    os.killpg(gateway.launcher.pid, signal.SIGKILL)  # its children too
    gateway.launcher.wait()
    os.kill(int(said.read_text()), signal.SIGKILL)
    said.unlink()
    gateway.restore("sbatch")
    gateway.start_launcher()
    assert gateway.finish("bob", job_hash)["status"] == "completed", gateway.logs()
    assert gateway.result("bob", job_hash) == "truly\n"
    assert runs(gateway, job_hash) == 1
    assert len(slurm_jobs(gateway.slurm, f"scd-{job_hash}-0.1")) == 1
    assert "may or may not be in Slurm" in gateway.log.read_text()


def test_a_daemon_killed_while_the_launcher_submits_finds_what_was_submitted(gateway: OnSlurm) -> None:
    said = gateway.everybodys / "began"
    gateway.replace("sbatch", f'touch {said}; sleep 3; exec /usr/bin/sbatch "$@"')
    try:
        job_hash = gateway.start_job("alice", f"{COUNT}; echo truly >out")
        wait_until(said.exists, "sbatch was not called", _PATIENCE)
        gateway.stop(signal.SIGKILL)
    finally:
        gateway.restore("sbatch")
    super(Gateway, gateway).start()
    assert gateway.finish("alice", job_hash)["status"] == "completed", gateway.logs()
    assert gateway.result("alice", job_hash) == "truly\n"
    assert runs(gateway, job_hash) == 1
    assert len(slurm_jobs(gateway.slurm, f"scd-{job_hash}-0.1")) == 1


def test_a_job_is_resumed_and_deleted_under_its_account(gateway: OnSlurm) -> None:
    script = "[ -e $HOME/again ] && echo again >out || { touch $HOME/again; exit 3; }"
    job_hash = gateway.start_job("alice", script)
    assert gateway.finish("alice", job_hash)["status"] == "failed"
    cfg = set_value(manifest("work", f"script={script}"), 1, "option", "scheduler", "cores")
    response = gateway.submit(cfg, None, job_hash=job_hash, **who("alice"))
    assert response.status_code == 200, response.text
    answer = gateway.finish("alice", job_hash)
    assert answer["status"] == "completed", f"{answer}\n{gateway.logs()}"
    assert gateway.result("alice", job_hash) == "again\n"
    directory = gateway.job_directory(job_hash)
    run_as(ALICE, f"chmod 0 {gateway.place(job_hash)}")
    assert gateway.post("/delete_job", {"job_hash": job_hash, **who("alice")}).status_code == 200
    assert not directory.exists()
    wait_until(lambda: not list((gateway.state / "spool" / "staging").iterdir()), "it left something behind")


def test_what_runs_can_be_looked_at(gateway: OnSlurm) -> None:
    job_hash = gateway.running("alice", "echo early >out; sleep 60")
    time.sleep(0.5)
    assert gateway.result("alice", job_hash) == "early\n"
    gateway.cancel("alice", job_hash)
    gateway.finish("alice", job_hash)


def test_scdctl_check_finds_nothing_to_mend(gateway: OnSlurm) -> None:
    job_hash = gateway.start_job("alice", "true")
    gateway.finish("alice", job_hash)
    done = scdctl(gateway, "check")
    assert done.returncode == 0, done.stdout + done.stderr


# -- what scd-launcher refuses


def ask(gateway: OnSlurm, request: str, **fields: object) -> Json:
    answer: Json = json.loads(gateway.ask(json.dumps({"request": request, **fields}).encode()))
    return answer


def submission(**changes: object) -> dict[str, object]:
    placement = {"executor": "slurm", **changes.pop("placement", {})}  # type: ignore[dict-item]
    return {
        "account": ALICE, "members": [["1.7", "work", "0", 1]], "design": "top", "jobname": "job0",
        "runtime": "default", "user": "alice", "placement": placement, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def ended(gateway: OnSlurm) -> str:
    """A job of alice's that has ended."""
    job_hash = gateway.start_job("alice", "true")
    assert gateway.finish("alice", job_hash)["status"] == "completed"
    return job_hash


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"account": "root"}, "no user has the account"),
        ({"account": SCD}, "no user has the account"),
        ({"account": BOB}, f"is not {BOB}'s"),
        ({"members": [["../1", "work", "0"]]}, "malformed"),
        ({"members": [["1.1/../2.2", "work", "0"]]}, "malformed"),
        ({"members": [["01.1", "work", "0"]]}, "malformed"),
        ({"array": "1.7-array --uid=0"}, "malformed"),
        ({"argv": ["--uid=0"]}, "unknown field"),
        ({"script": "#!/bin/sh"}, "unknown field"),
        ({"placement": {"uid": 0}}, "unknown field"),
        ({"placement": {"cores": 5}}, "out of the range"),
        ({"placement": {"cores": 0}}, "out of the range"),
        ({"placement": {"memory": -1}}, "out of the range"),
        ({"placement": {"time": -1.0}}, "out of the range"),
        ({"placement": {"options": ["--uid=0"]}}, "'--uid' of sbatch is not one that"),
        ({"placement": {"options": ["--wrap=id"]}}, "'--wrap' of sbatch is not one that"),
        ({"placement": {"options": ["--constraint=a\nb"]}}, "is not one that"),
        ({"placement": {"options": ["/etc/passwd"]}}, "is not one that"),
        ({"placement": {"partition": "compute --uid=0"}}, "is none that"),
        ({"placement": {"account": "others"}}, "is none of"),
        ({"placement": {"begin": "now; id"}}, "not a time"),
        ({"placement": {"executor": "local"}}, "not for Slurm"),
        ({"generation": -1}, "out of range"),
        ({"job_hash": "0" * 32}, "no such directory"),
        ({"design": "a\0b"}, "NUL"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value))[:30],
)  # fmt: skip
def test_a_submission_that_scd_would_not_make_is_refused(
    gateway: OnSlurm, ended: str, changes: dict[str, object], reason: str
) -> None:
    before = len(gateway.slurm.jobs())
    answer = ask(gateway, "submit", **{"job_hash": ended, **submission(**changes)})
    assert reason in answer.get("error", ""), answer
    assert len(gateway.slurm.jobs()) <= before, "something was submitted"


def test_a_right_submission_is_made_as_the_account(gateway: OnSlurm, ended: str) -> None:
    """So that the refusals above are for their reasons."""
    assert ask(gateway, "make_places", job_hash=ended, account=ALICE, attempts=["1.7"]) == {"value": [True]}
    assert ask(gateway, "make_places", job_hash=ended, account=ALICE, attempts=["1.7"]) == {"value": [False]}
    many = [[f"step{number}", "0", "success"] for number in range(5000)]
    ((code, out, err),) = ask(gateway, "submit", job_hash=ended, **submission(ancestors=many))["value"]
    assert (code, err) == (0, "")
    shown = gateway.slurm.output("scontrol", "-o", "show", "job", out.strip())
    assert f"UserId={ALICE}({uid(ALICE)}) GroupId={ALICE}({gid(ALICE)})" in shown
    assert f"JobName=scd-{ended}-1.7" in shown
    assert ask(gateway, "give_up", job_hash=ended, attempts=["1.7"], state="error", reason="x")["value"] in (
        [True],
        [False],
    )
    assert ask(gateway, "give_up", job_hash=ended, attempts=["1.8", "1.8"], state="error", reason="x") == {
        "value": [True, True]
    }, "again is no harm"
    gateway.slurm.output("scancel", out.strip())


def test_a_reload_changes_what_of_slurm_jobs_may_have(gateway: OnSlurm) -> None:
    """Where scd submits, scd-launcher lets it, also while only one of them has read the new configuration."""
    text = gateway.file.read_text()

    def take(queue: str) -> None:
        more = f'[slurm]\npartition = "{queue}"\nqueues = ["{queue}"]\n'
        gateway.file.write_text(text.replace("[slurm]\n", more))
        assert gateway.reload_launcher() == "scd-launcher: the configuration is reloaded"

    def runs_in(queue: str) -> bool:
        job_hash = gateway.running("alice", "sleep 300")
        (job,) = slurm_jobs(gateway.slurm, gateway.attempt(job_hash)["name"])
        shown = gateway.slurm.output("scontrol", "-o", "show", "job", job["id"])
        gateway.cancel("alice", job_hash)
        assert gateway.finish("alice", job_hash)["status"] == "canceled"
        return f"Partition={queue} " in shown

    def refusal(queue: str) -> str:
        return str(ask(gateway, "submit", job_hash="0" * 32, **submission(placement={"partition": queue}))["error"])

    try:
        take("compute")
        gateway.reload_scd()
        before = gateway.running("bob", "sleep 8; echo survived >out")
        take("bigmem")
        assert runs_in("compute"), "scd still has the former configuration"
        assert gateway.reload_scd().endswith("the configuration is reloaded")
        assert runs_in("bigmem")
        for queue in ("compute", "bigmem"):
            assert "no such directory" in refusal(queue), "scd may have placed a node there that still waits"
        gateway.kill_launcher()
        gateway.start_launcher()
        assert "The queue 'compute' is none that" in refusal("compute")
    finally:
        gateway.file.write_text(text)
        gateway.reload_launcher()
        gateway.reload_scd()
    assert gateway.finish("bob", before)["status"] == "completed", gateway.logs()
    assert gateway.result("bob", before) == "survived\n"


def test_only_scds_own_batch_jobs_are_cancelled(gateway: OnSlurm) -> None:
    """A daemon that was taken over, or an id that Slurm has given to somebody else."""
    made = {}
    for account in (ALICE, BOB):
        done = run_as(
            account,
            "echo '#!/bin/sh\nsleep 60' | sbatch --parsable --output=/dev/null -J mine",
            **gateway.slurm.environment,
        )
        made[account] = done.stdout.strip()
        assert made[account], done.stderr
    assert ask(gateway, "cancel", account=ALICE, ids=list(made.values())) == {}
    for account, job in made.items():
        assert "JobState=CANCELLED" not in gateway.slurm.output("scontrol", "-o", "show", "job", job), account
    gateway.slurm.output("scancel", *made.values())
    assert "malformed" in ask(gateway, "cancel", account=ALICE, ids=["--user=bob"])["error"]
    assert "no user has the account" in ask(gateway, "cancel", account="root", ids=["1"])["error"]


def test_a_wipe_takes_what_batch_jobs_wrote(gateway: OnSlurm) -> None:
    job_hash = gateway.start_job("bob", "echo canary; echo >out")
    gateway.finish("bob", job_hash)
    there = gateway.place(job_hash)
    assert there.is_dir()
    assert ask(gateway, "wipe", job_hash=job_hash) == {}
    assert not there.parent.exists()
    assert list((gateway.job_directory(job_hash) / "work").iterdir()) == []


def test_a_frame_that_leads_elsewhere_is_not_entered(gateway: OnSlurm, somewhere: Path) -> None:
    """A daemon that was taken over owns what is around an account's directories, and puts links in their place."""
    hers = somewhere / "hers"
    for name in ("control/slurm", "archives", "work"):
        (hers / name).mkdir(parents=True)
    subprocess.run(["chown", "-R", ALICE, str(hers)], check=True)
    before = sorted(map(str, hers.rglob("*")))
    gateway.slurm.output("scontrol", "update", "partitionname=compute", "state=down")
    try:
        job_hash = gateway.start_job("alice", f"{COUNT}; true")
        name = f"scd-{job_hash}-0.1"
        wait_until(lambda: slurm_jobs(gateway.slurm, name), "it was not submitted", _PATIENCE)
        directory = gateway.job_directory(job_hash)
        for inner in ("control", "archives", "work"):
            done = run_as(
                SCD, f"mv {directory}/{inner} {directory}/{inner}-aside; ln -s {hers}/{inner} {directory}/{inner}"
            )
            assert done.returncode == 0, done.stderr
        (hers / "control" / "slurm" / "0.1").mkdir()
        os.chown(hers / "control" / "slurm" / "0.1", uid(ALICE), -1)
        before = sorted(map(str, hers.rglob("*")))
    finally:
        gateway.slurm.output("scontrol", "update", "partitionname=compute", "state=up")
    wait_until(
        lambda: slurm_jobs(gateway.slurm, name)[0]["state"] in ("FAILED", "COMPLETED"), "it did not start", _PATIENCE
    )
    assert slurm_jobs(gateway.slurm, name)[0]["state"] == "FAILED"
    assert sorted(map(str, hers.rglob("*"))) == before, "the batch job followed a link of scd's"
    for inner in ("control", "archives", "work"):
        run_as(SCD, f"cd {directory}; rm {inner}; mv {inner}-aside {inner}")
    gateway.cancel("alice", job_hash)
    gateway.finish("alice", job_hash)


# -- the tools


def scdctl(gateway: OnSlurm, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*passage(gateway.directory), sys.executable, "-m", "scd.cli.main", "-c", str(gateway.file), *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=200,
    )  # fmt: skip


def test_check_config_knows_the_shape(gateway: OnSlurm) -> None:
    done = gateway.check_config()
    assert (done.returncode, done.stdout) == (0, "The configuration is good.\n"), done.stderr


def test_the_doctor_tries_it_as_an_account(gateway: OnSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a site that says that it limits requests."""
    limited = "s/^SlurmctldParameters .*/SlurmctldParameters = rl_enable/; s/^SlurmUser .*/SlurmUser = slurm(64030)/"
    gateway.replace("scontrol", f'/usr/bin/scontrol "$@" | sed "{limited}"')
    monkeypatch.setenv("PATH", f"{gateway.commands}:{os.environ['PATH']}")
    try:
        done = scdctl(gateway, "--json", "doctor", "--slurm")
    finally:
        gateway.restore("scontrol")
    found = [one for one in json.loads(done.stdout)["findings"] if one["check"] == "slurm"]
    assert [one["level"] for one in found] == ["good", "good", "good"], found
    limit = "Slurm limits an account's requests to 30 at once and 2 every 1 s (rl_enable)"
    together = "nodes that are ready together go as a job array"
    assert found[1]["text"] == f"{limit}: scd keeps within that for each account, and {together}."
    assert f"A batch job ran as {NOBODYS} on " in found[2]["text"]
    assert not list((gateway.state / "spool" / "staging").iterdir()), "it left something behind"


def test_the_doctor_sees_that_slurm_hides_jobs(gateway: OnSlurm, somewhere: Path) -> None:
    """PrivateData=jobs, and scd is no operator: it would submit everything again and again."""
    conf = gateway.slurm.config
    text = conf.read_text()
    conf.write_text(f"{text}PrivateData=jobs\n")
    try:
        gateway.slurm.output("scontrol", "reconfigure")
        done = scdctl(gateway, "--json", "doctor", "--slurm")
    finally:
        conf.write_text(text)
        gateway.slurm.output("scontrol", "reconfigure")
    found = [one for one in json.loads(done.stdout)["findings"] if one["check"] == "slurm"]
    assert found[-1]["level"] == "bad", found
    assert "make scd an operator" in found[-1]["remedy"]
