"""One user's flow of hundreds of real nodes, and another user who comes meanwhile, again and again.

``python -m tests.bench.crowd [NODES]``, a minute; to prepare 1,000 nodes SiliconCompiler takes more than five. Printed:
how many nodes a second end, what the other waits from his job's being prepared to its first node's start, beside what a
node takes, what polls take, and scd's memory.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import argon2
import httpx2

from ..harness import Daemon, Json, wait_until
from ..integration.submission import import_archive, manifest

_BETWEEN = 5.0  # seconds
_FIRST = "SELECT min(started) AS first FROM attempts WHERE job_hash = ? AND step = 's0'"
_PREPARED = "SELECT max(ended) AS prepared FROM attempts WHERE job_hash = ? AND step = ''"


def config(nodes: int) -> str:
    quick = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    users = "".join(f'[users.{name}]\npassword_hash = "{quick.hash(name)}"\n' for name in ("alice", "bob"))
    return f"[limits]\nmax_nodes = {nodes + 10}\n{users}"


def submit(daemon: Daemon, user: str, project: Json) -> str:
    answer = daemon.submit(project, import_archive(), username=user, key=user)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job_hash"])


def measure(daemon: Daemon, nodes: int) -> None:
    crowd = submit(daemon, "alice", manifest(f"fan{nodes - 2}"))
    wait_until(lambda: count(daemon, crowd), "no node of it has ended", 600)
    begin, had = time.monotonic(), count(daemon, crowd)
    jobs: list[str] = []
    polls: list[float] = []
    most = 0
    with httpx2.Client() as http:
        while daemon.rows("SELECT ended FROM jobs WHERE job_hash = ?", crowd)[0]["ended"] is None:
            if time.monotonic() - begin > _BETWEEN * len(jobs):
                jobs.append(submit(daemon, "bob", manifest("chain")))
            asked = time.perf_counter()
            who = {"job_hash": jobs[0], "username": "bob", "key": "bob"}
            answer = http.post(f"{daemon.url}/check_progress/", json=who)
            polls.append(time.perf_counter() - asked)
            assert answer.status_code == 200, answer.text
            most = max(most, memory(daemon))
            time.sleep(0.1)
    took = time.monotonic() - begin
    states = daemon.rows("SELECT state, count(*) AS nodes FROM nodes WHERE job_hash = ? GROUP BY state", crowd)
    print(f"{nodes} nodes:", ", ".join(f"{row['nodes']} {row['state']}" for row in states))
    print(f"  {(nodes - had) / took:.1f} nodes a second, {took:.0f} s")
    waits = [wait for job in jobs if (wait := waited(daemon, job)) is not None]
    lengths = [row["elapsed"] for row in daemon.rows("SELECT elapsed FROM attempts WHERE job_hash = ?", crowd)]
    show(f"{len(waits)} jobs of the other: from prepared to the first node's start", waits)
    show("a node takes", [length for length in lengths if length is not None])
    show(f"{len(polls)} polls", polls)
    print(f"  memory at most {most >> 20} MiB")


def count(daemon: Daemon, job_hash: str) -> int:
    sql = "SELECT count(*) AS ended FROM attempts WHERE job_hash = ? AND ended IS NOT NULL AND step <> ''"
    return int(daemon.rows(sql, job_hash)[0]["ended"])


def waited(daemon: Daemon, job_hash: str) -> float | None:
    first = daemon.rows(_FIRST, job_hash)[0]["first"]
    prepared = daemon.rows(_PREPARED, job_hash)[0]["prepared"]
    return None if first is None or prepared is None else first - prepared


def memory(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def show(what: str, values: list[float]) -> None:
    middle, late = statistics.median(values), sorted(values)[len(values) * 99 // 100]
    print(f"  {what}: median {middle * 1e3:.0f} ms, 99% {late * 1e3:.0f} ms, most {max(values) * 1e3:.0f} ms")


def main() -> None:
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory(prefix="scd-crowd-") as name:
        daemon = Daemon(Path(name) / "scd", config(nodes))
        try:
            measure(daemon.start(), nodes)
        finally:
            daemon.end_everything()


if __name__ == "__main__":
    main()
