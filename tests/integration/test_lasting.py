"""What lasts and what goes: retries of what was lost, stops, retention, backups, and disk and database compared."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import Daemon, Json, wait_until
from .submission import import_archive, manifest
from .test_cli import good, scdctl
from .test_processes import attempts, gone, is_alive, running, start

NewDaemon = Callable[..., Daemon]


def finished(daemon: Daemon, flow: str = "chain", *options: str) -> str:
    job_hash = start(daemon, flow, *options)
    daemon.wait(job_hash)
    return job_hash


# -- what was lost with its machine


@pytest.mark.parametrize("victim", ["runner", "shim"])
def test_a_lost_node_starts_again_as_often_as_configured(new_daemon: NewDaemon, victim: str) -> None:
    daemon = new_daemon("[dispatch]\nretries = 1\n")
    job_hash = start(daemon, "work", "script=echo $$ >>$HOME/ran; [ $(wc -l <$HOME/ran) -ge 2 ] || sleep 304")
    ran = daemon.job_directory(job_hash) / "work" / "ran"
    wait_until(ran.exists, "the node did not start")
    family = tree_of(daemon, job_hash)
    os.kill(daemon.pid_of(job_hash, victim), signal.SIGKILL)
    assert daemon.wait(job_hash)["status"] == "completed"
    assert gone(family), "the first attempt ran on beside the second"
    tries = daemon.rows("SELECT attempt, state, lost, reason FROM attempts WHERE step = 'work' ORDER BY attempt")
    assert tries == [
        {"attempt": 1, "state": "error", "lost": 1, "reason": f"the job's {victim} was killed"},
        {"attempt": 2, "state": "success", "lost": 0, "reason": ""},
    ]
    changes = [(row["old"], row["new"]) for row in daemon.rows("SELECT old, new FROM events WHERE step = 'work'")]
    assert changes[2:5] == [("queued", "running"), ("running", "error"), ("error", "pending")]
    assert len(ran.read_text().splitlines()) == 2


def tree_of(daemon: Daemon, job_hash: str) -> set[int]:
    from scd.procfs import tree

    return tree(daemon.pid_of(job_hash, "started"))


def test_a_node_that_is_lost_too_often_fails(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[dispatch]\nretries = 1\n")
    job_hash = running(daemon, "sleep 304")
    for attempt in (1, 2):
        wait_until(
            lambda: attempts(daemon, job_hash)["work"]["attempt"] == attempt  # noqa: B023 - called in this round
            and attempts(daemon, job_hash)["work"]["started"] is not None,
            f"attempt {attempt} did not start",
        )  # fmt: skip
        os.kill(daemon.pid_of(job_hash, "runner"), signal.SIGKILL)
    answer = daemon.wait(job_hash)
    assert (answer["status"], answer["message"]) == ("failed", "work/0 the job's runner was killed")


def test_a_node_that_fails_by_itself_is_not_started_again(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[dispatch]\nretries = 3\n")
    job_hash = running(daemon, "sleep 304")
    daemon.kill_node(job_hash, "work")
    assert daemon.wait(job_hash)["status"] == "failed"
    assert attempts(daemon, job_hash)["work"]["attempt"] == 1


def test_a_cancelled_node_is_not_started_again(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[dispatch]\nretries = 3\n")
    job_hash = running(daemon, "trap '' TERM; sleep 304 & sleep 305; sleep 306")
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    os.kill(daemon.pid_of(job_hash, "runner"), signal.SIGKILL)
    assert daemon.wait(job_hash)["status"] == "canceled"
    assert attempts(daemon, job_hash)["work"]["attempt"] == 1


@pytest.mark.parametrize(("retries", "status"), [(0, "failed"), (1, "completed")])
def test_a_preparation_that_is_lost(new_daemon: NewDaemon, retries: int, status: str) -> None:
    daemon = new_daemon(f"[dispatch]\nretries = {retries}\n")
    job_hash = start(daemon, "chain")
    wait_until(lambda: any(record["type"] == "started" for record in journal(daemon, job_hash)), "it does not prepare")
    os.kill(daemon.pid_of(job_hash, "runner"), signal.SIGKILL)
    answer = daemon.wait(job_hash)
    assert answer["status"] == status, answer
    if not retries:
        assert answer["message"] == "the job's runner was killed"
    events = daemon.rows("SELECT old, new FROM events WHERE job_hash = ? AND step = '' ORDER BY id", job_hash)
    assert ({"old": "preparing", "new": "queued"} in events) == bool(retries)


def journal(daemon: Daemon, job_hash: str) -> list[Json]:
    try:
        return daemon.journal(job_hash)
    except FileNotFoundError:
        return []


def test_a_reboot_is_the_reason(new_daemon: NewDaemon) -> None:
    """The journal of another boot: its processes are gone, whoever has their pids now."""
    daemon = new_daemon("[dispatch]\nretries = 1\n")
    job_hash = running(daemon, "sleep 304")
    daemon.stop(signal.SIGKILL)
    for kind in ("shim", "runner"):
        os.kill(daemon.pid_of(job_hash, kind), signal.SIGKILL)
    file = daemon.job_directory(job_hash) / "control" / "events.jsonl"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    file.write_text(file.read_text().replace(boot, "00000000-0000-4000-8000-000000000000"))
    daemon.start()
    wait_until(lambda: attempts(daemon, job_hash)["work"]["attempt"] == 2, "it was not started again")
    (first,) = daemon.rows("SELECT reason, lost FROM attempts WHERE step = 'work' AND attempt = 1")
    assert first == {"reason": "the host was rebooted", "lost": 1}


def test_a_shim_that_does_not_answer_is_waited_for(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 2")
    shim = daemon.pid_of(job_hash, "shim")
    daemon.stop(signal.SIGKILL)
    os.kill(shim, signal.SIGSTOP)
    (daemon.job_directory(job_hash) / "control" / "shim.sock").rename(daemon.directory / "aside")
    daemon.start()
    wait_until(lambda: "lives but does not answer" in daemon.log.read_text(), "nobody says that it is waited for")
    assert daemon.progress(job_hash)["status"] == "running", "unreachable is not dead"
    (daemon.directory / "aside").rename(daemon.job_directory(job_hash) / "control" / "shim.sock")
    os.kill(shim, signal.SIGCONT)
    assert daemon.wait(job_hash)["status"] == "completed"
    assert sum(record["type"] == "shim" for record in daemon.journal(job_hash)) == 1
    assert {row["attempt"] for row in attempts(daemon, job_hash).values()} == {1}


def test_a_job_whose_directory_is_gone_fails(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 304")
    daemon.end_everything()
    subprocess.run(["rm", "-r", str(daemon.job_directory(job_hash))], check=True)
    daemon.start()
    answer = daemon.wait(job_hash)
    assert (answer["status"], answer["message"]) == ("failed", "work/0 the job's directory is gone")


# -- stopping


def test_a_stop_cancels_where_the_configuration_says_so(new_daemon: NewDaemon) -> None:
    daemon = new_daemon('[local]\ncores = 1\non_stop = "cancel"\n')
    job_hash = running(daemon, "sleep 304")
    queued = start(daemon, "chain")
    family = tree_of(daemon, job_hash)
    begin = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begin < 15
    assert gone(family)
    states = {row["job_hash"]: row["state"] for row in daemon.rows("SELECT job_hash, state FROM jobs")}
    assert states == {job_hash: "canceled", queued: "queued"}
    daemon.start()
    answer = daemon.progress(job_hash)
    assert (answer["status"], answer["message"]) == ("canceled", "scd was stopped")
    assert daemon.wait(queued)["status"] == "completed", "what had not begun waits for the next start"


class Upload:
    """A submission whose last bytes do not come."""

    def __init__(self, daemon: Daemon):
        body = json.dumps({"cfg": manifest("chain"), "params": {}}).encode()
        head = (
            b'--x\r\nContent-Disposition: form-data; name="params"; filename="params"\r\n\r\n' + body
            + b'\r\n--x\r\nContent-Disposition: form-data; name="import"; filename="import"\r\n\r\n'
        )  # fmt: skip
        archive = import_archive()
        self.rest = archive + b"\r\n--x--\r\n"
        self.connection = socket.create_connection(("127.0.0.1", daemon.port))
        length = len(head) + len(self.rest)
        self.connection.sendall(
            b"POST /remote_run/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n" % length + head + archive[:1]
        )
        time.sleep(0.5)

    def finish(self) -> str:
        with self.connection:
            self.connection.sendall(self.rest[1:])
            answer = self.connection.makefile("rb").read().decode()
        assert answer.startswith("HTTP/1.1 200"), answer
        return str(json.loads(answer.rpartition("\r\n\r\n")[2])["job_hash"])


def test_sigterm_waits_for_an_upload_and_keeps_its_job(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    upload = Upload(daemon)
    os.kill(daemon.pid, signal.SIGTERM)
    time.sleep(1)
    job_hash = upload.finish()
    assert daemon.process is not None
    assert daemon.process.wait(20) == 0
    daemon.start()
    assert daemon.wait(job_hash)["status"] == "completed"


@pytest.mark.parametrize(("signals", "longest"), [(1, 14), (2, 4)])
def test_a_stop_is_bounded_and_a_second_signal_forces_it(new_daemon: NewDaemon, signals: int, longest: float) -> None:
    daemon = new_daemon()
    upload = Upload(daemon)
    begin = time.monotonic()
    for _ in range(signals):
        os.kill(daemon.pid, signal.SIGTERM)
        time.sleep(0.5)
    assert daemon.process is not None
    assert daemon.process.wait(30) == 0
    assert time.monotonic() - begin < longest
    upload.connection.close()
    daemon.start()
    wait_until(lambda: not list((daemon.state / "spool" / "staging").iterdir()), "its upload is still in staging")
    assert daemon.rows("SELECT job_hash FROM jobs") == []


def test_another_state_directory_does_not_share_a_spool(new_daemon: NewDaemon) -> None:
    """The other's uploads would be swept away at start."""
    first = new_daemon()
    text = first.file.read_text()
    other = first.directory / "other.toml"
    other.write_text(
        text.replace(f'state = "{first.state}"', f'state = "{first.directory}/two"\nspool = "{first.state}/spool"')
        .replace(str(first.port), "0").replace(f"unix:{first.state}", f"unix:{first.directory}/two")
    )  # fmt: skip
    second = subprocess.run(
        [sys.executable, "-m", "scd.daemon", "-c", str(other)], capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 1
    assert f"{first.state}/spool is in use by another scd (pid {first.pid})." in second.stderr


# -- space


def test_an_upload_is_refused_while_the_disk_is_nearly_full(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(paths='min_free = "1000TiB"')
    answer = daemon.submit(manifest("chain"), import_archive())
    assert answer.status_code == 507
    assert "1000TiB of it stay free" in answer.json()["message"]
    assert answer.json()["success"] is False
    assert list((daemon.state / "spool" / "staging").iterdir()) == []


def test_finished_jobs_go_when_their_retention_is_over(new_daemon: NewDaemon) -> None:
    daemon = new_daemon('[limits]\nretention = "3s"\n')
    bad = finished(daemon, "lint", "rtl=bad")
    good_one = finished(daemon)
    keeps = running(daemon, "sleep 304", "jobname=keeps")
    wait_until(lambda: not daemon.rows("SELECT * FROM jobs WHERE job_hash <> ?", keeps), "they are still there")
    assert daemon.job_directory(keeps).exists(), "an unfinished job is never deleted"
    for job_hash, status in ((bad, "failed"), (good_one, "completed")):
        wait_until(lambda: not daemon.job_directory(job_hash).exists(), "its files are still there")  # noqa: B023
        assert daemon.progress(job_hash)["status"] == status, "its final status stays known"
        assert daemon.post(f"/get_results/{job_hash}.tar.gz").status_code == 404
    for table in ("nodes", "attempts", "events"):
        assert {row["job_hash"] for row in daemon.rows(f"SELECT job_hash FROM {table}")} == {keeps}, table
    assert daemon.rows("SELECT job_hash FROM ledger WHERE job_hash = ?", good_one), "a deletion refunds nothing"
    assert f"job={good_one} user=- deleted: its retention is over" in daemon.log.read_text()


def test_over_his_storage_a_users_oldest_jobs_go(new_daemon: NewDaemon) -> None:
    daemon = new_daemon('[limits]\nstorage = "400KiB"\n')
    jobs = [finished(daemon, "chain", f"jobname=j{number}") for number in range(3)]
    keeps = running(daemon, "sleep 304", "jobname=keeps")
    daemon.stop()
    age(daemon, {job_hash: 1000.0 - number for number, job_hash in enumerate(jobs)})
    daemon.start()
    used = "SELECT coalesce(sum(disk_bytes), 0) AS n FROM jobs WHERE ended IS NOT NULL"
    wait_until(lambda: len(remaining(daemon)) < 4, "nothing was deleted")
    wait_until(lambda: daemon.rows(used)[0]["n"] <= 400 * 1024, "too much is left")  # they go one by one
    left = remaining(daemon)
    assert keeps in left
    assert [job_hash for job_hash in jobs if job_hash in left] == jobs[-(len(left) - 1) :] or len(left) == 1
    for job_hash in jobs:
        assert daemon.progress(job_hash)["status"] == "completed"


def test_a_job_that_has_just_ended_is_not_deleted_for_storage(new_daemon: NewDaemon) -> None:
    """Its client is about to fetch the results."""
    daemon = new_daemon('[limits]\nstorage = "1KiB"\n')
    job_hash = finished(daemon)
    wait_until(lambda: daemon.rows("SELECT disk_bytes FROM jobs")[0]["disk_bytes"] is not None, "it was not measured")
    time.sleep(1)
    assert remaining(daemon) == [job_hash]


def age(daemon: Daemon, seconds: dict[str, float]) -> None:
    """Let jobs have ended so long ago."""
    connection = sqlite3.connect(daemon.state / "scd.db")
    for job_hash, ago in seconds.items():
        connection.execute("UPDATE jobs SET ended = ended - ? WHERE job_hash = ?", (ago, job_hash))
    connection.commit()
    connection.close()


def remaining(daemon: Daemon) -> list[str]:
    return [row["job_hash"] for row in daemon.rows("SELECT job_hash FROM jobs ORDER BY created")]


# -- disk and database compared


@pytest.mark.parametrize("up", [True, False], ids=["running", "stopped"])
def test_check_finds_and_mends_what_does_not_fit(new_daemon: NewDaemon, *, up: bool) -> None:
    daemon = new_daemon()
    assert good(daemon, "check") == "Disk and database fit together.\n"
    lost, torn, sound = (finished(daemon, "chain", f"jobname={name}") for name in ("lost", "torn", "sound"))
    live = running(daemon, "sleep 305")
    orphan = daemon.job_directory("ab" * 16)
    (orphan / "work").mkdir(parents=True)
    (orphan / "work" / "file").write_text("somebody's")
    subprocess.run(["rm", "-r", str(daemon.job_directory(lost))], check=True)
    (archive,) = daemon.rows("SELECT archive FROM attempts WHERE job_hash = ? AND step = 's3'", torn)
    (daemon.job_directory(torn) / "archives" / archive["archive"]).unlink()
    (daemon.job_directory(torn) / "archives" / "snapshot-1.tar.gz").touch()
    if not up:
        daemon.stop()
    seen = scdctl(daemon, "check")
    assert seen.returncode == 1
    assert seen.stderr == "scdctl: 4 findings. scdctl check --fix mends what it can.\n"
    assert "belongs to no job in the database" in seen.stdout
    assert f"{lost[:8]}: its files are gone (to mend it: delete the job" in seen.stdout
    assert f"{torn[:8]}: its archive {archive['archive']} is gone" in seen.stdout
    assert f"{torn[:8]}: snapshot-1.tar.gz was never finished" in seen.stdout
    assert scdctl(daemon, "check").stdout == seen.stdout, "looking changes nothing"
    found = json.loads(good(daemon, "--json", "check", "--fix"))["findings"]
    assert len(found) == 4
    assert all(finding["mended"] for finding in found)
    assert good(daemon, "check") == "Disk and database fit together.\n"
    (kept,) = (daemon.state / "spool" / "lost+found").iterdir()
    assert (kept / "work" / "file").read_text() == "somebody's", "nothing is thrown away that nobody knows"
    if not up:
        daemon.start()
    assert daemon.progress(lost)["status"] == "completed"
    assert daemon.post(f"/get_results/{torn}.tar.gz", {"node": "s30"}).status_code == 404
    assert daemon.post(f"/get_results/{sound}.tar.gz", {"node": "s30"}).status_code == 200
    assert is_alive(daemon.pid_of(live, "started"))


def test_a_backup_is_taken_in_use_and_restored_end_to_end(new_daemon: NewDaemon, tmp_path: Path) -> None:
    daemon = new_daemon()
    before = finished(daemon)
    live = running(daemon, "sleep 4")
    assert "The database is backed up to" in good(daemon, "backup", str(tmp_path / "b.db"))
    after = finished(daemon, "chain", "jobname=after")
    refused = scdctl(daemon, "restore", str(tmp_path / "b.db"))
    assert refused.returncode == 1
    assert f"is in use by another scd (pid {daemon.pid}). Stop it first" in refused.stderr
    daemon.stop()
    (daemon.state / "scd.db").write_bytes(b"rotten" * 5000)
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    assert f"Its newest known backup: scdctl restore {tmp_path}/b.db" in daemon.log.read_text()
    assert "is the database now" in good(daemon, "restore", str(tmp_path / "b.db"))
    daemon.start()
    assert daemon.progress(before)["status"] == "completed"
    assert daemon.wait(live)["status"] == "completed", "what ran at the backup is found again"
    assert {row["attempt"] for row in attempts(daemon, live).values()} == {1}, "and is not run twice"
    assert daemon.progress(after)["code"] == 404, "the backup does not know it"
    assert daemon.job_directory(after).exists(), "and yet its files are kept"
    assert "are not in the database: see scdctl check" in daemon.log.read_text()
    assert after[:8] in scdctl(daemon, "check").stdout


def test_a_job_that_ended_keeps_no_shim_after_a_crash(new_daemon: NewDaemon) -> None:
    """The daemon died between the end of the job and the order to go: nobody would ask that shim for anything again."""
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 3")
    shim = daemon.pid_of(job_hash, "shim")
    daemon.stop(signal.SIGKILL)
    wait_until(lambda: journal(daemon, job_hash)[-1]["type"] == "ended", "the node did not end")
    connection = sqlite3.connect(daemon.state / "scd.db")
    connection.execute("UPDATE nodes SET state = 'success'")
    connection.execute("UPDATE attempts SET state = 'success', ended = queued WHERE ended IS NULL")
    connection.execute("UPDATE jobs SET state = 'completed', ended = created")
    connection.commit()
    connection.close()
    assert is_alive(shim)
    daemon.start()
    wait_until(lambda: not is_alive(shim), "the shim of a job that ended is still there")


# -- resumes


def resume(daemon: Daemon, job_hash: str, *options: str) -> Json:
    answer = daemon.submit(manifest(*options), None, job_hash=job_hash)
    assert answer.json().get("job_hash") == job_hash, answer.text
    return daemon.wait(job_hash)


def test_a_resume_to_an_earlier_step_and_back(new_daemon: NewDaemon) -> None:
    """What a partial run leaves out keeps its numbers: an old name would not be run again."""
    daemon = new_daemon()
    job_hash = finished(daemon, "chain")
    assert resume(daemon, job_hash, "chain", "to=s2")["status"] == "completed"
    assert resume(daemon, job_hash, "chain")["status"] == "completed"
    other = finished(daemon, "chain", "jobname=other")
    assert daemon.progress(other)["status"] == "completed", "one job's resume stopped all others"


def test_a_job_that_was_cancelled_in_the_queue_is_resumed_with_its_import(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[local]\ncores = 1\n")
    running(daemon, "sleep 4", "jobname=first")
    answer = daemon.submit(manifest("chain"), import_archive({"marker.v": b"module m; endmodule"}))
    job_hash = answer.json()["job_hash"]
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert daemon.wait(job_hash)["status"] == "canceled"
    assert resume(daemon, job_hash, "chain")["status"] == "completed"
    unpacked = list(daemon.job_directory(job_hash).glob("work/*/top/job0/marker.v"))
    assert unpacked, "it ran without what the client had uploaded"


def test_fewer_cores_than_a_job_was_prepared_for(new_daemon: NewDaemon) -> None:
    """A smaller machine, or a smaller [local] cores, after a restart: slower, not stuck."""
    daemon = new_daemon("[local]\ncores = 8\n")
    job_hash = running(daemon, "sleep 2")
    daemon.stop()
    daemon.file.write_text(daemon.file.read_text().replace("cores = 8", "cores = 1"))
    daemon.start()
    assert daemon.wait(job_hash)["status"] == "completed"


def test_a_daemon_that_fails_says_so_to_its_service_manager(new_daemon: NewDaemon) -> None:
    """Restart=on-failure goes by the exit status; jobs are not cancelled for it."""
    daemon = new_daemon('[local]\non_stop = "cancel"\n')
    job_hash = running(daemon, "sleep 60")
    node = daemon.pid_of(job_hash, "started")
    connection = sqlite3.connect(daemon.state / "scd.db")
    connection.execute("UPDATE jobs SET flow = flow")  # what the daemon remembers of the file is old from now on
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with open(daemon.state / "scd.db", "r+b") as database:
        database.write(b"rotten" * 20_000)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 1
    assert "scd: The daemon ended by itself" in daemon.log.read_text()
    assert is_alive(node)


def test_a_cancel_that_ended_a_node_is_a_cancel(new_daemon: NewDaemon) -> None:
    """Although one of that step's nodes had succeeded, which would be enough for the flowgraph."""
    daemon = new_daemon("[local]\ncores = 4\n")
    job_hash = start(daemon, "workers", "script=case $PWD in */work/0) ;; *) sleep 300;; esac", "threads=1")
    daemon.wait_for_node(job_hash, "work0", "success")
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert daemon.wait(job_hash)["status"] == "canceled"
