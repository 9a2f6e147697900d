"""The batteries against a real daemon, and what the daemon holds before and after."""

import dataclasses
import os
import time
from collections.abc import Iterable
from pathlib import Path

from ..harness import Daemon
from ..integration.submission import leftovers
from . import words
from .batteries import SMALL_IMPORT, stream
from .judge import Count, Judge
from .wire import NoAnswer, Request, Wire

_SETTLE = 20.0  # seconds until what was broken off is gone
_SPARE_FDS = 4
_SPARE_THREADS = 4


@dataclasses.dataclass
class Holdings:
    """What a process has open, and what lies in its staging."""

    descriptors: int
    threads: int
    memory: int  # bytes of resident memory
    staged: int
    shims: int  # of jobs, which nothing here should start

    @classmethod
    def of(cls, daemon: Daemon) -> "Holdings":
        process = Path(f"/proc/{daemon.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return cls(
            descriptors=len(os.listdir(process / "fd")), threads=int(status["Threads"]),
            memory=int(status["VmRSS"].split()[0]) * 1024, staged=len(leftovers(daemon.state / "spool")),
            shims=len(list((daemon.state / "spool" / "jobs").glob("??/*/control/shim.sock"))),
        )  # fmt: skip

    def leaks_since(self, before: "Holdings") -> list[str]:
        found = []
        if self.descriptors > before.descriptors + _SPARE_FDS:
            found.append(f"{self.descriptors} descriptors are open, and there were {before.descriptors}")
        if self.threads > before.threads + _SPARE_THREADS:
            found.append(f"{self.threads} threads run, and there were {before.threads}")
        if self.staged:
            found.append(f"{self.staged} directories are left in staging")
        if self.shims > before.shims:
            found.append(f"{self.shims} shims run, and there were {before.shims}")
        return found


def known_jobs(daemon: Daemon) -> list[str]:
    """Hashes of jobs that are there: so that requests reach further than to "no such job"."""
    answers = [daemon.submit(words.manifest(jobname=f"known{n}"), SMALL_IMPORT) for n in range(3)]
    return [str(answer.json()["job_hash"]) for answer in answers]


def send_all(port: int, name: str, requests: Iterable[Request], judge: Judge) -> Count:
    count = Count(name)
    with Wire(port) as wire:
        for request in requests:
            send(wire, request, judge, count)
    return count


def send(wire: Wire, request: Request, judge: Judge, count: Count) -> None:
    """One request; what is wrong with its answer goes into ``count.findings``."""
    count.sent += 1
    try:
        answer = wire.exchange(request)
    except NoAnswer as error:
        count.find(f"{error}: {_shown(request)}")
        return
    if answer is None:
        count.left += 1
        return
    count.answers[answer.status] += 1
    if problem := judge.problem(request, answer):
        count.find(f"{problem}: {_shown(request)}")


def run_battery(daemon: Daemon, name: str, seed: int, number: int, known: list[str], judge: Judge) -> Count:
    return send_all(daemon.port, name, stream(name, seed, known, number), judge)


def settled(daemon: Daemon, before: Holdings) -> Holdings:
    """The holdings once nothing of the requests is under way any more, or after the time that this may take."""
    deadline = time.monotonic() + _SETTLE
    while (after := Holdings.of(daemon)).leaks_since(before) and time.monotonic() < deadline:
        time.sleep(0.1)
    return after


def _shown(request: Request) -> str:
    return repr(request.data if len(request.data) < 1500 else request.data[:700] + b" ... " + request.data[-700:])
