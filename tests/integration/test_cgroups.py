"""Jobs in cgroups of their own, and secrets as credentials, under the real units of a real systemd.

That takes a machine where systemd has the unified hierarchy and the units may be installed: a second one, which the
last test starts and in which it runs the others.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .. import vm
from ..gateway import who
from ..harness import ROOT, RUNTIME, Daemon, wait_until
from .front import certificate
from .submission import collected, manifest, set_value

INSIDE = bool(os.environ.get("SCD_TEST_INSIDE"))
inside = pytest.mark.skipif(not INSIDE, reason="runs in a second machine: test_in_a_machine_with_systemd")

LIMITS = '[local]\ncores = 64\nmemory = "400MiB"\nprocesses = 150\n'
JOBS = Path("/sys/fs/cgroup/scd.slice/scd-jobs.service")
UNITS = Path("/run/systemd/system")
HOG = "python3 -c 'x = bytearray(700 * 2**20)'"
SLOW = 240.0  # everything takes ten times as long there


class Service(Daemon):
    """scd as its unit runs it."""

    def __init__(self, more: str = LIMITS):
        super().__init__(Path("/etc/scd"), more, paths=f'spool = "{self.place}/spool"', state=self.place)
        self.port = 8080
        text = self.file.read_text().replace('user = "root"\n', "").replace("/etc/scd/cache", "/var/cache/scd")
        self.file.write_text(text)
        for path, mode in ((self.directory, 0o755), (self.file, 0o644)):
            path.chmod(mode)
        self.log = Path("/run/scd.log")

    place = Path("/var/lib/scd")

    def start(self) -> "Service":
        systemctl("start", "scd")
        wait_until(lambda: self.answers(), f"it does not answer:\n{self.said()}", timeout=SLOW)
        return self

    def answers(self) -> bool:
        return subprocess.run(["curl", "-sf", f"{self.url}/healthz"], capture_output=True).returncode == 0

    def said(self) -> str:
        return "".join(path.read_text() for path in Path("/run").glob("scd*.log"))

    def begin(self, script: str, **credentials: str) -> str:
        option = f"script={script}"
        cfg = set_value(manifest("work", option), 1, "option", "scheduler", "cores")
        response = self.submit(cfg, collected("work", option), **credentials)
        assert response.status_code == 200, response.text
        return str(response.json()["job_hash"])

    def cgroup_of(self, job_hash: str) -> Path:
        wait_until(lambda: list(JOBS.glob(f"{job_hash}-*")), f"it has no cgroup:\n{self.said()}", timeout=SLOW)
        (found,) = JOBS.glob(f"{job_hash}-*")
        return found

    def end(self, job_hash: str, **credentials: str) -> dict[str, str]:
        return self.wait(job_hash, timeout=SLOW, credentials=credentials)


def systemctl(*command: str) -> None:
    done = subprocess.run(["systemctl", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def units() -> None:
    """The project's, but for what this Python lies in: a home directory perhaps."""
    for account in ("scd", "alice"):
        subprocess.run(["useradd", "--system", "--user-group", account], check=True)
    Path("/root").chmod(0o755)
    for unit in filter(Path.is_file, (ROOT / "systemd").iterdir()):
        (UNITS / unit.name).write_text(unit.read_text())
    for name, module in (("scd", "scd.daemon"), ("scd-launcher", "scd.launcher.service")):
        directory = UNITS / f"{name}.service.d"
        directory.mkdir()
        (directory / "test.conf").write_text(
            f"[Service]\nProtectHome=no\nWorkingDirectory={ROOT}\nTimeoutStartSec=300\n"
            f"ExecStart=\nExecStart={sys.executable} -m {module}\nStandardError=append:/run/{name}.log\n"
        )
    systemctl("daemon-reload")


@pytest.fixture(scope="module")
def service(units: None) -> Service:
    return Service().start()


@inside
def test_it_says_what_limits_there_are(service: Service) -> None:
    assert f"each job has a cgroup of its own in {JOBS}: 400MiB of memory, 150 processes" in service.said()


@inside
def test_a_job_that_takes_too_much_memory_ends_and_says_why(service: Service) -> None:
    neighbour = service.begin("sleep 30; echo unhurt")
    service.wait_for_node(neighbour, "work0", "running", timeout=SLOW)
    hog = service.begin(HOG)
    answer = service.end(hog)
    assert answer["message"] == "work/0 out of memory: the job's limit of 400MiB", answer
    assert service.end(neighbour)["status"] == "completed"


@inside
def test_a_job_is_in_its_cgroup_whole_and_stays_there_when_scd_starts_again(service: Service) -> None:
    job_hash = service.begin(f"sleep 90; {HOG}")
    service.wait_for_node(job_hash, "work0", "running", timeout=SLOW)
    cgroup = service.cgroup_of(job_hash)
    keepers = {service.pid_of(job_hash, kind) for kind in ("shim", "runner", "started")}
    members = {int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()}
    assert keepers < members
    assert cgroup.name.startswith(job_hash)
    systemctl("restart", "scd")
    systemctl("kill", "--signal=KILL", "--kill-whom=main", "scd")
    wait_until(service.answers, f"it does not come again:\n{service.said()}", timeout=SLOW)
    assert service.cgroup_of(job_hash) == cgroup
    assert (cgroup / "memory.max").read_text() == f"{400 * 2**20}\n"
    assert keepers <= {int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()}
    assert service.end(job_hash)["message"] == "work/0 out of memory: the job's limit of 400MiB"


