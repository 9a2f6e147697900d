"""A site: a cluster, and a daemon on it whose Slurm commands a test can replace."""

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from ..harness import Daemon, Json, wait_until
from ..integration.submission import collected, manifest
from . import limit
from .cluster import Cluster

# Each run of a node leaves a line where no later run clears it away.
COUNT = "echo run >>../../../../../runs"
_PATIENCE = 90.0
slow = pytest.mark.skipif(not os.environ.get("SCD_TEST_SLOW"), reason="takes long: run it by make slurm")
# The preparation and the step work go to Slurm; what else there is would only take time.
MIXED = 'default = "local"\n[[dispatch.route]]\nstep = "work"\nexecutor = "slurm"'


class Site:
    def __init__(self, cluster: Cluster, directory: Path):
        self.cluster = cluster
        self.directory = directory
        self.commands = directory / "commands"
        self.commands.mkdir()
        self._daemons: list[Daemon] = []

    def daemon(self, slurm: str = "", dispatch: str = MIXED, record_timeout: int = 15) -> Daemon:
        """A started daemon. ``slurm``: lines of its ``[slurm]``."""
        config = (
            f'[dispatch]\n{dispatch}\n[slurm]\nconf = "{self.cluster.config}"\npoll_interval = "2s"\n'
            f"record_timeout = {record_timeout}\n{slurm}\n"
        )
        made = Daemon(self.directory / f"scd{len(self._daemons)}", config)
        self._daemons.append(made)
        return self.start(made)

    def start(self, daemon: Daemon) -> Daemon:
        daemon.spawn(env={"PATH": f"{self.commands}:{os.environ['PATH']}"})
        return daemon.wait_until_ready()

    def replace(self, command: str, script: str) -> None:
        """From now on scd finds this shell script under the command's name; ``$real`` is the command itself."""
        path = self.commands / command
        aside = path.with_suffix(".new")
        aside.write_text(f"#!/bin/sh\nreal=/usr/bin/{command}\nhere={self.directory}\n{script}\n")
        aside.chmod(0o755)
        aside.rename(path)

    def limit_requests(self, burst: int, refill: int) -> None:
        """From now on Slurm answers ``burst`` requests at once, then ``refill`` a second; ``limit`` has the details."""
        for command in ("sbatch", "squeue", "scancel", "scontrol", "sinfo"):
            self.replace(command, f'exec {sys.executable} -I -S {limit.__file__} $here {burst} {refill} {command} "$@"')

    def refused(self) -> list[str]:
        """Requests that were too many."""
        return lines(self.directory / limit.REFUSED)

    def sent(self, command: str) -> int:
        """Requests of a command that were answered."""
        return sum(line.split()[1] == command for line in lines(self.directory / limit.SENT))

    def restore(self, command: str) -> None:
        (self.commands / command).unlink()

    def end(self) -> None:
        for daemon in self._daemons:
            daemon.end_everything()
        self.cluster.output("scancel", "--user=root")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def submit(daemon: Daemon, flow: str, *options: str) -> str:
    response = daemon.submit(manifest(flow, *options), collected(flow, *options))
    assert response.status_code == 200, response.text
    return str(response.json()["job_hash"])


def working(daemon: Daemon, script: str, *options: str) -> str:
    """A job whose node ``work`` runs ``script``, and has begun."""
    job_hash = submit(daemon, "work", f"script={COUNT}; {script}", "threads=1", "to=work", *options)
    daemon.wait_for_node(job_hash, "work0", "running", _PATIENCE)
    return job_hash


def once(daemon: Daemon, *options: str) -> str:
    """A job whose node ``work`` is over at once."""
    return submit(daemon, "work", f"script={COUNT}", "threads=1", "to=work", *options)


def runs(daemon: Daemon, job_hash: str) -> int:
    """How often the script of the node ``work`` was run."""
    path = daemon.job_directory(job_hash) / "work" / "runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


def finish(daemon: Daemon, job_hash: str, timeout: float = _PATIENCE) -> str:
    return str(daemon.wait(job_hash, timeout)["status"])


def node(daemon: Daemon, job_hash: str, step: str = "work") -> Json:
    return daemon.rows("SELECT * FROM nodes WHERE job_hash = ? AND step = ?", job_hash, step)[0]


def attempts(daemon: Daemon, job_hash: str, step: str = "work") -> list[Json]:
    return daemon.rows("SELECT * FROM attempts WHERE job_hash = ? AND step = ? ORDER BY attempt", job_hash, step)


def job(daemon: Daemon, job_hash: str) -> Json:
    return daemon.rows("SELECT * FROM jobs WHERE job_hash = ?", job_hash)[0]


def slurm_jobs(cluster: Cluster, name: str) -> list[dict[str, str]]:
    return [found for found in cluster.jobs() if found["name"] == name]


def processes_of(handle: str) -> set[int]:
    """The batch job itself, and Slurm's own process around it; what is in the sandbox ends with them."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            line, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            is_batch = f"SLURM_JOB_ID={handle}".encode() in environment.split(b"\0")
            if is_batch or line.startswith(f"slurmstepd: [{handle}.".encode()):
                found.add(int(entry.name))
    return found


def wait_for_submission(daemon: Daemon, cluster: Cluster, job_hash: str, step: str = "work") -> str:
    """The Slurm job's id of a node's newest attempt."""

    def found() -> list[dict[str, str]]:
        rows = attempts(daemon, job_hash, step)
        return slurm_jobs(cluster, rows[-1]["name"]) if rows else []

    wait_until(found, f"{step} was not submitted", _PATIENCE)
    return found()[-1]["id"]


def said_while_running(daemon: Daemon, job_hash: str, words: str, timeout: float = _PATIENCE) -> None:
    """Poll as a client does until it is told a text with these words."""
    deadline = time.monotonic() + timeout
    told: list[object] = []
    while time.monotonic() < deadline:
        answer: Mapping[str, object] = daemon.progress(job_hash)
        if isinstance(answer["message"], str):
            told.append(answer["message"])
            if words in answer["message"]:
                return
        assert answer["status"] == "running", f"the job ended, and nobody said {words!r}, but {told}"
    raise AssertionError(f"nobody said {words!r} within {timeout} s, but {told}")
