"""How long the same jobs take through scd, through SiliconCompiler's own server, and locally.

``python -m tests.bench.run [ROUNDS]``. Each round runs every flow once in every way, one after the other, so that a
machine that slows down slows all of them. It prints medians and ratios, and where scd's time goes. The real client
takes the time: from ``project.run()`` to its return, with all results imported.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..harness import RUNTIME, ClientHung, Daemon, Json, free_port, run_client

FLOWS = ("chain", "fan40")
_PATIENCE = 40.0
_REFERENCE_DEFAULT = 5  # seconds between polls, the reference server's own default


class Way(NamedTuple):
    """How a flow is run: ``server`` is None (locally), "scd" or "reference"."""

    name: str
    server: str | None
    interval: int = 0


WAYS = (
    Way("local", None),
    Way("scd", "scd", 0),
    Way("scd, interval 1", "scd", 1),
    Way("reference, interval 1", "reference", 1),
    Way("reference", "reference", _REFERENCE_DEFAULT),
)


class Reference:
    """``python -m siliconcompiler.remote.server``, as far as the client's side of the harness needs it."""

    def __init__(self, directory: Path, interval: int):
        self.port = free_port()
        directory.mkdir(parents=True)
        self.process = subprocess.Popen(
            [RUNTIME, "-m", "siliconcompiler.remote.server", "-port", str(self.port), "-checkinterval", str(interval),
             "-nfsmount", str(directory)],
            cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8"},
        )  # fmt: skip


@contextlib.contextmanager
def servers(directory: Path) -> Iterator[dict[Way, Daemon]]:
    found: dict[Way, Daemon] = {}
    references: list[Reference] = []
    try:
        for number, way in enumerate(WAYS):
            place = directory / f"server{number}"
            if way.server == "scd":
                found[way] = Daemon(place, server=f"progress_interval = {way.interval}").start()
            elif way.server == "reference":
                reference = Reference(place, way.interval)
                references.append(reference)
                found[way] = Daemon.__new__(Daemon)  # the client needs nothing of it but the port
                found[way].port = reference.port
        time.sleep(4)  # the reference server says nowhere that it listens
        yield found
    finally:
        for reference in references:
            reference.process.terminate()
            reference.process.wait()
        for way, daemon in found.items():
            if way.server == "scd":
                daemon.end_everything()


def run_rounds(directory: Path, rounds: int) -> tuple[dict[tuple[str, Way], list[float]], dict[str, list[Json]]]:
    walls: dict[tuple[str, Way], list[float]] = {(flow, way): [] for flow in FLOWS for way in WAYS}
    parts: dict[str, list[Json]] = {flow: [] for flow in FLOWS}
    hung: list[str] = []
    with servers(directory) as found:
        for turn in range(rounds + 1):  # the first is a warm-up
            for flow in FLOWS:
                for number, way in enumerate(WAYS):
                    place = directory / f"{flow}-{turn}-{number}"
                    report = run_once(place, flow, found.get(way), hung)
                    bad = {node: status for node, status in report["statuses"].items() if status != "success"}
                    if report["error"] or bad:
                        raise RuntimeError(f"{flow} by {way.name} failed: {report['error']} {bad}\n{report['log']}")
                    if turn == 0:
                        continue
                    walls[flow, way].append(report["wall"])
                    if way.name == "scd":
                        parts[flow].append(where_time_goes(found[way], report))
    for name in hung:
        print(f"(hung in SiliconCompiler, ended after {_PATIENCE} s and run again: {name})")
    return walls, parts


def run_once(place: Path, flow: str, server: Daemon | None, hung: list[str]) -> Json:
    """SiliconCompiler's own runs fork with threads, and a few in a hundred never end."""
    for attempt in range(3):
        try:
            return run_client(place / str(attempt), flow, server, python=RUNTIME, timeout=_PATIENCE)
        except ClientHung:
            hung.append(f"{flow} {'locally' if server is None else 'by a server'}")
    raise RuntimeError(f"{flow} hung three times")


def where_time_goes(daemon: Daemon, report: Json) -> Json:
    """Seconds of one job, from the client's start to its end."""
    ended = report["written"]
    (job,) = daemon.rows("SELECT * FROM jobs WHERE job_hash = ?", report["job_hash"])
    attempts = daemon.rows("SELECT * FROM attempts WHERE job_hash = ? ORDER BY queued", report["job_hash"])
    prepare, nodes = attempts[0], attempts[1:]
    return {
        "collect and upload": job["created"] - (ended - report["wall"]),
        "start the runner": prepare["started"] - job["created"],
        "prepare": prepare["ended"] - prepare["started"],
        "nodes": job["ended"] - prepare["ended"],
        "download and import": ended - job["ended"],
        "one node (median)": statistics.median(node["elapsed"] for node in nodes),
        "dispatch of a node (median)": statistics.median(node["started"] - node["queued"] for node in nodes),
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="scd-bench-") as directory:
        walls, parts = run_rounds(Path(directory), rounds)
    print(f"Wall time by the client, median of {rounds} rounds, interleaved; {os.cpu_count()} cores\n")
    print("| flow | " + " | ".join(way.name for way in WAYS) + " |")
    print("|---" * (len(WAYS) + 1) + "|")
    medians = {key: statistics.median(times) for key, times in walls.items()}
    for flow in FLOWS:
        print(f"| {flow} | " + " | ".join(f"{medians[flow, way]:.2f} s" for way in WAYS) + " |")
    print("\nTimes as long as scd, from the same round (median; smallest and largest)\n")
    ours = WAYS[1]
    for flow in FLOWS:
        for way in WAYS:
            ratios = sorted(theirs / mine for theirs, mine in zip(walls[flow, way], walls[flow, ours], strict=True))
            print(f"  {flow:6} {way.name:22} {statistics.median(ratios):5.2f}x  ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print("\nWhere scd's time goes (medians, seconds)\n")
    for flow in FLOWS:
        shares = {name: round(statistics.median(part[name] for part in parts[flow]), 3) for name in parts[flow][0]}
        print(f"  {flow:6} {json.dumps(shares)}")


if __name__ == "__main__":
    main()
