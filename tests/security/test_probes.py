"""Jobs that try to get out, in three shapes of deployment: see ``probes``."""

import contextlib
import ctypes
import json
import os
import re
import socket
import stat
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest

from ..gateway import ALICE, Gateway, accounts, place, who, why_not
from ..harness import RUNTIME, Daemon, wait_until
from ..integration.submission import collected, manifest, member
from .probes import NAME, bundle
from .probes.processes import STRAY

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

SECRET = "tweet-of-another-job"
KEY = f"scd-canary-{os.getpid()}"
# Kept in the session's keyring and in the account's: both are looked through.
PLANT = (
    "import ctypes, os; n = dict(x86_64=248, aarch64=217)[os.uname().machine]; "
    f"[ctypes.CDLL(None).syscall(n, b'user', b'{KEY}', b'x', 1, k) for k in (-3, -4)]"
)
VICTIM = f'echo {SECRET} >precious; python3 -c "{PLANT}"; echo >ready; sleep 300'
ATTACK = (
    f"{bundle()}; while [ ! -e $HOME/facts ]; do sleep 0.1; done; "
    f'python3 {NAME} "$(cat $HOME/facts)"; cp /bin/true suid; chmod 4755 suid; '
    "touch $HOME/tried; while [ ! -e $HOME/seen ]; do sleep 0.1; done"
)


class Outcome(NamedTuple):
    bare: bool
    success: bool | None
    how: str


class Plain(Gateway):
    """scd and all jobs under one account that is not root."""

    def __init__(self, directory: Path, more: str = ""):
        super().__init__(directory, more, accounts=("", ""))

    def start(self) -> "Plain":
        Daemon.start(self)
        return self

    def logs(self) -> str:
        return self.log.read_text()


class Canaries:
    """What is to be found outside of a sandbox, and who found it."""

    def __init__(self, directory: Path):
        self.outside = directory
        for name, mode in ((".", 0o755), ("writable", 0o777)):
            (directory / name).mkdir(exist_ok=True)
            (directory / name).chmod(mode)
        (directory / "readable").write_text(SECRET)
        (directory / "readable").chmod(0o644)
        self.stack = contextlib.ExitStack()
        self.callers: list[object] = []
        self.tcp, self.udp = socket.create_server(("0.0.0.0", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.service, self.abstract = (socket.socket(socket.AF_UNIX) for _ in range(2))
        self.service.bind(str(directory / "service.sock"))
        (directory / "service.sock").chmod(0o777)
        self.abstract.bind(f"\0{KEY}")
        for listener in (self.service, self.abstract):
            listener.listen()
        for listener in (self.tcp, self.service, self.abstract):
            self._serve(partial(_hang_up, listener))
        self._serve(self._pong)
        libc = ctypes.CDLL(None)
        self.shared = libc.shmget(os.getpid(), 4096, 0o1000 | 0o644)
        libc.shmctl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
        self.shm_file = Path("/dev/shm") / KEY
        self.shm_file.write_text(SECRET)
        self.listen = _free_port()
        self.over = threading.Event()
        self.caller = threading.Thread(target=self._call)
        self.caller.start()

    def _serve(self, answer: Callable[[], object]) -> None:
        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    answer()
                    self.callers.append(time.monotonic())

        threading.Thread(target=serve, daemon=True).start()

    def _pong(self) -> None:
        _, caller = self.udp.recvfrom(16)
        if caller is None:
            raise OSError("it is over")
        self.udp.sendto(b"pong", caller)

    def _call(self) -> None:
        """Whoever listens at this port is called."""
        while not self.over.wait(0.2):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.listen), 1).close()

    def close(self) -> None:
        self.over.set()
        self.caller.join()
        for each in (self.tcp, self.service, self.abstract):
            each.shutdown(socket.SHUT_RDWR)
            each.close()
        with contextlib.suppress(OSError):
            self.udp.shutdown(socket.SHUT_RDWR)
        self.udp.close()
        self.shm_file.unlink()
        ctypes.CDLL(None).shmctl(self.shared, 0, None)


