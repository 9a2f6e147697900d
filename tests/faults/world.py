"""A daemon, its jobs, and the proof of what really ran: each node writes a line into a file of its own."""

import copy
import gzip
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2

from scd.procfs import tree

from ..harness import Daemon, Json
from ..integration.submission import collected, manifest, set_value
from .tally import Tally

FINAL = ("completed", "failed", "canceled", "rejected", "timeout")
_PROOF = "echo $PWD >>$HOME/proof; {then}"  # the one place that a job can write, kept as long as the job


class World:
    """One daemon on a state directory, submissions to it, and what must be true of them at the end."""

    def __init__(self, directory: Path, rng: random.Random, tally: Tally, config: str = "", **options: Any):
        self.rng = rng
        self.tally = tally
        self.daemon = Daemon(directory / "scd", config, **options)
        self.expected: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def manifest(self, flow: str, then: str = "true") -> Json:
        """A job that no other equals. Its scripted nodes prove that they ran, then do ``then``."""
        cfg = copy.deepcopy(manifest(flow, *_options(flow, then)))
        return set_value(cfg, f"j{next(self._numbers)}", "option", "jobname")

    def proofs(self) -> list[str]:
        """The working directories in which a scripted node ran, as often as it ran there."""
        files = (self.daemon.state / "spool" / "jobs").glob("??/*/work/proof")
        return [line for file in files for line in file.read_text().splitlines()]

    def submit(self, flow: str = "workers", then: str = "true", status: str = "completed") -> str | None:
        """Submit as the client does; the hash if it was acknowledged, None if the answer did not come."""
        cfg = self.manifest(flow, then)
        try:
            answer = self.daemon.submit(cfg, collected(flow, *_options(flow, then)))
        except httpx2.TransportError:
            return None
        return self.note(answer, status)

    def note(self, answer: httpx2.Response, status: str = "completed") -> str | None:
        """An answer to a submission: a hash is a promise, anything else must be an honest refusal."""
        if answer.status_code != 200:
            self.tally.expect(answer.status_code in (400, 500, 503, 507), f"remote_run: {answer.status_code}")
            self.tally.expect("Traceback" not in answer.text, "a traceback was shown")
            return None
        job_hash = str(answer.json()["job_hash"])
        self.expected[job_hash] = status
        self.tally.acknowledged += 1
        return job_hash

    def unfinished(self) -> list[str]:
        rows = self.daemon.rows(f"SELECT job_hash FROM jobs WHERE state NOT IN {FINAL}")
        return [row["job_hash"] for row in rows]

    def journals(self) -> Iterator[tuple[str, list[Json]]]:
        for path in (self.daemon.state / "spool" / "jobs").glob("??/*/control/events.jsonl"):
            yield path.parts[-3], self.daemon.journal(path.parts[-3])

    def live_nodes(self) -> dict[int, tuple[str, str]]:
        """The processes of nodes that run now: job and attempt by pid."""
        found = {}
        for job_hash, records in self.journals():
            ended = {record["name"] for record in records if record["type"] == "ended"}
            for record in records:
                if record["type"] == "started" and record["name"] not in ended and alive(record["pid"]):
                    found[int(record["pid"])] = (job_hash, record["name"])
        return found

    def settle(self, timeout: float = 120) -> None:
        """Wait for the end of all jobs, then compare what was promised with what is."""
        deadline = time.monotonic() + timeout
        while self.unfinished() and time.monotonic() < deadline:
            time.sleep(0.1)
        for job_hash in self.unfinished():
            self.tally.blame("lost", f"job {job_hash} never ended")
        for job_hash, status in self.expected.items():
            answer = self.daemon.progress(job_hash)
            while answer.get("status") == "running":  # the last node states are told in this form
                answer = self.daemon.progress(job_hash)
            if answer["code"] == 404:
                self.tally.blame("lost", f"job {job_hash} is unknown")
            elif answer["status"] != status:
                self.tally.blame("wrong", f"job {job_hash} is {answer['status']} ({answer['message']}), not {status}")
        self.check_nodes()
        self.check_archives()

    def check_nodes(self) -> None:
        """No node ran twice, by its own word, the journal's, and the database's."""
        for place, times in Counter(self.proofs()).items():
            if times > 1:
                self.tally.blame("doubled", f"{place} ran {times} times")
        for job_hash, records in self.journals():
            names = Counter(record["name"] for record in records if record["type"] == "started")
            for name, times in names.items():
                if times > 1:
                    self.tally.blame("doubled", f"{job_hash}: {name} was started {times} times")
        for row in self.daemon.rows("SELECT * FROM nodes WHERE attempt > 1"):
            self.tally.blame("doubled", f"{row['job_hash']}.{row['step']}/{row['index']}: {row['attempt']} attempts")

    def check_archives(self) -> None:
        """Whatever is served is whole, and no success is without its archive."""
        rows = self.daemon.rows("SELECT job_hash, step, state, archive FROM attempts WHERE state IS NOT NULL")
        for row in rows:
            what = f"{row['job_hash']}: the archive of {row['step'] or 'the set-up'}"
            if row["archive"] is None:
                self.tally.expect(row["state"] != "success", f"{what} is missing, and it is a success")
                continue
            path = self.daemon.job_directory(row["job_hash"]) / "archives" / row["archive"]
            if path.parent.exists():
                self.tally.expect(whole(path), f"{what} is damaged")

    def check_tidy(self) -> None:
        """Nothing is left of what failed: staging is empty, disk and database fit together."""
        left = list((self.daemon.state / "spool" / "staging").iterdir())
        self.tally.expect(not left, f"left in staging: {left}")
        done = subprocess.run(
            [sys.executable, "-m", "scd.cli.main", "-c", str(self.daemon.file), "check"], capture_output=True, text=True
        )
        self.tally.expect(done.returncode == 0, f"scdctl check: {done.stdout}{done.stderr}")

    def close(self) -> None:
        self.daemon.end_everything()


def _options(flow: str, then: str) -> list[str]:
    return [f"script={_PROOF.format(then=then)}"] if flow in ("work", "workers") else []


class Canaries:
    """Processes of nobody's concern: whoever signals one of them has mistaken its pid."""

    def __init__(self, count: int = 8):
        self._sleepers = [subprocess.Popen(["sleep", "7777"], start_new_session=True) for _ in range(count)]

    def check(self, tally: Tally) -> None:
        for sleeper in self._sleepers:
            tally.expect(sleeper.poll() is None, f"a foreign process (pid {sleeper.pid}) was ended")

    def close(self) -> None:
        for sleeper in self._sleepers:
            sleeper.kill()
            sleeper.wait()


class Strace:
    """Injects into a process that runs: ``inject`` is as in ``strace -e inject=``. Not into what it execs."""

    def __init__(self, pid: int, syscall: str, inject: str, log: Path):
        self.log = log
        self._process = subprocess.Popen(
            ["strace", "-f", "-b", "execve", "-p", str(pid), "-o", str(log), "-e", f"trace={syscall}",
             "-e", f"inject={syscall}:{inject}"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stderr is not None
        self._process.stderr.readline()  # "Process N attached"

    def stop(self) -> int:
        """Detach; how often it struck."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self._process.communicate()
        text = self.log.read_text() if self.log.exists() else ""
        return text.count("(INJECTED)") + text.count("+++ killed by SIGKILL +++") // max(1, text.count("SIGKILL") or 1)


def have_strace() -> bool:
    return shutil.which("strace") is not None


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def kill(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until(condition: Callable[[], object], timeout: float = 30) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def family(pid: int) -> set[int]:
    return tree(pid)


def whole(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            while file.read(2**20):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True
