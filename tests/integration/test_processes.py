"""Local dispatch: sessions, descriptors, environment, cores, limits, signals, and what survives whose death."""

import contextlib
import itertools
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import argon2
import pytest

from scd.procfs import tree

from ..harness import Daemon, Json, wait_until
from .submission import collected, manifest, member

NewDaemon = Callable[..., Daemon]


def start(daemon: Daemon, flow: str, *options: str) -> str:
    response = daemon.submit(manifest(flow, *options), collected(flow, *options))
    assert response.status_code == 200, response.text
    return str(response.json()["job_hash"])


def running(daemon: Daemon, script: str, *options: str) -> str:
    """A job whose node ``work`` runs ``script``, and has begun."""
    job_hash = start(daemon, "work", f"script={script}", *options)
    daemon.wait_for_node(job_hash, "work0", "running")
    time.sleep(0.5)
    return job_hash


def attempts(daemon: Daemon, job_hash: str) -> dict[str, Json]:
    rows = daemon.rows("SELECT * FROM attempts WHERE job_hash = ? AND step <> '' ORDER BY queued", job_hash)
    assert len({(row["step"], row["index"], row["attempt"]) for row in rows}) == len(rows)
    return {row["step"]: row for row in rows}


def is_alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def gone(pids: set[int], timeout: float = 10) -> bool:
    deadline = time.monotonic() + timeout
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_alive, pids))


def called(command: str) -> set[int]:
    """The processes with this command line, in whichever namespace: a node's own word for a pid is another."""
    words = command.replace(" ", "\0").encode() + b"\0"
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes() == words:
                    found.add(int(entry.name))
    return found


