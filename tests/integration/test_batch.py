"""The batch job of one attempt, started by a shell as Slurm would: what it writes, and that it runs once."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scd.config import load
from scd.executors import places
from scd.launcher import claims
from scd.launcher.base import Work
from scd.launcher.isolation import isolate
from scd.launcher.spec import BatchScripts
from scd.runtimes import Runtimes
from scd.spool import JobDirectory
from scd.states import NodeState

from ..harness import Daemon, Json, wait_until
from .submission import collected, manifest, member

# Its node runs a script of the job's directory that each test writes anew.
SCRIPT = "script=. ../../../../../next.sh"


class Prepared:
    """A job that a daemon has prepared and run, whose node ``work`` is run again and again."""

    def __init__(self, directory: Path):
        self.daemon = Daemon(directory / "scd").start()
        flow = ("work", SCRIPT, "threads=1")
        self.job_hash = str(self.daemon.submit(manifest(*flow), collected(*flow)).json()["job_hash"])
        self.daemon.wait(self.job_hash)
        self.directory = JobDirectory(self.daemon.job_directory(self.job_hash))
        self.scripts = asyncio.run(self._scripts(directory))
        self.attempts = 1

    async def _scripts(self, directory: Path) -> BatchScripts:
        config = load(self.daemon.file)
        runtimes = await Runtimes.probe(config)
        return BatchScripts(config, runtimes, await isolate(config, runtimes, self.daemon.file, directory / "sandbox"))

    def attempt(self, script: str) -> "Attempt":
        (self.directory.work / "next.sh").write_text(script)
        self.attempts += 1
        return Attempt(self, self.attempts)


class Attempt:
    def __init__(self, job: Prepared, number: int):
        self.place = job.directory.control / "slurm" / f"2.{number}"
        assert claims.make(self.place)
        self.output = job.daemon.directory / f"batch-{number}.out"
        self.archive = job.directory.archives / f"2.{number}.tar.gz"
        order = {
            "op": "node", "name": f"scd-{job.job_hash}-2.{number}", "archive": self.archive.name, "step": "work",
            "index": "0", "ancestors": [["get", "0", "success"]],
        }  # fmt: skip
        work = Work(job.directory, job.job_hash, "top", "job0", "default", "")
        self.script = job.scripts.write(work, order, self.place.name)

    def start(self) -> "subprocess.Popen[bytes]":
        """In a session of its own, as slurmstepd does."""
        script = self.output.with_suffix(".sh")
        script.write_text(self.script)
        with open(self.output, "wb") as output:
            return subprocess.Popen(
                ["/bin/sh", str(script)], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, env={"SLURM_JOB_ID": "17", "SECRET": "x"},
            )  # fmt: skip

    def run(self) -> int:
        return self.start().wait(60)

    @property
    def said(self) -> str:
        return self.output.read_text()

    def started(self) -> bool:
        return (self.place / "started.json").exists()

    @property
    def record(self) -> Json:
        found: Json = json.loads((self.place / "ended.json").read_text())
        return found

    def file(self, name: str) -> bytes:
        return member(self.archive.read_bytes(), f"/work/0/{name}")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    made = Prepared(tmp_path_factory.mktemp("batch"))
    yield made
    made.daemon.end_everything()


def test_it_runs_the_node_and_says_how_it_ended(job: Prepared) -> None:
    attempt = job.attempt("sleep 1; env >reports/env.txt; ls /tmp >reports/tmp.txt")
    assert attempt.run() == 0
    record = attempt.record
    assert (record["state"], record["exit_code"], record["archive"], record["job"]) == (
        "success", 0, attempt.archive.name, "17",
    )  # fmt: skip
    assert record["elapsed"] >= 1
    assert b"SECRET" not in attempt.file("reports/env.txt"), "the node sees what the batch job was started with"
    assert b"SLURM" not in attempt.file("reports/env.txt")


def test_a_node_that_fails_is_a_batch_job_that_fails(job: Prepared) -> None:
    attempt = job.attempt("echo before; exit 3")
    assert attempt.run() == 1
    assert attempt.record["state"] == "error"
    assert "signalled" in attempt.record
    assert not attempt.record["signalled"]
    assert b"before" in attempt.file("work.log")


def test_a_second_start_runs_nothing(job: Prepared) -> None:
    attempt = job.attempt("echo run >>../../../../../twice; sleep 2")
    first = attempt.start()
    wait_until(attempt.started, "it did not start")
    before = (attempt.place / "started.json").read_bytes()
    assert attempt.run() == 0
    assert "another start of this attempt came first" in attempt.said
    assert first.wait(60) == 0
    assert attempt.run() == 0, "nor after its end"
    assert (attempt.place / "started.json").read_bytes() == before
    assert (job.directory.work / "twice").read_text() == "run\n"


def test_what_was_given_up_first_never_runs(job: Prepared) -> None:
    attempt = job.attempt("touch ../../../../../never")
    assert claims.give_up(attempt.place, NodeState.ERROR, "cancelled: by alice")
    assert attempt.run() == 0
    assert not (attempt.place / "ended.json").exists()
    assert not (job.directory.work / "never").exists()


def test_term_to_all_of_its_processes_ends_the_node_and_keeps_its_log(job: Prepared) -> None:
    """As Slurm does at a time limit."""
    attempt = job.attempt("echo so far; sleep 300")
    process = attempt.start()
    wait_until(attempt.started, "it did not start")
    time.sleep(1)
    for pid in _descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):  # one may end by another's end
            os.kill(pid, signal.SIGTERM)
    assert process.wait(60) == 1
    assert (attempt.record["state"], attempt.record["signalled"]) == ("error", True)
    assert b"so far" in attempt.file("work.log")


def test_one_that_runs_sees_that_it_was_revoked(job: Prepared) -> None:
    attempt = job.attempt("sleep 300")
    process = attempt.start()
    wait_until(attempt.started, "it did not start")
    assert not claims.give_up(attempt.place, NodeState.ERROR, "cancelled: by alice")
    assert process.wait(60) == 1
    assert (attempt.record["state"], attempt.record["reason"]) == ("error", "cancelled: by alice")


def test_a_node_that_does_not_obey_is_killed(job: Prepared) -> None:
    attempt = job.attempt("trap '' TERM; while :; do sleep 1; done")
    process = attempt.start()
    wait_until(attempt.started, "it did not start")
    time.sleep(1)
    process.terminate()
    assert process.wait(60) == 1
    assert attempt.record["signalled"]
    assert attempt.archive.exists(), "its log was not kept"


def test_it_shows_that_it_lives(job: Prepared) -> None:
    attempt = job.attempt("sleep 300")
    process = attempt.start()
    wait_until(attempt.started, "it did not start")
    beat = places.look(attempt.place, known_started=False).beat
    assert beat is not None
    wait_until(lambda: places.look(attempt.place, known_started=False).beat != beat, "no sign of life", 30)
    process.terminate()
    assert process.wait(60) == 1


def test_one_whose_job_was_deleted_meanwhile_ends(job: Prepared) -> None:
    """It was cut off, given up, and its job is gone when it comes back: nobody reads what it could write."""
    attempt = job.attempt("sleep 300")
    process = attempt.start()
    wait_until(attempt.started, "it did not start")
    shutil.rmtree(attempt.place)
    assert process.wait(60) == 1
    assert not attempt.place.exists()


def test_nothing_of_it_is_left_behind(job: Prepared) -> None:
    attempt = job.attempt("(setsid sleep 4321 &); sleep 1")
    assert attempt.run() == 0
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and b"sleep\x004321" in _command(pid)]


def test_a_directory_that_is_not_there_says_what_to_look_at(job: Prepared) -> None:
    attempt = job.attempt("true")
    attempt.place.rmdir()
    assert attempt.run() == 1
    assert "The spool must be a file system that compute nodes share" in attempt.said


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
