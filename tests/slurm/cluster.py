"""A private Slurm cluster on this machine: munged, slurmctld and several slurmd in one directory, on free ports.

``python -m tests.slurm.cluster`` starts one to play with, says how to use it, and stops it at the end of its input.
Nodes, cores and memory are claims of the configuration: the nodes are all this machine. It has no accounting, no
cgroups and needs no systemd; it must be started by root, since slurmd becomes whoever submitted.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

NODES = 4
CORES = 8  # of each node
MEMORY = 4000  # MiB of each node
_UP_WITHIN = 60.0
_DOWN_WITHIN = 20.0
_DAEMONS = ("munged", "slurmctld", "slurmd")

# Times are short, so that tests see what a site sees in minutes.
_CONFIG = """\
ClusterName=scdtest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthInfo=socket={directory}/munge/socket
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/slurmctld.lock
SlurmdPidFile={directory}/%n.lock
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
DefMemPerCPU={memory_per_core}
Licenses=execute:1
ReturnToService=2
KillWait=5
MinJobAge=20
SlurmdTimeout=10
MessageTimeout=5
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_min_interval=50000,sched_interval=2
"""


class Cluster:
    """Ended daemons can be started again under their names: slurmctld, munged, node1 and so on."""

    def __init__(self, directory: Path, extra: Sequence[str] = (), under: Sequence[str] = ()):
        """``extra``: further lines of slurm.conf; of a key that is there twice, the last value holds.

        ``under``: what is put before the command of each slurmd.
        """
        self.directory = directory
        self._under = under
        self.config = directory / "slurm.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._odd: set[str] = set()  # daemons that were started in another way than usual
        for name in ("state", "spool", "munge"):
            (directory / name).mkdir(parents=True)
        (directory / "munge").chmod(0o755)
        key = directory / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        if _version() >= (23, 11):  # a slurmd that wants a plugin for cgroups also where nothing uses them
            (directory / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        self._write_config(extra)

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find this cluster."""
        return {"SLURM_CONF": str(self.config)}

    def start(self) -> "Cluster":
        self.launch("munged")
        self._until("munged", lambda: self._run("munge", "-n", "-S", f"{self.directory}/munge/socket"))
        self.launch("slurmctld")
        self._until("slurmctld", lambda: self._run("scontrol", "ping"))
        for number in range(1, NODES + 1):
            self.launch(f"node{number}")
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        """Until every node can take jobs."""
        shown = ("sinfo", "-h", "-N", "-p", "compute", "-o", "%t")
        self._until("slurmctld", lambda: self.output(*shown).split().count("idle") == NODES)

    def wait_until_it_answers(self) -> None:
        self._until("slurmctld", lambda: self._run("squeue"))

    def mend(self) -> None:
        """As it was at first, whatever a test has done to it; no jobs."""
        for name, process in self._processes.items():
            process.send_signal(signal.SIGCONT)
            if process.poll() is None and name in self._odd:
                self.kill(name, signal.SIGTERM)
            if process.poll() is not None:
                self.launch(name)
        self.wait_until_it_answers()
        self.cancel_all()
        self._run("scontrol", "update", "partitionname=compute", "state=up")
        self._run("scontrol", "update", f"nodename=node[1-{NODES}]", "state=resume")
        self.wait_until_ready()

    def launch(self, name: str, under: Sequence[str] = ()) -> None:
        """Start one daemon of the cluster, ``under`` what is put before its command."""
        place = self.directory / "munge"
        argv = {
            "munged": ["munged", "--foreground", "--force", f"--key-file={self.directory}/munge.key",
                       f"--socket={place}/socket", f"--pid-file={place}/pid", f"--log-file={place}/log",
                       f"--seed-file={place}/seed"],
            "slurmctld": ["slurmctld", "-D", "-f", str(self.config)],
        }.get(name, [*self._under, "slurmd", "-D", "-N", name, "-f", str(self.config)])  # fmt: skip
        (self._odd.add if under else self._odd.discard)(name)
        with open(self.directory / f"{name}.out", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [*under, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(),
                start_new_session=True,
            )  # fmt: skip

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one daemon; return once it has ended, if it was to end."""
        process = self._processes[name]
        process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            process.wait(_DOWN_WITHIN)

    def stop(self) -> None:
        """End all jobs, then the daemons: a job's slurmstepd outlives its slurmd otherwise."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
        self.cancel_all()
        self.cancel_all("--full", "--signal=KILL")
        deadline = time.monotonic() + _DOWN_WITHIN
        while self._steps() and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in self._steps():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for name in sorted(self._processes, key=lambda name: (not name.startswith("node"), name == "munged")):
            process = self._processes[name]
            process.terminate()
            try:
                process.wait(_DOWN_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def output(self, *argv: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(argv, capture_output=True, text=True, env=self._environment(), timeout=60)
        return done.stdout + done.stderr

    def jobs(self) -> list[dict[str, str]]:
        """Every job that Slurm knows of: id, name, state."""
        lines = self.output("squeue", "-h", "-t", "all", "-o", "%A %j %T").splitlines()
        return [dict(zip(("id", "name", "state"), line.split(), strict=True)) for line in lines]

    def cancel_all(self, *how: str) -> None:
        """Whoever they belong to."""
        if ids := self.output("squeue", "-h", "-o", "%A").split():
            self._run("scancel", *how, *ids)

    def _run(self, *argv: str) -> bool:
        try:
            return subprocess.run(argv, capture_output=True, env=self._environment(), timeout=20).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _until(self, name: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _UP_WITHIN
        while not condition():
            if time.monotonic() > deadline or self._processes[name].poll() is not None:
                logs = [self.directory / f"{name}.out", self.directory / f"{name}.log"]
                said = "\n".join(path.read_text()[-2000:] for path in logs if path.exists())
                self.stop()
                raise RuntimeError(f"{name} did not come up:\n{said}")
            time.sleep(0.1)

    def _steps(self) -> set[int]:
        """The slurmstepd processes of this cluster's jobs: each has a socket in its node's directory."""
        mark = f"SLURM_CONF={self.config}".encode()
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if (entry / "comm").read_text().strip() == "slurmstepd" and mark in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
        return found

    def _environment(self) -> dict[str, str]:
        return {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C", **self.environment}

    def _write_config(self, extra: Sequence[str]) -> None:
        port = _free_ports(NODES + 1)
        host = socket.gethostname().partition(".")[0]
        lines = [_CONFIG.format(directory=self.directory, host=host, port=port, memory_per_core=MEMORY // CORES)]
        lines += [
            f"NodeName=node{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + number} CPUs={CORES} Sockets=1 "
            f"CoresPerSocket={CORES} ThreadsPerCore=1 RealMemory={MEMORY} State=UNKNOWN"
            for number in range(1, NODES + 1)
        ]
        lines += [
            f"PartitionName=compute Nodes=node[1-{NODES}] Default=YES MaxTime=2:00:00 DefaultTime=0:10:00",
            f"PartitionName=bigmem Nodes=node{NODES} MaxTime=1-00:00:00 DefaultTime=0:10:00",
            *extra,
        ]
        self.config.write_text("\n".join(lines) + "\n")


def why_not() -> str:
    """Why no cluster can be started here; empty if one can."""
    if os.geteuid() != 0:
        return "only root can start slurmd"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [name for name in (*_DAEMONS, "sbatch", "munge") if shutil.which(name, path=path) is None]:
        return f"{', '.join(missing)} not installed (Debian: apt-get install slurmctld slurmd slurm-client munge)"
    return ""


@contextlib.contextmanager
def cluster(extra: Sequence[str] = (), under: Sequence[str] = ()) -> Iterator[Cluster]:
    """A started cluster in a directory of its own that all accounts can read, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="scd-slurm-"))
    directory.chmod(0o755)
    made = Cluster(directory, extra, under)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _version() -> tuple[int, ...]:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    text = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, env={"PATH": path}).stdout
    return tuple(int(part) for part in text.split()[-1].split(".")[:2])


def _free_ports(count: int) -> int:
    """The first of a run of free ports, below those that outgoing connections take."""
    for base in range(10000 + os.getpid() * 16 % 20000, 32000, count):
        if all(_is_free(port) for port in range(base, base + count)):
            return base
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def main() -> None:
    if reason := why_not():
        sys.exit(reason)
    with cluster(sys.argv[1:]) as made:
        print(made.output("sinfo"), f"export SLURM_CONF={made.config}", sep="\n", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