def descriptors(pid: int) -> list[str]:
    """What the descriptors of a process lead to; nothing for one that has just ended."""
    try:
        return [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def test_each_process_has_a_session_of_its_own(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 60")
    pids = [daemon.pid, *(daemon.pid_of(job_hash, kind) for kind in ("shim", "runner", "started"))]
    sessions = [os.getsid(pid) for pid in pids]
    assert len(set(sessions)) == 4, sessions
    assert sessions[1:] == pids[1:]


def test_a_node_has_no_descriptor_of_the_daemon_or_of_another_job(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 60")
    for kind in ("shim", "runner", "started"):
        for pid in tree(daemon.pid_of(job_hash, kind)):
            for target in descriptors(pid):
                assert "scd.db" not in target, f"{kind} holds the database"
                assert "scd.log" not in target, f"{kind} holds the daemon's log"
    listening = (
        subprocess.run(["ss", "-tlnpH"], capture_output=True, text=True).stdout if Path("/usr/bin/ss").exists() else ""
    )
    if listening:
        (line,) = (line for line in listening.splitlines() if f":{daemon.port} " in line)
        assert re.findall(r"pid=(\d+)", line) == [str(daemon.pid)], "another process holds the port"


def test_a_node_does_not_hold_the_runners_channel(new_daemon: NewDaemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can look into a runner")
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 60")
    node = daemon.pid_of(job_hash, "started")
    sockets = [os.readlink(fd) for fd in Path(f"/proc/{node}/fd").iterdir() if "socket" in os.readlink(fd)]
    runner = daemon.pid_of(job_hash, "runner")
    channel = {os.readlink(fd) for fd in Path(f"/proc/{runner}/fd").iterdir() if "socket" in os.readlink(fd)}
    assert not channel & set(sockets)


def test_a_job_sees_nothing_of_the_daemons_environment(new_daemon: NewDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCD_CANARY", "tweet")
    daemon = new_daemon()
    assert b"SCD_CANARY" in Path(f"/proc/{daemon.pid}/environ").read_bytes()
    job_hash = running(daemon, "env > env.txt; sleep 60")
    for kind in ("shim", "runner", "started"):
        with contextlib.suppress(PermissionError):  # only root can look into a runner
            assert b"SCD_CANARY" not in Path(f"/proc/{daemon.pid_of(job_hash, kind)}/environ").read_bytes(), kind
    live = daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"})
    assert b"SCD_CANARY" not in member(live.content, "/env.txt")


def test_cores_are_respected_over_all_jobs(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[local]\ncores = 1\n")
    jobs = [start(daemon, "workers", "script=sleep 0.2") for _ in range(2)]
    for job_hash in jobs:
        assert daemon.wait(job_hash, 90)["status"] == "completed"
    spans = daemon.rows("SELECT started, ended FROM attempts WHERE step <> '' ORDER BY started")
    for before, after in itertools.pairwise(spans):
        assert before["ended"] <= after["started"], "two nodes ran at once on one core"


def test_maxnodes_of_a_job_is_respected(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[local]\ncores = 8\n")
    job_hash = start(daemon, "workers", "script=sleep 0.3", "maxnodes=2")
    assert daemon.wait(job_hash, 60)["status"] == "completed"
    spans = daemon.rows("SELECT started, ended FROM attempts WHERE step = 'work'")
    most = max(sum(one["started"] <= at["started"] < one["ended"] for one in spans) for at in spans)
    assert most <= 2


@pytest.mark.parametrize("script", ["sleep 60", "trap '' TERM; while :; do sleep 1; done"])
def test_a_node_over_its_time_limit(new_daemon: NewDaemon, script: str) -> None:
    """SiliconCompiler ends the tool, or scd does where SiliconCompiler's own way takes too long."""
    daemon = new_daemon()
    job_hash = start(daemon, "work", f"script={script}", "timeout=1")
    assert daemon.wait(job_hash)["status"] == "timeout"
    work = attempts(daemon, job_hash)["work"]
    assert work["state"] == "timeout"
    assert work["reason"] == "over its time limit of 0:00:01"


def test_a_cancel_leaves_no_process(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = running(daemon, "trap '' TERM; (trap '' TERM; setsid sleep 301) & sleep 302")
    shim = daemon.pid_of(job_hash, "shim")
    family = tree(shim)
    assert len(family) >= 5
    begin = time.monotonic()
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert daemon.wait(job_hash)["status"] == "canceled"
    (row,) = daemon.rows("SELECT ended FROM jobs")
    (asked,) = daemon.rows("SELECT at FROM events WHERE step = 'work' AND new = 'error'")
    assert asked["at"] - row["ended"] < 5
    assert time.monotonic() - begin < 20
    assert gone(family), f"left: {[pid for pid in family if is_alive(pid)]}"


def test_what_a_node_leaves_running_ends_with_it(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = start(daemon, "work", "script=setsid sleep 30303 & sleep 1")
    wait_until(lambda: called("sleep 30303"), "it never ran")
    assert daemon.wait(job_hash)["status"] == "completed"
    assert gone(called("sleep 30303")), "a process outlived its node"


def test_what_a_node_used_is_in_the_database(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    burn = "x = bytearray(300 * 2**20); t = time.process_time()\nwhile time.process_time() < t + 2: pass\n"
    script = f"""python3 - <<END
import time
{burn}open("big", "wb").write(bytes(50 * 2**20))
END"""
    job_hash = start(daemon, "work", f"script={script}")
    assert daemon.wait(job_hash)["status"] == "completed"
    work = attempts(daemon, job_hash)["work"]
    assert 2 <= work["cpu_seconds"] < 10
    assert 300 * 2**20 <= work["peak_bytes"] < 2**30
    assert work["written_bytes"] >= 50 * 2**20
    assert work["elapsed"] >= 2
    (charged,) = daemon.rows("SELECT sum(core_seconds) AS n FROM ledger")
    (expected,) = daemon.rows("SELECT sum(elapsed * cores) AS n FROM attempts")
    assert charged["n"] == pytest.approx(expected["n"])


def test_a_node_that_is_killed_leaves_its_logs(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = running(daemon, "echo begun; sleep 60")
    daemon.kill_node(job_hash, "work")
    answer = daemon.wait(job_hash)
    assert answer["status"] == "failed"
    assert answer["message"] == "work/0 killed by SIGKILL (the kernel does this when memory runs out)"
    archive = daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"}).content
    assert b"Running in" in member(archive, "/sc_work_0.log")
    assert b'"error"' in member(archive, "/outputs/top.pkg.json"), "the client would show it as pending"


def test_a_killed_daemon_finds_its_nodes_again(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 3; echo done > done.txt")
    node = daemon.pid_of(job_hash, "started")
    daemon.stop(signal.SIGKILL)
    assert is_alive(node), "the node died with the daemon"
    daemon.start()
    assert is_alive(node) or attempts(daemon, job_hash)["work"]["state"] == "success"
    assert daemon.wait(job_hash)["status"] == "completed"
    found = attempts(daemon, job_hash)
    assert {step: row["attempt"] for step, row in found.items()} == {"get": 1, "work": 1, "after": 1}
    started = [record["name"] for record in daemon.journal(job_hash) if record["type"] == "started"]
    assert len(started) == len(set(started)) == 4, "a node was run twice"


def test_what_ends_while_the_daemon_is_down_counts(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 1")
    daemon.stop(signal.SIGKILL)
    time.sleep(2.5)
    assert [record["type"] for record in daemon.journal(job_hash)][-1] == "ended"
    daemon.start()
    assert daemon.wait(job_hash)["status"] == "completed"
    assert attempts(daemon, job_hash)["work"]["elapsed"] < 2.4, "the time without the daemon was charged"


@pytest.mark.parametrize("victim", ["runner", "shim"])
@pytest.mark.parametrize("daemon_too", [False, True], ids=["alone", "with-the-daemon"])
def test_a_job_whose_keeper_died(new_daemon: NewDaemon, victim: str, *, daemon_too: bool) -> None:
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 304")
    family = tree(daemon.pid_of(job_hash, "runner"))
    if daemon_too:
        daemon.stop(signal.SIGKILL)
    os.kill(daemon.pid_of(job_hash, victim), signal.SIGKILL)
    if daemon_too:
        daemon.start()
    answer = daemon.wait(job_hash)
    assert (answer["status"], answer["message"]) == ("failed", f"work/0 the job's {victim} was killed")
    assert {step: row["attempt"] for step, row in attempts(daemon, job_hash).items()} == {"get": 1, "work": 1}
    archive = daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"})
    assert b"Running in" in member(archive.content, "/sc_work_0.log"), "its logs are saved"
    assert gone(family), "what ran in it goes on"


def test_sigterm_leaves_the_jobs_and_answers_what_is_in_flight(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 2")
    begin = time.monotonic()
    assert daemon.stop(signal.SIGTERM) == 0
    assert time.monotonic() - begin < 10
    daemon.start()
    assert daemon.wait(job_hash)["status"] == "completed"


def test_a_socket_that_is_handed_in_outlives_a_restart(tmp_path: Path) -> None:
    """As scd.socket does it: a client that comes meanwhile waits in the backlog."""
    daemon = Daemon(tmp_path)
    with socket.create_server(("127.0.0.1", daemon.port), backlog=64) as held:
        daemon.spawn(held=held)
        assert daemon.post("/check_server/").json()["status"] == "ready"
        daemon.stop(signal.SIGKILL)
        answers: list[int] = []
        client = threading.Thread(target=lambda: answers.append(daemon.post("/check_server/").status_code))
        client.start()
        time.sleep(0.5)
        assert answers == []
        daemon.spawn(held=held)
        client.join(30)
        assert daemon.stop() == 0
        assert answers == [200], daemon.log.read_text()


def test_a_socket_that_is_handed_in_is_not_opened_to_strangers(tmp_path: Path) -> None:
    """What [server] listen may not be, a socket of systemd's may not be either: not at the start, not by a reload."""
    daemon = Daemon(tmp_path)
    with socket.create_server(("0.0.0.0", daemon.port), backlog=64) as held:
        daemon.spawn(held=held)
        assert daemon.process is not None
        assert daemon.process.wait(60) == 78
        assert f"'0.0.0.0:{daemon.port}' is open to other machines, and nobody has to log in" in daemon.log.read_text()
        users = tmp_path / "conf.d" / "users.toml"
        users.parent.mkdir(exist_ok=True)
        hashed = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")
        users.write_text(f'[users.alice]\npassword_hash = "{hashed}"\n')
        daemon.spawn(held=held)
        daemon.wait_until_ready()
        assert f"listening on 0.0.0.0:{daemon.port} as " in daemon.log.read_text()
        users.unlink()
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(lambda: "the configuration is not reloaded" in daemon.log.read_text(), "nothing was said of it")
        assert daemon.post("/check_progress/", {"job_hash": "0" * 32}).status_code == 403
        assert daemon.stop() == 0


def test_sighup_reloads(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: "configuration is reloaded" in daemon.log.read_text(), "nothing was reloaded")
    assert daemon.post("/check_server/").status_code == 200


def test_a_second_daemon_on_the_same_state_names_the_first(daemon: Daemon) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "scd.daemon", "-c", str(daemon.file)], capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 1
    assert f"{daemon.state} is in use by another scd (pid {daemon.pid})." in second.stderr


def test_the_daemon_never_loads_siliconcompiler(daemon: Daemon) -> None:
    job_hash = start(daemon, "chain")
    daemon.wait(job_hash)
    assert "siliconcompiler" not in Path(f"/proc/{daemon.pid}/maps").read_text()
    loaded = subprocess.run(
        [sys.executable, "-c", "import scd.daemon, sys; print([m for m in sys.modules if 'siliconcompiler' in m])"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert loaded.stdout.strip() == "[]"


def test_every_change_of_state_is_an_event(daemon: Daemon) -> None:
    job_hash = start(daemon, "chain")
    daemon.wait(job_hash)
    events = daemon.rows("SELECT step, old, new FROM events WHERE job_hash = ? ORDER BY id", job_hash)
    job = [(event["old"], event["new"]) for event in events if not event["step"]]
    assert job == [(None, "queued"), ("queued", "preparing"), ("preparing", "running"), ("running", "completed")]
    node = [(event["old"], event["new"]) for event in events if event["step"] == "s3"]
    assert node == [(None, "pending"), ("pending", "queued"), ("queued", "running"), ("running", "success")]


def test_root_is_given_up(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give root up")
    try:
        subprocess.run([sys.executable, "-c", "import scd.daemon"], user="nobody", cwd="/", check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no other account can run this Python with scd")
    place = Path("/tmp") / f"scd-root-{os.getpid()}"
    daemon = Daemon(place)
    daemon.file.write_text(daemon.file.read_text().replace('user = "root"', 'user = "nobody"'))
    try:
        place.chmod(0o755)
        daemon.start()
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        assert re.search(r"^Uid:\s+65534\s+65534\s+65534\s+65534$", status, re.MULTILINE)
    finally:
        daemon.end_everything()
        subprocess.run(["rm", "-rf", str(place)], check=True)


def test_root_without_an_account_to_become_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give root up")
    daemon = Daemon(tmp_path)
    daemon.file.write_text(daemon.file.read_text().replace('user = "root"', 'user = "no-such-account"'))
    with pytest.raises(RuntimeError, match="there is no account 'no-such-account' to become"):
        daemon.start()


def test_a_database_that_cannot_be_written_for_a_while_loses_nothing(new_daemon: NewDaemon) -> None:
    """Another writer holds it for longer than scd waits: the turn fails, and is done again."""
    daemon = new_daemon()
    job_hash = running(daemon, "sleep 1")
    busy = sqlite3.connect(daemon.state / "scd.db", isolation_level=None)
    busy.execute("BEGIN IMMEDIATE")
    deadline = time.monotonic() + 30
    while "nothing of it was kept" not in daemon.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    busy.execute("ROLLBACK")
    busy.close()
    assert "the scheduler's turn failed, nothing of it was kept" in daemon.log.read_text()
    assert daemon.wait(job_hash)["status"] == "completed"
    assert {row["attempt"] for row in attempts(daemon, job_hash).values()} == {1}
