"""A real daemon in a directory of its own, and the real client against it."""

import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "tests" / "acceptance" / "client.py"
# The Python that has SiliconCompiler: the one that runs the tests, unless told otherwise.
RUNTIME = os.environ.get("SCD_TEST_RUNTIME", sys.executable)

Json = dict[str, Any]


# As systemd hands a socket in: descriptor 3, and two variables that name it.
_HAND_IN = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "scd.daemon", *sys.argv[2:]])
"""


class ClientHung(AssertionError):
    """The client, or a local run, did not come back."""


class Daemon:
    """``python -m scd.daemon`` with a configuration file, on a free loopback port."""

    def __init__(
        self, directory: Path, config: str = "", runtime: str = RUNTIME, server: str = "", paths: str = "",
        state: Path | None = None,
    ):  # fmt: skip
        self.directory = directory
        self.port = free_port()
        self.state = state or directory / "state"
        self.file = directory / "scd.toml"
        self.log = directory / "scd.log"
        self.scheme = "http"
        self.ca: Path | None = None  # of its certificate, where it has one
        directory.mkdir(parents=True, exist_ok=True)
        runtime_table = "" if "[[runtime]]" in config else f'[[runtime]]\npython = "{runtime}"\n'
        self.file.write_text(
            f'[server]\nlisten = ["127.0.0.1:{self.port}", "unix:{self.state}/scd.sock"]\nuser = "root"\n{server}\n'
            f'[paths]\nstate = "{self.state}"\ncache = "{directory}/cache"\n{paths}\n{runtime_table}{config}\n'
        )
        if not can_isolate() and "isolation" not in config:
            (directory / "conf.d").mkdir(exist_ok=True)
            (directory / "conf.d" / "isolation.toml").write_text('[local]\nisolation = "none"\n')
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    @property
    def verify(self) -> ssl.SSLContext | bool:
        return True if self.ca is None else ssl.create_default_context(cafile=str(self.ca))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> "Daemon":
        self.spawn()
        return self.wait_until_ready()

    def spawn(
        self, *, env: Mapping[str, str] | None = None, under: Sequence[str] = (), held: socket.socket | None = None
    ) -> None:
        """Start the process, and do not wait for it: ``under`` a tracer, with a listening socket ``held`` for it."""
        start = ["-m", "scd.daemon"] if held is None else ["-c", _HAND_IN, str(held.fileno())]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*under, sys.executable, *start, "-c", str(self.file)], pass_fds=[held.fileno()] if held else [],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, **(env or {})},
            )  # fmt: skip

    def wait_until_ready(self) -> "Daemon":
        assert self.process is not None
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended at once:\n{self.log.read_text()}")
            try:
                if httpx2.get(f"{self.url}/healthz", timeout=5, verify=self.verify).status_code == 200:
                    return self
            except httpx2.TransportError:
                time.sleep(0.05)
        raise RuntimeError(f"the daemon does not listen:\n{self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM, timeout: float = 30) -> int:
        """End the daemon by a signal; its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(timeout)
        self.process = None
        return status

    def end_everything(self) -> None:
        """The daemon, and the shims and runners that it left running on purpose."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def processes(self) -> set[int]:
        """The daemon, shims, runners and nodes: whatever has to do with this directory."""
        known = str(self.directory).encode()
        return {
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and int(entry.name) != os.getpid() and known in _command_line(entry)
        }

    def post(self, path: str, body: Mapping[str, Any] | None = None, **options: Any) -> httpx2.Response:
        return httpx2.post(
            f"{self.url}{path}", content=json.dumps(body or {}), timeout=30, verify=self.verify, **options
        )

    def submit(self, manifest: Mapping[str, Any], archive: bytes | None, **params: str) -> httpx2.Response:
        """remote_run as the client sends it: ``params`` first, as a file part."""
        files = {"params": ("params", json.dumps({"cfg": manifest, "params": params}))}
        if archive is not None:
            files["import"] = ("import", archive)  # type: ignore[assignment]
        return httpx2.post(f"{self.url}/remote_run/", files=files, timeout=60, verify=self.verify)

    def progress(self, job_hash: str, **params: str) -> Json:
        answer = self.post("/check_progress/", {"job_hash": job_hash, **params})
        return {"code": answer.status_code, **answer.json()}

    def wait(self, job_hash: str, timeout: float = 60, credentials: Mapping[str, str] | None = None) -> Json:
        """Poll as the client does until the job's status is final."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            answer = self.progress(job_hash, **(credentials or {}))
            if answer["status"] != "running":
                return answer
        raise AssertionError(
            f"job {job_hash} did not end within {timeout} s; the daemon's log:\n{self.log.read_text()}"
        )

    def wait_for_node(self, job_hash: str, name: str, status: str, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            answer = self.progress(job_hash)
            message = answer["message"]
            if isinstance(message, dict) and message.get(name, {}).get("status") == status:
                return
            assert answer["status"] == "running", f"the job ended before {name} was {status}: {answer}"
        raise AssertionError(f"node {name} was not {status} within {timeout} s")

    def rows(self, sql: str, *parameters: object) -> list[Json]:
        """What the database says, read beside the daemon."""
        connection = sqlite3.connect(f"file:{self.state}/scd.db?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(sql, parameters)]
        finally:
            connection.close()

    def journal(self, job_hash: str) -> list[Json]:
        """What the job's shim wrote down."""
        lines = (self.job_directory(job_hash) / "control" / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def pid_of(self, job_hash: str, kind: str) -> int:
        """The newest "shim", "runner" or "started" (node) process of a job."""
        return int([record for record in self.journal(job_hash) if record["type"] == kind][-1]["pid"])

    def kill_node(self, job_hash: str, step: str) -> None:
        """SIGKILL to the process of a running node."""
        (attempt,) = self.rows(
            "SELECT name FROM attempts WHERE job_hash = ? AND step = ? AND ended IS NULL", job_hash, step
        )
        (pid,) = (record["pid"] for record in self.journal(job_hash)
                  if record["type"] == "started" and record["name"] == attempt["name"])  # fmt: skip
        os.kill(pid, signal.SIGKILL)

    @property
    def jobs(self) -> Path:
        return self.state / "spool" / "jobs"

    def job_directory(self, job_hash: str) -> Path:
        return self.jobs / job_hash[:2] / job_hash


def run_client(
    directory: Path, flow: str, daemon: Daemon | None, *options: str,
    python: str = RUNTIME, timeout: float = 120, check: bool = True, username: str = "", password: str = "",
) -> Json:  # fmt: skip
    """Run a flow of ``client.py`` through the real client, or locally without a daemon.

    Returns its report: ``statuses`` by "step/index", ``job_hash``, ``wall`` in seconds, ``error``; and ``log``.
    """
    process = start_client(directory, flow, daemon, *options, python=python, username=username, password=password)
    try:
        out, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        raise ClientHung(f"the client did not return within {timeout} s:\n{out}") from None
    report = directory / "report.json"
    if check:
        assert report.exists(), f"the client did not finish:\n{out}"
    if not report.exists():
        return {"log": out}
    return {
        **json.loads(report.read_text()),
        "log": out,
        "written": report.stat().st_mtime,
        "directory": str(directory),
    }


def run_locally(directory: Path, flow: str, *options: str, python: str = RUNTIME) -> Json:
    """A local run to compare with. SiliconCompiler forks with threads running: a few runs in a hundred hang in it."""
    for attempt in range(4):
        try:
            return run_client(directory / str(attempt), flow, None, *options, python=python, timeout=30)
        except ClientHung:
            continue
    raise ClientHung("the local run hung four times")


def start_client(
    directory: Path, flow: str, daemon: Daemon | None, *options: str,
    python: str = RUNTIME, username: str = "", password: str = "",
) -> subprocess.Popen[str]:  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    credentials = directory / "credentials"
    if daemon is not None:
        content: Json = {"address": f"{daemon.scheme}://localhost", "port": daemon.port, "directory_whitelist": []}
        if username:
            content |= {"username": username, "password": password}
        credentials.write_text(json.dumps(content))
    where = str(credentials) if daemon is not None else "local"
    return subprocess.Popen(
        [python, str(CLIENT), flow, where, str(directory), *options], cwd=directory, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8",
             **({"REQUESTS_CA_BUNDLE": str(daemon.ca)} if daemon and daemon.ca else {})},
    )  # fmt: skip


def wait_until(condition: Callable[[], object], what: str, timeout: float = 30) -> None:
    """``what`` is wrong if it does not come true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@cache
def can_isolate() -> bool:
    """Whether this machine has bubblewrap and lets it work: then every test's jobs run in a sandbox."""
    trial = (
        "bwrap",
        "--unshare-all",
        "--unshare-user",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "true",
    )
    try:
        return subprocess.run(trial, capture_output=True).returncode == 0
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""
