"""A gateway on a cluster: scd and a scd-launcher whose Slurm commands a test can replace, and jobs that have accounts.

``carol``, who has no account of her own, shares NOBODYS.
"""

import os
from pathlib import Path

from ..gateway import NOBODYS, Gateway, password_hash, who
from ..harness import Json, wait_until
from .cluster import Cluster
from .site import COUNT, MIXED

_PATIENCE = 120.0


class OnSlurm(Gateway):
    def __init__(self, directory: Path, slurm: Cluster, dispatch: str = MIXED, more: str = ""):
        """``more``: lines of its ``[slurm]``."""
        self.slurm = slurm
        self.commands = directory / "commands"
        self.commands.mkdir(parents=True)
        self.everybodys = directory / "everybodys"
        self.everybodys.mkdir()
        self.everybodys.chmod(0o777)
        super().__init__(
            directory,
            f"""\
account = "{NOBODYS}"
[dispatch]
{dispatch}
[slurm]
conf = "{slurm.config}"
poll_interval = "2s"
record_timeout = 15
max_cores = 4
allow_options = ["--constraint"]
{more}
[users.carol]
password_hash = "{password_hash("carol")}"
""",
        )

    def start_launcher(self) -> None:
        """It finds what is in ``commands`` before Slurm's own."""
        self.environment = {**os.environ, "PATH": f"{self.commands}:{os.environ['PATH']}"}
        super().start_launcher()

    def replace(self, command: str, script: str) -> None:
        path = self.commands / command
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def restore(self, command: str) -> None:
        (self.commands / command).unlink()

    def attempt(self, job_hash: str, step: str = "work") -> Json:
        return self.rows("SELECT * FROM attempts WHERE job_hash = ? AND step = ? ORDER BY attempt", job_hash, step)[-1]

    def place(self, job_hash: str, step: str = "work") -> Path:
        """The directory of a node's newest attempt."""
        name = str(self.attempt(job_hash, step)["name"])
        return self.job_directory(job_hash) / "control" / "slurm" / name.rpartition("-")[2]

    def finish(self, user: str, job_hash: str) -> Json:
        return self.wait(job_hash, _PATIENCE, who(user))

    def running(self, user: str, script: str) -> str:
        job_hash = self.start_job(user, f"{COUNT}; {script}")
        wait_until(
            lambda: self.node_state(job_hash) == "running", f"it never ran:\n{self.logs()}", _PATIENCE
        )  # fmt: skip
        return job_hash
