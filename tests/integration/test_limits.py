"""Limits, fair shares, reload and drain of a real daemon."""

import concurrent.futures
import gzip
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import argon2
import httpx2
import pytest

from ..harness import Daemon, Json, wait_until
from .submission import collected, manifest

NewDaemon = Callable[..., Daemon]
HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
SLEEP = ("work", "script=sleep 300", "threads=1")
SHORT = ("work", "script=true", "threads=1")


def users(*names: str, **extra: str) -> str:
    """Users whose passwords are their names."""
    return "\n".join(f'[users.{name}]\npassword_hash = "{HASHER.hash(name)}"\n{extra.get(name, "")}' for name in names)


def submit(daemon: Daemon, what: tuple[str, ...], user: str = "") -> httpx2.Response:
    credentials = {"username": user, "key": user} if user else {}
    return daemon.submit(manifest(*what), collected(*what), **credentials)


def submitted(daemon: Daemon, what: tuple[str, ...], user: str = "") -> str:
    answer = submit(daemon, what, user)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job_hash"])


def ctl(daemon: Daemon, *arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "scd.cli.main", "-c", str(daemon.file), *arguments],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def configure(daemon: Daemon, text: str) -> None:
    """What is added to the daemon's configuration, in place of what was added before."""
    (daemon.directory / "conf.d").mkdir(exist_ok=True)
    (daemon.directory / "conf.d" / "more.toml").write_text(text)


def state(daemon: Daemon, job_hash: str) -> Json:
    (row,) = daemon.rows("SELECT state, reason FROM jobs WHERE job_hash = ?", job_hash)
    return row


def running(daemon: Daemon, user: str, step: str = "work") -> int:
    (row,) = daemon.rows(
        """SELECT count(*) AS n FROM nodes JOIN jobs USING (job_hash)
           WHERE user = ? AND step = ? AND nodes.state = 'running'""",
        user, step,
    )  # fmt: skip
    return int(row["n"])


def test_of_many_at_once_never_one_too_many_is_taken(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[limits]\nmax_jobs = 3\n")
    manifest(*SLEEP), collected(*SLEEP)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: submit(daemon, SLEEP), range(12)))
    codes = [answer.status_code for answer in answers]
    assert sorted(codes) == [200] * 3 + [400] * 9
    refused = next(answer for answer in answers if answer.status_code == 400)
    assert refused.json()["message"] == (
        "The account has 3 unfinished jobs, and 3 are allowed. Wait for one to end, or cancel one."
    )
    assert daemon.rows("SELECT count(*) AS n FROM jobs") == [{"n": 3}]
    there = list((daemon.state / "spool" / "jobs").glob("*/*"))
    assert len(there) == 3, "files of refused submissions are left"


def test_a_group_is_one_budget(new_daemon: NewDaemon) -> None:
    group = 'groups = ["vlsi"]\n'
    daemon = new_daemon(
        users("alice", "bob", "carol", alice=group, bob=group) + "\n[groups.vlsi.limits]\nmax_jobs = 1\n"
        'compute_time = "1h"\n'
    )
    submitted(daemon, SLEEP, "alice")
    refused = submit(daemon, SHORT, "bob")
    assert refused.status_code == 400
    assert refused.json()["message"].startswith("The group vlsi has 1 unfinished jobs, and 1 are allowed.")
    submitted(daemon, SHORT, "carol")
    info = daemon.post("/check_server/", {"username": "bob", "key": "bob"}).json()["user_info"]
    assert 3000 < info["compute_time"] <= 3600, "the smallest that is left is the group's"


def test_who_joins_a_group_brings_along_what_he_has_used(new_daemon: NewDaemon) -> None:
    group = '\n[groups.vlsi.limits]\ncompute_time = "1h"\n'
    daemon = new_daemon()
    configure(daemon, users("alice", "bob", bob='groups = ["vlsi"]\n') + group)
    daemon.stop()
    daemon.start()
    alice = {"username": "alice", "key": "alice"}
    job_hash = submitted(daemon, ("work", "script=sleep 3", "threads=1"), "alice")
    assert daemon.wait(job_hash, 60, alice)["status"] == "completed"
    (spent,) = daemon.rows("SELECT sum(core_seconds) AS s FROM ledger")
    assert spent["s"] > 3

    def left() -> int:
        return int(daemon.post("/check_server/", {"username": "bob", "key": "bob"}).json()["user_info"]["compute_time"])

    assert left() == 3600
    for member, expected in (('groups = ["vlsi"]\n', int(3600 - spent["s"])), ("", 3600)):
        configure(daemon, users("alice", "bob", alice=member, bob='groups = ["vlsi"]\n') + group)
        ctl(daemon, "reload")
        assert left() == expected, "what the group has left is not what its members have"