@inside
def test_the_cgroup_goes_with_the_job(service: Service) -> None:
    job_hash = service.begin("true")
    cgroup = service.cgroup_of(job_hash)
    assert service.end(job_hash)["status"] == "completed"
    wait_until(lambda: not cgroup.exists(), "it is still there", timeout=SLOW)
    assert (JOBS / "keeper").exists()


@inside
def test_processes_are_limited_also_for_those_whom_the_kernel_limits_by_nothing_else(service: Service) -> None:
    job_hash = service.begin("for i in $(seq 400); do sleep 20 & done; sleep 25")
    cgroup = service.cgroup_of(job_hash)
    assert (cgroup / "pids.max").read_text() == "158\n"
    most = 0
    deadline = time.monotonic() + SLOW
    while cgroup.exists() and most < 100 and time.monotonic() < deadline:
        most = max(most, int((cgroup / "pids.current").read_text()))
        time.sleep(0.2)
    assert 100 <= most <= 158
    service.end(job_hash)


@inside
def test_jobs_wait_while_their_place_is_gone(service: Service) -> None:
    systemctl("stop", "scd-jobs")
    job_hash = service.begin("true")
    wait_until(lambda: "Start scd-jobs.service" in service.said(), "it does not say so", timeout=SLOW)
    assert service.progress(job_hash)["status"] == "running"
    systemctl("start", "scd-jobs")
    assert service.end(job_hash)["status"] == "completed"


@inside
def test_the_configuration_and_the_certificates_key_as_credentials(service: Service) -> None:
    """As the unit's comments say: both files are root's alone, and scd, which is not root, starts with them."""
    found, key = certificate(service.directory, "scd")
    before = service.file.read_text()
    tls = f'[server]\ntls_certificate = "{found}"\ntls_key = "scd.key"\n'
    service.file.write_text(before.replace("[server]\n", tls))
    for path, mode in ((key, 0o600), (service.file, 0o600), (found, 0o644)):
        path.chmod(mode)
    unit = (ROOT / "systemd" / "scd.service").read_text()
    examples = [line[1:] for line in unit.splitlines() if line.startswith("#LoadCredential=")]
    assert [line.partition(":")[0] for line in examples] == ["LoadCredential=scd.toml", "LoadCredential=scd.key"]
    start = f"ExecStart=\nExecStart={sys.executable} -m scd.daemon -c %d/scd.toml"
    extra = UNITS / "scd.service.d" / "zz-credentials.conf"
    extra.write_text("\n".join(["[Service]", *examples, start, ""]))
    refused = subprocess.run(["setpriv", "--reuid=scd", "--regid=scd", "--clear-groups", "cat", key, service.file],
                             capture_output=True)  # fmt: skip
    assert refused.stdout == b"", "scd's account can read what is root's alone"
    systemctl("daemon-reload")
    try:
        systemctl("restart", "scd")
        asked = ("curl", "-sf", "--cacert", str(found), "https://localhost:8080/healthz")
        wait_until(
            lambda: subprocess.run(asked, capture_output=True).returncode == 0,
            f"it does not answer by TLS:\n{service.said()}", timeout=SLOW,
        )  # fmt: skip
    finally:
        extra.unlink()
        service.file.write_text(before)
        service.file.chmod(0o644)
        systemctl("daemon-reload")
        systemctl("restart", "scd")
    wait_until(service.answers, f"it does not come again:\n{service.said()}", timeout=SLOW)


@inside
def test_with_accounts_too(service: Service) -> None:
    """The launcher makes them, and the account cannot change them."""
    systemctl("stop", "scd.socket", "scd")
    secret = subprocess.run(
        [sys.executable, "-m", "scd.cli.main", "hash-password"], input="alice-secret\n", capture_output=True, text=True
    ).stdout.strip()
    user = f'[users.alice]\npassword_hash = "{secret}"\naccount = "alice"\n'
    gateway = Service(LIMITS + user)
    systemctl("start", "scd-launcher")
    gateway.start()
    assert f"scd-launcher: each job has a cgroup of its own in {JOBS}" in gateway.said()
    job_hash = gateway.begin(f"sleep 20; {HOG}", **who("alice"))
    cgroup = gateway.cgroup_of(job_hash)
    wait_until(lambda: (cgroup / "cgroup.procs").read_text().split(), "nobody is in it", timeout=SLOW)
    assert {path.owner() for path in (JOBS, *cgroup.iterdir())} == {"root"}
    raise_ = f"echo max >{cgroup}/memory.max; echo 0 >{JOBS}/cgroup.procs"
    for account in ("alice", "scd"):
        subprocess.run(["setpriv", f"--reuid={account}", f"--regid={account}", "--clear-groups", "sh", "-c", raise_])
    assert (cgroup / "memory.max").read_text() == f"{400 * 2**20}\n"
    systemctl("restart", "scd-launcher")
    answer = gateway.end(job_hash, **who("alice"))
    assert answer["message"] == "work/0 out of memory: the job's limit of 400MiB", answer


def test_in_a_machine_with_systemd(tmp_path: Path) -> None:
    """All that stands above, and none of it skipped."""
    if INSIDE:
        pytest.skip("this is that machine")
    if reason := vm.why_not():
        pytest.skip(reason)
    command = f"SCD_TEST_INSIDE=1 {sys.executable} -m pytest -p no:cacheprovider -v {Path(__file__).relative_to(ROOT)}"
    status, said = vm.run(command, tmp_path, RUNTIME, cwd=ROOT, timeout=2400)
    assert status == 0, said
    assert re.search(r"8 passed, 1 skipped", said), said