def attack(daemon: Gateway, canaries: Canaries) -> dict[str, Outcome]:
    """What the probes say, as a job of alice's beside one of bob's."""
    other = daemon.running("bob", VICTIM)
    work = daemon.job_directory(other) / "work"
    wait_until(lambda: list(work.rglob("ready")), "the victim does not begin")
    job_hash = daemon.running("alice", ATTACK)
    own = daemon.job_directory(job_hash)
    precious = next(work.rglob("precious"))
    facts = {
        "database": f"{daemon.state}/scd.db", "config": str(daemon.file), "state": str(daemon.state),
        "jobs": str(daemon.jobs), "cache": str(daemon.directory / "cache"), "port": daemon.port, "secret": SECRET,
        "other": str(daemon.job_directory(other)), "other_file": str(precious), "outside": str(canaries.outside),
        "daemon": daemon.pid, "shim": daemon.pid_of(job_hash, "shim"), "other_shim": daemon.pid_of(other, "shim"),
        "other_node": daemon.pid_of(other, "started"), "account": ALICE, "canary": KEY, "key": KEY,
        "admin": f"{daemon.state}/scd.sock", "launcher": str(daemon.socket), "abstract": KEY, "address": _address(),
        "tcp": canaries.tcp.getsockname()[1], "udp": canaries.udp.getsockname()[1], "listen": canaries.listen,
        "shared": canaries.shared, "shm_file": canaries.shm_file.name, "runtime": str(Path(RUNTIME).parent),
    }  # fmt: skip
    (own / "work" / "facts.new").write_text(json.dumps(facts))
    (own / "work" / "facts.new").rename(own / "work" / "facts")
    wait_until(lambda: (own / "work" / "tried").exists(), f"the probes do not end:\n{daemon.logs()}", timeout=120)
    assert named(STRAY), "nothing was left behind that could be missed afterwards"
    (own / "work" / "seen").touch()
    assert daemon.finish("alice", job_hash)["status"] == "completed", daemon.logs()
    wait_until(lambda: not named(STRAY) | named(NAME), "a process outlives its job", timeout=20)
    answer = daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0", **who("alice")})
    with tarfile.open(fileobj=BytesIO(answer.content)) as tar:
        modes = {entry.name.rpartition("/")[2]: entry.mode for entry in tar.getmembers()}
    assert not modes["suid"] & (stat.S_ISUID | stat.S_ISGID), "a set-uid program comes with the results"
    assert precious.read_text() == f"{SECRET}\n"
    assert daemon.node_state(other) == "running", "the neighbour was hurt"
    daemon.post("/cancel_job/", {"job_hash": other, **who("bob")})
    daemon.finish("bob", other)
    lines = member(answer.content, "/probes.jsonl").decode().splitlines()
    reports = [json.loads(line) for line in lines]
    return {report.pop("probe"): Outcome(**report) for report in reports}


def _hang_up(listener: socket.socket) -> None:
    listener.accept()[0].close()


def named(name: str) -> set[int]:
    """Processes with this in their command line: of this test alone, by what the job's directory is called in it."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and re.search(rb"^(python3\0)?" + name.encode(), (entry / "cmdline").read_bytes()):
                found.add(int(entry.name))
    return found


def _address() -> str:
    """This machine's own on its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
        channel.connect(("192.0.2.1", 9))
        return str(channel.getsockname()[0])
    return "127.0.0.2"


def _free_port() -> int:
    with socket.socket() as channel:
        channel.bind(("127.0.0.1", 0))
        return int(channel.getsockname()[1])


@pytest.fixture(scope="module")
def somewhere() -> Iterator[Path]:
    with accounts(), place() as directory:
        yield directory


@pytest.fixture(scope="module")
def canaries(somewhere: Path) -> Iterator[Canaries]:
    made = Canaries(somewhere / "outside")
    yield made
    made.close()