def test_a_job_that_uses_its_compute_time_up_ends_as_timeout(new_daemon: NewDaemon) -> None:
    daemon = new_daemon('[limits]\ncompute_time = "3s"\n')
    job_hash = submitted(daemon, SLEEP)
    daemon.wait_for_node(job_hash, "work0", "running")
    queued = [submitted(daemon, SLEEP) for _ in range(3)]
    wait_until(lambda: state(daemon, job_hash)["state"] == "timeout", "the job went on without compute time", 60)
    reason = state(daemon, job_hash)["reason"]
    assert reason.startswith("out of compute time: 00:00:0"), reason
    (node,) = daemon.rows("SELECT state, reason FROM nodes WHERE job_hash = ? AND step = 'work'", job_hash)
    assert node == {"state": "timeout", "reason": reason}
    refused = submit(daemon, SHORT)
    assert refused.status_code == 400
    assert "of 00:00:03 core time used. The period ends 20" in refused.json()["message"]
    (spent,) = daemon.rows("SELECT sum(core_seconds) AS s FROM ledger")
    assert 3 <= spent["s"] < 20
    begun = [one for one in queued if state(daemon, one)["state"] == "queued"]
    for one in begun:
        assert "out of compute time" in str(daemon.progress(one)["message"]), "it is not said why it stands"
    configure(daemon, '[limits]\ncompute_time = "10h"\n')
    ctl(daemon, "reload")
    wait_until(
        lambda: all(state(daemon, one)["state"] == "running" for one in begun), "they do not go on with more time", 60
    )


def test_preparing_is_charged_and_ends_with_the_compute_time(new_daemon: NewDaemon) -> None:
    """Who computes, or hangs, while his job is prepared does it at his own cost, and not for ever."""
    daemon = new_daemon('[limits]\ncompute_time = "2s"\n')
    answer = daemon.submit(manifest("chain"), many_files(300_000))
    assert answer.status_code == 200, answer.text
    job_hash = answer.json()["job_hash"]
    wait_until(lambda: state(daemon, job_hash)["state"] == "preparing", "it is not prepared")
    wait_until(
        lambda: json.loads(ctl(daemon, "--json", "usage"))["usage"][0]["core_seconds"] > 0,
        "it does not count as it runs",
    )
    assert daemon.wait(job_hash, 120)["status"] == "timeout", daemon.log.read_text()
    assert state(daemon, job_hash)["reason"].startswith("out of compute time: 00:00:0")
    assert daemon.rows("SELECT * FROM nodes") == [], "it was prepared all the same"
    (attempt,) = daemon.rows("SELECT state, elapsed, cores FROM attempts")
    assert (attempt["state"], attempt["cores"]) == ("timeout", 1)
    (spent,) = daemon.rows("SELECT sum(core_seconds) AS s FROM ledger")
    assert spent["s"] == pytest.approx(attempt["elapsed"])
    assert 2 <= spent["s"] < 20
    refused = submit(daemon, SHORT)
    assert refused.status_code == 400
    assert "is out of compute time: 00:00:0" in refused.json()["message"]


