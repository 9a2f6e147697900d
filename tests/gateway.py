"""A gateway for the tests: real accounts, scd under one of its own, and scd-launcher as root."""

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import argon2
import pytest

from .harness import ROOT, RUNTIME, Daemon, Json, can_isolate, wait_until
from .integration.submission import collected, manifest, member, set_value

PREFIX = f"scd-test-{os.getpid()}"
SCD, ALICE, BOB, NOBODYS = (f"{PREFIX}-{name}" for name in ("d", "a", "b", "n"))


class Gateway(Daemon):
    """``alice`` and ``bob`` log in with their names and "-secret", and have the accounts ALICE and BOB."""

    def __init__(self, directory: Path, more: str = "", accounts: tuple[str, str] = (ALICE, BOB)):
        self.run = directory / "run"
        users = "".join(
            f'[users.{name}]\npassword_hash = "{password_hash(name)}"\naccount = "{account}"\n'
            for name, account in zip(("alice", "bob"), accounts, strict=True)
        )
        super().__init__(directory, f'[local]\ncores = 64\nlauncher = "{self.run}/launcher.sock"\n{more}\n{users}')
        self.file.write_text(self.file.read_text().replace('user = "root"', f'user = "{SCD}"'))
        for path, mode in ((directory, 0o755), (self.file, 0o644)):
            path.chmod(mode)
        self.launcher: subprocess.Popen[bytes] | None = None
        self.passwd: Path | None = None  # shown to it in place of /etc/passwd
        self.environment: dict[str, str] | None = None  # the launcher's, instead of the tests'

    @property
    def launcher_log(self) -> Path:
        return self.directory / "launcher.log"

    @property
    def socket(self) -> Path:
        return self.run / "launcher.sock"

    def start(self) -> "Gateway":
        self.start_launcher()
        super().start()
        return self

    def start_launcher(self) -> None:
        start = [*passage(self.directory, self.passwd), *privileges(), sys.executable, "-m", "scd.launcher.service"]
        with open(self.launcher_log, "ab") as log:
            self.launcher = subprocess.Popen(
                [*start, "-c", str(self.file)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True,
                env=self.environment,
            )  # fmt: skip
        wait_until(lambda: self._greets(), "the launcher does not listen")

    def reload_launcher(self) -> str:
        assert self.launcher is not None
        return _hang_up(self.launcher.pid, self.launcher_log)

    def reload_scd(self) -> str:
        return _hang_up(self.pid, self.log)

    def kill_launcher(self) -> None:
        assert self.launcher is not None
        self.launcher.kill()
        self.launcher.wait()

    def spawn(self, **_: Any) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*passage(self.directory, self.passwd), sys.executable, "-m", "scd.daemon", "-c", str(self.file)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT,
            )  # fmt: skip

    def end_everything(self) -> None:
        if self.launcher is not None:
            self.launcher.send_signal(signal.SIGTERM)
            self.launcher.wait(10)
        super().end_everything()

    def start_job(self, user: str, script: str) -> str:
        option = f"script={script}"
        cfg = set_value(manifest("work", option), 1, "option", "scheduler", "cores")
        response = self.submit(cfg, collected("work", option), **who(user))
        assert response.status_code == 200, response.text
        return str(response.json()["job_hash"])

    def running(self, user: str, script: str) -> str:
        job_hash = self.start_job(user, script)
        wait_until(lambda: self.node_state(job_hash) == "running", f"it never ran:\n{self.logs()}")
        return job_hash

    def node_state(self, job_hash: str, step: str = "work") -> str | None:
        rows = self.rows("SELECT state FROM nodes WHERE job_hash = ? AND step = ?", job_hash, step)
        return str(rows[0]["state"]) if rows else None

    def finish(self, user: str, job_hash: str) -> Json:
        return self.wait(job_hash, credentials=who(user))

    def output(self, user: str, script: str) -> str:
        """What a node of a user's job prints."""
        job_hash = self.start_job(user, f"({script}) >out 2>&1; true")
        answer = self.finish(user, job_hash)
        assert answer["status"] == "completed", f"{answer}\n{self.logs()}"
        return self.result(user, job_hash)

    def result(self, user: str, job_hash: str) -> str:
        answer = self.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0", **who(user)})
        assert answer.status_code == 200, answer.text
        return member(answer.content, "/out").decode()

    def cancel(self, user: str, job_hash: str) -> None:
        answer = self.post("/cancel_job/", {"job_hash": job_hash, **who(user)})
        assert answer.status_code == 200, answer.text

    def check_config(self, program: str = "") -> "subprocess.CompletedProcess[str]":
        """``program``: Python that is scd, instead of the daemon."""
        scd = ["-c", program] if program else ["-m", "scd.daemon"]
        return subprocess.run(
            [*passage(self.directory), sys.executable, *scd, "-c", str(self.file), "--check-config"],
            capture_output=True, text=True, timeout=100, cwd=ROOT,
        )  # fmt: skip

    def logs(self) -> str:
        return self.log.read_text() + self.logs_of_launcher()

    def logs_of_launcher(self) -> str:
        return self.launcher_log.read_text()

    def ask(self, message: bytes, account: str = SCD) -> bytes:
        """What the launcher answers a process of this account; nothing if it hangs up, or cannot be reached."""
        done = subprocess.run(
            [*as_account(account), "/usr/bin/python3", "-c", _ASK, str(self.socket)],
            input=message, capture_output=True, timeout=60,
        )  # fmt: skip
        return done.stdout

    def _greets(self) -> bool:
        assert self.launcher is not None
        if self.launcher.poll() is not None:
            raise RuntimeError(f"the launcher ended at once:\n{(self.directory / 'launcher.log').read_text()}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel, contextlib.suppress(OSError):
            channel.connect(str(self.socket))
            return True
        return False


G = TypeVar("G", bound=Gateway)

_ASK = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.send(sys.stdin.buffer.read())
sys.stdout.buffer.write(s.recv(65536))
"""


def said_of_reloads(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if "reloaded" in line]


def _hang_up(pid: int, log: Path) -> str:
    """What a process says to a SIGHUP."""
    before = len(said_of_reloads(log))
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: len(said_of_reloads(log)) > before, f"it says nothing to a SIGHUP:\n{log.read_text()}")
    return said_of_reloads(log)[-1]


def privileges() -> list[str]:
    """What to put before the launcher so that it has the capabilities of its unit, and no others."""
    lines = (ROOT / "systemd" / "scd-launcher.service").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("CapabilityBoundingSet="))
    names = [name.removeprefix("CAP_").lower() for name in line.partition("=")[2].split()]
    return ["setpriv", "--no-new-privs", f"--bounding-set=-all,{','.join(f'+{name}' for name in names)}"]


def who(user: str) -> dict[str, str]:
    return {"username": user, "key": f"{user}-secret"}


def password_hash(user: str) -> str:
    return argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(f"{user}-secret")


def uid(account: str) -> int:
    return pwd.getpwnam(account).pw_uid


def gid(account: str) -> int:
    return pwd.getpwnam(account).pw_gid


def as_account(account: str) -> list[str]:
    return ["setpriv", f"--reuid={account}", f"--regid={account}", "--init-groups"]


def run_as(account: str, script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command of somebody who can log in under an account, outside all sandboxes."""
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run([*as_account(account), "sh", "-c", script], capture_output=True, text=True, cwd="/", env=env)


def owner_of(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid"))
    real, effective, saved, _ = map(int, line.split()[1:])
    assert real == effective == saved
    return real


def passage(directory: Path, passwd: Path | None = None) -> Sequence[str]:
    """What to put before a command so that other accounts get at this Python and scd, in a mount namespace of its own.

    A home directory on the way, as root's, is covered by an empty directory that only shows what is needed.
    """
    python = Path(RUNTIME)
    needed = {ROOT, *(Path(path).resolve() for path in (sys.prefix, sys.base_prefix, python.parent.parent))}
    needed.add(python.resolve().parent.parent)
    blocked: dict[Path, set[Path]] = {}
    for path in needed:
        closed = [place for place in reversed(path.parents) if not place.stat().st_mode & 0o001]
        if closed:
            blocked.setdefault(closed[0], set()).add(path)
    if not blocked and passwd is None:
        return ()
    lines = ["set -e", "mount --make-rprivate /"]
    if passwd is not None:
        lines.append(_mount("--bind", passwd, Path("/etc/passwd")))
    for place, paths in blocked.items():
        asides = {path: directory / "passage" / str(number) for number, path in enumerate(sorted(paths))}
        for path, aside in asides.items():
            lines += [f"mkdir -p {shlex.quote(str(aside))}", _mount("--bind", path, aside)]
        lines.append(_mount("-t tmpfs -o mode=755", Path("none"), place))
        for path, aside in asides.items():
            lines += [f"mkdir -p {shlex.quote(str(path))}", _mount("--bind", aside, path)]
    return ("unshare", "--mount", "sh", "-c", "\n".join([*lines, 'exec "$@"']), "sh")


def _mount(options: str, source: Path, target: Path) -> str:
    return f"mount {options} {shlex.quote(str(source))} {shlex.quote(str(target))}"


def why_not() -> str:
    """Why no gateway can be made here; empty if one can."""
    if os.geteuid() != 0:
        return "only root makes accounts, and runs scd-launcher"
    if not can_isolate():
        return "bubblewrap is not installed, or may not make namespaces here"
    if missing := [name for name in ("useradd", "userdel", "setpriv", "unshare") if shutil.which(name) is None]:
        return f"{', '.join(missing)} is not installed"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "no mount namespace can be made here"
    return ""


@contextlib.contextmanager
def started(made: G) -> Iterator[G]:
    """Ended afterwards, with all that runs in it."""
    try:
        made.start()
        yield made
    finally:
        made.end_everything()


@contextlib.contextmanager
def accounts(*people: str) -> Iterator[None]:
    """``people`` besides, with the uids of such."""
    made = []
    try:
        for name in (SCD, ALICE, BOB, NOBODYS, *people):
            kind = () if name in people else ("--system",)
            subprocess.run(
                ["useradd", *kind, "--user-group", "--no-create-home", "--shell", "/bin/sh", name], check=True
            )
            made.append(name)
        yield
    finally:
        for name in made:
            # A process that has just been killed still counts as his for a moment.
            for _ in range(20):
                if subprocess.run(["userdel", name], capture_output=True).returncode == 0:
                    break
                time.sleep(0.2)


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A directory that accounts get through, gone afterwards."""
    directory = Path("/tmp") / PREFIX
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    try:
        check = [*passage(directory), *as_account(ALICE), RUNTIME, "-I", "-c", "import siliconcompiler"]
        done = subprocess.run(check, cwd="/", capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no other account can run this Python: {done.stderr.splitlines()[-1:]}")
        sandbox = [*as_account(ALICE), "bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
        done = subprocess.run(sandbox, cwd="/", capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"only root can make a sandbox here: {done.stderr.splitlines()[-1:]}")
        yield directory
    finally:
        shutil.rmtree(directory)
