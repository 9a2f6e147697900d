"""A daemon, submissions to it, and the proof of what really ran: each scripted node writes a line where it ran."""

import copy
import gzip
import itertools
import random
import re
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from ..harness import Daemon, Json
from ..integration.submission import collected, manifest, set_value
from .inject import alive, eventually
from .tally import Tally

FINAL = ("completed", "failed", "canceled", "rejected", "timeout")
PROOF = "echo $PWD >>../../../ran; {then}"  # beside the nodes' directories, which SiliconCompiler makes anew
_SCRIPTED = {"work": 1, "workers": 4}  # nodes that leave a proof


class World:
    """One daemon on a state directory, what it promised, and whether that is what came of it."""

    def __init__(self, directory: Path, rng: random.Random, tally: Tally, config: str = "", **options: Any):
        self.directory = directory
        self.rng = rng
        self.tally = tally
        directory.mkdir(parents=True, exist_ok=True)
        self.daemon = Daemon(directory / "scd", config, **{"paths": 'min_free = "0"', **options})
        self.promised: dict[str, str] = {}  # the final status of each acknowledged job, "" if any true one will do
        self.failing = False  # system calls fail: an answer may be 500
        self.retries = 0  # as configured
        self._submitted: dict[str, Json] = {}
        self._numbers = itertools.count(1)
        self._background: list[threading.Thread] = []

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.end_everything()

    # -- submissions

    def manifest(self, flow: str, then: str = "true", *options: str) -> Json:
        """A job that no other equals. Its scripted nodes prove that they ran, then do ``then``."""
        cfg = copy.deepcopy(manifest(flow, *_options(flow, then, options)))
        return set_value(cfg, f"j{next(self._numbers)}", "option", "jobname")

    def again(self, job_hash: str, to: str = "") -> Json:
        """The manifest to resume a job with, in part or whole."""
        cfg = copy.deepcopy(self._submitted[job_hash])
        if to:
            cfg["option"]["to"]["node"]["*"] = {"*": {"value": [to], "signature": [None]}}
        return cfg

    def submit(self, flow: str = "workers", then: str = "true", status: str = "completed", *options: str) -> str | None:
        """Submit as the client does; the hash if it was acknowledged, None if it was refused or not answered."""
        cfg = self.manifest(flow, then, *options)
        try:
            answer = self.daemon.submit(cfg, collected(flow, *_options(flow, then, options)))
        except httpx2.TransportError:
            return None
        job_hash = self.note(answer, status)
        if job_hash is not None:
            self._submitted[job_hash] = cfg
        return job_hash

    def submit_aside(self, flow: str, then: str = "true") -> None:
        """``submit`` beside what goes on; ``join`` waits for it."""
        thread = threading.Thread(target=self.submit, args=(flow, then))
        self._background.append(thread)
        thread.start()

    def join(self) -> None:
        while self._background:
            self._background.pop().join()

    def note(self, answer: httpx2.Response, status: str = "completed") -> str | None:
        """An answer to a submission: a hash is a promise, anything else must be an honest refusal."""
        if answer.status_code != 200:
            self.tally.facts["submissions refused"] += 1
            self.tally.expect(answer.json()["message"], f"remote_run: {answer.status_code} without a word")
            honest = answer.status_code in (503, 507) or (answer.status_code == 500 and self.failing)
            self.tally.expect(honest, f"remote_run: {answer.status_code} {answer.text}")
            self.tally.expect("Traceback" not in answer.text, "a traceback was shown")
            return None
        job_hash = str(answer.json()["job_hash"])
        self.tally.expect(job_hash not in self.promised, f"two submissions were given one hash {job_hash}")
        self.promised[job_hash] = status
        self.tally.acknowledged += 1
        return job_hash

    # -- what there is

    def jobs(self) -> dict[str, str]:
        return {row["job_hash"]: row["state"] for row in self.daemon.rows("SELECT job_hash, state FROM jobs")}

    def unfinished(self) -> list[str]:
        return [job_hash for job_hash, state in self.jobs().items() if state not in FINAL]

    def journals(self) -> Iterator[tuple[str, list[Json]]]:
        for path in self.daemon.jobs.glob("??/*/control/events.jsonl"):
            yield path.parts[-3], self.daemon.journal(path.parts[-3])

    def live_nodes(self) -> dict[int, tuple[str, str]]:
        """The processes of nodes and preparations that run now: job and attempt by pid."""
        found = {}
        for job_hash, records in self.journals():
            ended = {record["name"] for record in records if record["type"] == "ended"}
            for record in records:
                if record["type"] == "started" and record["name"] not in ended and alive(record["pid"]):
                    found[int(record["pid"])] = (job_hash, record["name"])
        return found

    def ended(self) -> set[str]:
        """The attempts that a shim saw end."""
        return {record["name"] for _, records in self.journals() for record in records if record["type"] == "ended"}

    def proofs(self) -> Counter[str]:
        """How often each scripted node ran, by its directory."""
        lines: list[str] = []
        for path in self.daemon.jobs.glob("??/*/work/*/*/ran"):
            lines += path.read_text().splitlines()
        return Counter(lines)

    # -- what must be true

    def expect_adopted(self, live: dict[int, tuple[str, str]]) -> None:
        """What ran before the daemon died runs on, or has ended by itself."""
        self.tally.facts["live nodes at a kill"] += len(live)
        for pid, (job_hash, name) in live.items():
            there = eventually(lambda: alive(pid) or name in self.ended(), 5)  # noqa: B023 - called in this round
            self.tally.expect(there, f"{job_hash}: {name} (pid {pid}) did not survive the daemon")

    def settle(self, timeout: float = 180) -> None:
        """Wait for the end of all jobs, then compare what was promised with what is."""
        self.join()
        eventually(lambda: not self.unfinished(), timeout)
        for job_hash in self.unfinished():
            self.tally.lose(f"job {job_hash} never ended")
        for job_hash, status in self.promised.items():
            self._check_answer(job_hash, status)
        for job_hash, state in self.jobs().items():
            self._check_status(job_hash, state)
        self._check_runs()
        self._check_archives()

    def _check_answer(self, job_hash: str, status: str) -> None:
        answer = self.daemon.progress(job_hash)
        deadline = time.monotonic() + 20
        while answer.get("status") == "running" and time.monotonic() < deadline:
            answer = self.daemon.progress(job_hash)  # the last node states, and the reason, are told in this form
        if answer["code"] == 404:
            self.tally.lose(f"job {job_hash} is unknown")
        elif answer["status"] != (status or answer["status"]):
            self.tally.expect(False, f"job {job_hash} is {answer['status']} ({answer['message']}), not {status}")

    def _check_status(self, job_hash: str, state: str) -> None:
        """Completed is a job of which all went well, and no other; who did not complete says why."""
        nodes = self.daemon.rows("SELECT step, state, attempt FROM nodes WHERE job_hash = ?", job_hash)
        good = bool(nodes) and all(node["state"] in ("success", "skipped") for node in nodes)
        if state in FINAL:
            self.tally.expect((state == "completed") == good, f"job {job_hash} is {state}, its nodes: {nodes}")
        (row,) = self.daemon.rows("SELECT reason FROM jobs WHERE job_hash = ?", job_hash)
        self.tally.expect(row["reason"] or state not in FINAL or good, f"job {job_hash} is {state} without a reason")

    def _check_runs(self) -> None:
        """No node ran twice, by its own word, by the journal's, and by the database's; each success did run."""
        proofs = self.proofs()
        for place, times in proofs.items():
            if times > 1 + self.retries:
                self.tally.double(f"{place} ran {times} times")
        for job_hash, records in self.journals():
            names = Counter(record["name"] for record in records if record["type"] == "started")
            for name in (name for name, times in names.items() if times > 1):
                self.tally.double(f"{job_hash}: {name} was started {names[name]} times")
        for row in self.daemon.rows('SELECT job_hash, step, "index", state, attempt FROM nodes'):
            where = f"{row['job_hash']}.{row['step']}/{row['index']}"
            if row["attempt"] > 1 + self.retries:
                self.tally.double(f"{where}: {row['attempt']} attempts")
            if row["step"] == "work" and row["state"] == "success":
                ran = any(re.search(rf"/{row['job_hash']}/.*/work/{row['index']}$", place) for place in proofs)
                self.tally.expect(ran, f"{where} is a success and never ran")
        self.tally.facts["nodes run"] += sum(proofs.values())

    def expect_logs(self) -> None:
        """Of each node that began, however it was lost, there is an archive with what it left."""
        for row in self.daemon.rows(
            "SELECT name, reason FROM attempts WHERE step <> '' AND started IS NOT NULL AND archive IS NULL"
        ):
            self.tally.expect(False, f"{row['name']} ({row['reason']}) left no logs")

    def _check_archives(self) -> None:
        """Whatever is served is whole, and no success is without its archive."""
        for row in self.daemon.rows("SELECT job_hash, step, state, archive FROM attempts WHERE state IS NOT NULL"):
            what = f"{row['job_hash']}: the archive of {row['step'] or 'the set-up'}"
            if row["archive"] is None:
                self.tally.expect(row["state"] != "success", f"{what} is missing, and it is a success")
                continue
            directory = self.daemon.job_directory(row["job_hash"]) / "archives"
            if directory.exists():
                self.tally.expect(whole(directory / row["archive"]), f"{what} is damaged")

    def expect_tidy(self) -> None:
        """Nothing is left of what failed or is over: no process, nothing in staging; disk and database agree."""
        staging = self.daemon.state / "spool" / "staging"
        self.tally.expect(eventually(lambda: not list(staging.iterdir()), 15), "something is left in staging")
        left = eventually(lambda: self.daemon.processes() <= {self.daemon.pid}, 15)
        self.tally.expect(left, f"processes are left of jobs that ended: {self.daemon.processes()}")
        done = subprocess.run(
            [sys.executable, "-m", "scd.cli.main", "-c", str(self.daemon.file), "check"], capture_output=True, text=True
        )
        self.tally.expect(done.returncode == 0, f"scdctl check: {done.stdout}{done.stderr}")


def _options(flow: str, then: str, options: tuple[str, ...]) -> tuple[str, ...]:
    return (*options, f"script={PROOF.format(then=then)}", "threads=1") if flow in _SCRIPTED else options


class Canaries:
    """Processes of nobody's concern: whoever ends one has mistaken its pid."""

    def __init__(self, tally: Tally, number: int = 8):
        self._tally = tally
        self._sleepers = [subprocess.Popen(["sleep", "7777"], start_new_session=True) for _ in range(number)]

    def __enter__(self) -> list[int]:
        return [sleeper.pid for sleeper in self._sleepers]

    def __exit__(self, *_: object) -> None:
        for sleeper in self._sleepers:
            self._tally.expect(sleeper.poll() is None, f"a foreign process (pid {sleeper.pid}) was ended")
            sleeper.kill()
            sleeper.wait()


def whole(path: Path) -> bool:
    """Whether it is a gzip tar to its last byte."""
    try:
        with gzip.open(path) as plain, tarfile.open(fileobj=plain) as tar:
            for _ in tar:
                pass
            while plain.read(2**20):
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError):
        return False
    return True