@contextlib.contextmanager
def running(daemon: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("SCD_CANARY", KEY)
    try:
        yield daemon.start()
    finally:
        daemon.end_everything()


SHAPES = {"sandbox": Plain, "accounts": Gateway}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_probe_gets_out(
    somewhere: Path,
    canaries: Canaries,
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
) -> None:
    with running(SHAPES[shape](somewhere / shape), monkeypatch) as daemon:
        canaries.callers.clear()
        outcomes = attack(daemon, canaries)
        assert (daemon.directory / "cache").stat().st_nlink == 2
    broken = {name: outcome.how for name, outcome in outcomes.items() if outcome.success is None}
    assert broken == {}, "these probes do not work"
    assert len(outcomes) >= 80
    out = {name: outcome.how for name, outcome in outcomes.items() if outcome.success}
    assert out == {}, "these got out"
    assert canaries.callers == [], "somebody was reached"


def test_without_a_sandbox_the_probes_do_get_out(
    somewhere: Path, canaries: Canaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or they would say nothing."""
    with running(Plain(somewhere / "bare", 'isolation = "none"\n'), monkeypatch) as daemon:
        outcomes = attack(daemon, canaries)
    failed = {name: outcome.how for name, outcome in outcomes.items() if outcome.bare and not outcome.success}
    assert failed == {}, "these should have got out"
    assert sum(outcome.bare for outcome in outcomes.values()) >= 45
    surprising = {name: outcome.how for name, outcome in outcomes.items() if not outcome.bare and outcome.success}
    assert surprising == {}, "these are not marked bare"
    assert len(canaries.callers) >= 4


_NODE = """
import json, os, re, signal, time
def parent(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
node = os.getpid()
while parent(node) != 1:
    node = parent(node)
"""
_FORGE = f"""{_NODE}
own = os.environ["SCD_ATTEMPT"]
number = int(re.search("-([0-9]+)[.]1$", own)[1])
forged = dict(type="ended", name=own.replace(f"-{{number}}.1", f"-{{number + 1}}.1"), state="success", archived=True)
time.sleep(3)
for fd in os.listdir(f"/proc/{{node}}/fd"):
    if int(fd) > 2 and os.readlink(f"/proc/{{node}}/fd/{{fd}}").startswith("pipe:"):
        with open(f"/proc/{{node}}/fd/{{fd}}", "wb") as pipe:
            pipe.write(json.dumps(forged).encode())
os.kill(node, signal.SIGKILL)
"""
_FLOOD = f"""{_NODE}
with open(f"/proc/{{node}}/fd/1", "wb") as log:
    for _ in range(32):
        log.write(b"flood " * 2**18)
"""


@pytest.fixture(scope="module")
def plain(somewhere: Path) -> Iterator[Plain]:
    made = Plain(somewhere / "plain")
    try:
        yield made.start()
    finally:
        made.end_everything()


def test_no_node_ends_another_one_that_goes_on_uncharged(plain: Plain) -> None:
    """It speaks in its own process's name, and says that its neighbour has ended."""
    script = f"case $PWD in */work/0) python3 -c '{_FORGE}';; *) sleep 10;; esac"
    options = (f"script={script}", "threads=1")
    response = plain.submit(manifest("workers", *options), collected("workers", *options), **who("alice"))
    assert response.status_code == 200, response.text
    job_hash = response.json()["job_hash"]
    plain.finish("alice", job_hash)
    attempts = plain.rows("SELECT * FROM attempts WHERE job_hash = ? AND step = 'work'", job_hash)
    elapsed = {attempt["index"]: attempt["elapsed"] for attempt in attempts}
    assert 3 <= elapsed.pop("0") < 9, "it was not forged"
    assert len(elapsed) == 3
    assert min(elapsed.values()) >= 10, elapsed


def test_what_nodes_print_does_not_fill_the_disk(plain: Plain) -> None:
    """By the descriptor that the runner's own output goes to, which no limit of the user's counts."""
    job_hash = plain.start_job("alice", f"python3 -c '{_FLOOD}'")
    assert plain.finish("alice", job_hash)["status"] == "completed"
    sizes = [path.stat().st_size for path in (plain.job_directory(job_hash) / "control").glob("runner.log*")]
    assert len(sizes) == 2, "nothing was flooded"
    assert sum(sizes) <= 8 * 2**20
