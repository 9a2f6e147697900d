"""A password that was used everywhere is found nowhere; and what is in the daemon's memory stays there."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import argon2
import httpx2
import pytest

from ..harness import Daemon, wait_until
from ..integration.submission import collected, manifest

NewDaemon = Callable[..., Daemon]
RIGHT = "right-canary-7f3a"
WRONG = "wrong-canary-9c1e"
ENDPOINTS = ("check_server", "check_progress", "cancel_job", "delete_job", "get_results/{}.tar.gz")


def use_everywhere(daemon: Daemon, job_hash: str, key: str) -> None:
    """As clients send it, and in places where it does not belong."""
    for endpoint in ENDPOINTS:
        path = f"/{endpoint.format(job_hash)}"
        if endpoint != "delete_job" or key == WRONG:
            daemon.post(path, {"username": "alice", "key": key, "job_hash": job_hash})
        daemon.post(path, {"username": key, "key": key, "job_hash": job_hash})
        daemon.post(path, {"username": "alice", "key": key, "job_hash": key, "node": key})
        daemon.post(path, {"username": "alice", "key": [key], "job_hash": {key: key}})
        daemon.post(f"{path}?key={key}", headers={"Authorization": f"Basic {key}", "X-Key": key})
        httpx2.post(f"{daemon.url}{path}", content=f'{{"username": "alice", "key": "{key}'.encode())
        httpx2.post(f"{daemon.url}{path}/{key}", content=b"{}")
    daemon.submit(manifest("chain"), b"no archive", username="alice", key=key)
    daemon.submit(manifest("chain"), None, username="alice", key=key, job_hash="0" * 32)
    httpx2.post(f"{daemon.url}/remote_run/", content=key.encode(), headers={"Content-Type": f"multipart/{key}"})


def places(daemon: Daemon) -> dict[str, bytes]:
    """Whatever a daemon and its jobs leave, and what of their processes others can see."""
    found = {str(path): path.read_bytes() for path in daemon.directory.rglob("*") if path.is_file()}
    for pid in daemon.processes():
        for name in ("environ", "cmdline"):
            found[f"/proc/{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    return found


def test_a_password_is_found_nowhere(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(f'[users.alice]\npassword_hash = "{argon2.PasswordHasher().hash(RIGHT)}"\n')
    options = ("script=env >env; cat /proc/*/environ /proc/*/cmdline >all 2>/dev/null; sleep 600", "threads=1")
    answer = daemon.submit(manifest("work", *options), collected("work", *options), username="alice", key=RIGHT)
    job_hash = answer.json()["job_hash"]
    daemon_credentials = {"username": "alice", "key": RIGHT}
    written = daemon.job_directory(job_hash) / "work" / job_hash / "top" / "job0" / "work" / "0" / "all"
    wait_until(written.exists, "the node did not run", 60)
    use_everywhere(daemon, job_hash, WRONG)
    use_everywhere(daemon, job_hash, RIGHT)
    seen = places(daemon)
    assert daemon.wait(job_hash, credentials=daemon_credentials)["status"] == "canceled"
    daemon.post("/delete_job/", {**daemon_credentials, "job_hash": job_hash})
    assert any(name.endswith("/environ") for name in seen)
    assert any(name.endswith("scd.db") for name in seen)
    daemon.stop()
    for name, content in [*seen.items(), *places(daemon).items()]:
        for key in (RIGHT, WRONG):
            for form in (key, urllib.parse.quote(key), json.dumps(key)[1:-1]):
                assert form.encode() not in content, f"a password is in {name}"


CRASH = "import os; os.abort()"


def dumps_core(*command: str, directory: Path, crash: Callable[[subprocess.Popen[bytes]], None]) -> bool:
    process = subprocess.Popen(
        command, cwd=directory, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2),
    )  # fmt: skip
    crash(process)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert os.WIFSIGNALED(status)
    return os.WCOREDUMP(status)


def test_a_crash_of_the_daemon_leaves_no_core(tmp_path: Path) -> None:
    """Passwords are in its memory."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard != resource.RLIM_INFINITY and os.geteuid() != 0:
        pytest.skip("core dumps are limited here")
    if not dumps_core(sys.executable, "-c", CRASH, directory=tmp_path, crash=lambda _: None):
        pytest.skip("nothing leaves a core here (kernel.core_pattern)")
    daemon = Daemon(tmp_path / "scd")
    try:

        def crash(process: subprocess.Popen[bytes]) -> None:
            daemon.process = process
            daemon.wait_until_ready()
            process.send_signal(signal.SIGABRT)
            daemon.process = None

        started = (sys.executable, "-m", "scd.daemon", "-c", str(daemon.file))
        assert not dumps_core(*started, directory=tmp_path, crash=crash), "a core was dumped"
    finally:
        daemon.end_everything()


def test_a_flood_of_bad_requests_fills_no_log(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    before = len(daemon.log.read_text().splitlines())
    forged = b"2026-01-01T00:00:00Z ERROR forged"
    for number in range(600):
        with socket.create_connection(("127.0.0.1", daemon.port), 10) as one:
            one.sendall(
                (
                    b"\x16\x03\x01" + forged,
                    b"GET /\r\n" + forged + b"\r\n\r\n",
                    b"POST /%0A" + forged.replace(b" ", b"%20") + b" HTTP/1.1\r\nHost: localhost\r\nUpgrade: " + forged
                    + b"\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\n\x1b[2",
                    b"POST /remote_run/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
                    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + forged,
                )[number % 4]
            )  # fmt: skip
            one.shutdown(socket.SHUT_WR)
            while one.recv(65536):
                pass
    assert httpx2.get(f"{daemon.url}/healthz").status_code == 200
    lines = daemon.log.read_text().splitlines()[before:]
    assert lines == [], "bad requests leave lines"