def many_files(number: int) -> bytes:
    """An import that takes its time to be unpacked: empty files."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as plain:
        for start in range(0, number, 10_000):
            block = bytearray()
            for each in range(start, min(start + 10_000, number)):
                block += tarfile.TarInfo(f"d{each // 1000}/{each}").tobuf(tarfile.USTAR_FORMAT)
            plain.write(block)
        plain.write(bytes(1024))
    return packed.getvalue()


def test_an_upload_that_does_not_fit_is_refused(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[limits]\nstorage = 100\n")
    refused = submit(daemon, SHORT)
    assert refused.status_code == 400
    assert "has no room for this upload of " in refused.json()["message"]
    assert "unfinished jobs hold 0B of 100B" in refused.json()["message"]


def test_running_nodes_have_a_limit_and_their_user_is_told(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(
        "[local]\ncores = 4\n[limits]\nmax_running_nodes = 1\n" + users("alice", "bob"),
    )
    first, other = submitted(daemon, SLEEP, "alice"), submitted(daemon, SLEEP, "bob")
    wait_until(lambda: running(daemon, "alice") == 1 == running(daemon, "bob"), "both users run one node", 60)
    second = submitted(daemon, SLEEP, "alice")
    credentials = {"username": "alice", "key": "alice"}
    told = wait_for_text(daemon, second, "over your running-node limit of 1", credentials)
    assert told, "the second job does not say why it stands"
    shown = ctl(daemon, "nodes", "-j", second, "-P", "-o", "step,status,reason").splitlines()
    assert "get|pending|over your running-node limit of 1" in shown, shown
    assert "work|pending|waiting for get/0" in shown, shown
    assert running(daemon, "alice") == 1
    daemon.post("/cancel_job/", {"job_hash": first, **credentials})
    wait_until(
        lambda: running(daemon, "alice") == 1 and state(daemon, first)["state"] == "canceled", "no room came", 60
    )
    assert state(daemon, other)["state"] == "running"


def wait_for_text(daemon: Daemon, job_hash: str, text: str, credentials: dict[str, str], timeout: float = 60) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if daemon.progress(job_hash, **credentials)["message"] == text:
            return True
    return False


def test_another_users_first_node_is_next(new_daemon: NewDaemon) -> None:
    """Alice's jobs are many and fill the machine; Bob's one job runs before most of hers."""
    daemon = new_daemon("[local]\ncores = 1\n" + users("alice", "bob"))
    hers = [submitted(daemon, SHORT, "alice") for _ in range(12)]
    his = submitted(daemon, SHORT, "bob")
    daemon.wait(his, 120, {"username": "bob", "key": "bob"})
    done = [one for one in hers if state(daemon, one)["state"] == "completed"]
    assert len(done) <= 6, "Bob waited for nearly all that Alice had queued before him"
    order = daemon.rows("SELECT user FROM attempts JOIN jobs USING (job_hash) ORDER BY queued, name")
    last = max(place for place, row in enumerate(order) if row["user"] == "bob")
    between = [row["user"] for row in order[:last]]
    came = between.index("bob")
    # They share by core-seconds: on a busy machine nodes differ in length, and so in number.
    assert between[came:].count("alice") <= 2 * between[came:].count("bob") + 2, "the two do not alternate"
    for one in hers:
        daemon.post("/cancel_job/", {"job_hash": one, "username": "alice", "key": "alice"})


def test_reload_is_all_or_nothing_and_jobs_go_on(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(users("alice"))
    job_hash = submitted(daemon, SLEEP, "alice")
    wait_until(lambda: running(daemon, "alice") == 1, "the node does not run", 60)
    configure(daemon, users("bob", bob="groups = ['nowhere']") + "\n[limits]\nmax_jobs = 7\n")
    assert "users.bob.groups: there is no [groups.nowhere.limits]" in ctl(daemon, "reload", status=78)
    assert submit(daemon, SHORT, "bob").status_code == 403, "a half of a bad file was taken"
    assert daemon.process is not None
    daemon.process.send_signal(1)
    wait_until(lambda: "is not reloaded, the old one stays in force" in daemon.log.read_text(), "SIGHUP says nothing")
    configure(daemon, users("bob") + '\n[server]\nterms = "be kind"\nmax_connections = 11\n[local]\nprocesses = 77\n')
    said = ctl(daemon, "reload")
    assert said == (
        "The configuration is reloaded. These wait for a restart: server.max_connections, local.processes.\n"
    )
    submitted(daemon, SHORT, "bob")
    assert daemon.post("/check_server/").json()["terms"] == "be kind"
    configure(daemon, "")
    daemon.process.send_signal(1)
    wait_until(lambda: submit(daemon, SHORT, "bob").status_code == 403, "SIGHUP takes nothing")
    assert state(daemon, job_hash)["state"] == "running"
    assert running(daemon, "alice") == 1


def test_a_reload_changes_what_waits_and_forgives_no_guess(new_daemon: NewDaemon) -> None:
    """A raised limit starts what waited for it; a new password counts at once; who guessed too often still waits."""
    daemon = new_daemon(users("bob") + "\n[local]\ncores = 4\n")
    alice = {"username": "alice", "key": "alice"}
    configure(daemon, users("alice") + "\n[users.alice.limits]\nmax_running_nodes = 1\n")
    ctl(daemon, "reload")
    jobs = [submitted(daemon, SLEEP, "alice") for _ in range(2)]
    wait_until(lambda: running(daemon, "alice") == 1, "the node does not run", 60)
    assert wait_for_text(daemon, jobs[1], "over your running-node limit of 1", alice), "the second does not wait"

    def guess(number: int) -> int:
        return daemon.post("/check_server/", {"username": "bob", "key": f"guess {number}"}).status_code

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        codes = list(pool.map(guess, range(40)))
        assert 429 in codes, "nobody is throttled"
        configure(daemon, users("alice").replace("[users.alice]", "[users.alice]\nlimits = { max_running_nodes = 2 }"))
        ctl(daemon, "reload")
        assert list(pool.map(guess, range(40, 60))).count(403) <= 6, "a reload lets a guesser begin anew"
    wait_until(lambda: running(daemon, "alice") == 2, "the raised limit starts nothing", 60)

    other = f'[users.alice]\npassword_hash = "{HASHER.hash("another")}"\n'
    configure(daemon, other)
    ctl(daemon, "reload")
    assert daemon.post("/check_server/", alice).status_code == 403, "the old password is remembered"
    assert daemon.post("/check_server/", {"username": "alice", "key": "another"}).status_code == 200
    assert running(daemon, "alice") == 2, "jobs go on"


def test_a_drain_outlives_a_restart_and_ends_by_resume(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = submitted(daemon, SLEEP)
    daemon.wait_for_node(job_hash, "work0", "running")
    assert ctl(daemon, "drain", "--reason", "new disks") == "scd takes no new jobs: new disks\n"
    daemon.stop()
    daemon.start()
    assert daemon.post("/check_server/").json()["status"] == "draining: new disks"
    refused = submit(daemon, SHORT)
    assert (refused.status_code, refused.json()["message"]) == (
        400, "This server takes no new jobs at the moment: new disks"
    )  # fmt: skip
    waiting = subprocess.Popen(
        [sys.executable, "-m", "scd.cli.main", "-c", str(daemon.file), "drain", "--reason", "newer disks", "--wait"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "scd takes no new jobs: newer disks\n"
    assert waiting.poll() is None, "a job runs, and it did not wait"
    assert state(daemon, job_hash)["state"] == "running", "a drain stops no job"
    assert "is still running; cancel it first" in ctl(daemon, "delete", job_hash[:8], status=1)
    ctl(daemon, "cancel", job_hash)
    waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert ctl(daemon, "resume") == "scd takes new jobs again.\n"
    daemon.wait(submitted(daemon, SHORT), 120)
    assert ctl(daemon, "delete", job_hash[:8]) == f"Job {job_hash} is deleted.\n"
    assert daemon.progress(job_hash)["status"] == "canceled"


def test_a_drain_of_the_configuration_is_not_ended_by_resume(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(server='drain = "until monday"')
    assert "[server] drain in the configuration still stops new jobs: until monday" in ctl(daemon, "resume", status=1)


def test_usage_and_users_are_shown_also_while_scd_is_down(new_daemon: NewDaemon, tmp_path: Path) -> None:
    daemon = new_daemon(
        users("alice", "bob", alice='groups = ["vlsi"]\n') + '\n[groups.vlsi.limits]\ncompute_time = "9h"\n'
    )
    job_hash = submitted(daemon, SHORT, "alice")
    credentials = {"username": "alice", "key": "alice"}
    assert daemon.wait(job_hash, 60, credentials)["status"] == "completed"
    size = len(daemon.post(f"/get_results/{job_hash}.tar.gz", credentials).content)
    wait_until(lambda: daemon.rows("SELECT 1 FROM ledger WHERE result_bytes > 0"), "the download is not charged")
    daemon.stop()
    (alice, bob) = json.loads(ctl(daemon, "--json", "usage"))["usage"]
    (owed,) = daemon.rows("SELECT sum(elapsed * cores) AS s FROM attempts")
    assert alice["user"] == "alice"
    assert alice["core_seconds"] == pytest.approx(owed["s"])
    assert alice["result_bytes"] == size
    assert (bob["user"], bob["core_seconds"]) == ("bob", 0)
    past = json.loads(ctl(daemon, "--json", "usage", "-u", "alice", "-S", "2001-01-01", "-E", "2002-01-01T12:00"))
    assert past["usage"][0]["core_seconds"] == 0
    assert "not a time: 'someday'" in ctl(daemon, "usage", "-S", "someday", status=2)
    lines = ctl(daemon, "users", "-P", "-o", "group,user,jobs,nodes,time").splitlines()
    assert lines[0] == "GROUP|USER|JOBS|NODES|TIME"
    assert lines[1].startswith("vlsi|alice|0/20|0/16|00:00:0")
    assert lines[1].endswith("/4-04:00:00")
    assert lines[3].startswith("vlsi|*|0/unlimited|0/unlimited|00:00:0")
    assert lines[3].endswith("/09:00:00")
