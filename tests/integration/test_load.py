"""All kinds of load at once, in a small measure: nobody is refused, and nothing is left. How fast: ``make load``."""

import asyncio
import os
import threading
from collections.abc import Callable

import httpx2
import pytest

from ..bench.load import Load, Plan, ended_job, many_descriptors, memory, unfinished_jobs
from ..harness import Daemon, wait_until
from .submission import collected, leftovers, manifest, members

NewDaemon = Callable[..., Daemon]
_FLAT = 100 * 2**20  # bytes; an 11 MB manifest is whole in memory while it is decoded, some times over


@pytest.mark.parametrize("shape", ["asked", "held"])
def test_everything_at_once(new_daemon: NewDaemon, shape: str) -> None:
    """Slow connections, pollers, a large upload and large manifests: every poll is answered with 200."""
    daemon = new_daemon()
    asked, held = ended_job(daemon), unfinished_jobs(daemon, 4) if shape == "held" else []
    files, before = descriptors(daemon), memory(daemon.pid)
    plan = Plan(pollers=120, slow=120, upload=100_000_000, seconds=8, shape=shape)
    with many_descriptors():
        report = asyncio.run(Load(daemon, plan).run(asked, held))
    assert report.errors == []
    assert len(report.overdue if shape == "held" else report.latencies) > plan.pollers
    assert report.uploads
    assert report.manifests
    assert max(report.descriptors) >= files + plan.slow, "the slow ones were not there"
    assert max(report.memory) < before + _FLAT
    sessions = len(held) + 4  # those of running jobs, and of large manifests' ones
    wait_until(lambda: descriptors(daemon) <= files + sessions, "descriptors are left open")
    wait_until(lambda: not leftovers(daemon.state / "spool"), "uploads are left")
    lines = [line for line in daemon.log.read_text().splitlines() if " ERROR " in line or " WARNING " in line]
    assert [line for line in lines if "runs as root" not in line] == []


def test_many_downloads_are_delayed_and_none_is_refused(new_daemon: NewDaemon) -> None:
    """More than are read at a time, of a running node and of an ended one, by all of a client's processes at once."""
    daemon = new_daemon()
    options = ("script=head -c 3000000 /dev/urandom >outputs/big; echo >outputs/there; sleep 600", "threads=1")
    job_hash = daemon.submit(manifest("work", *options), collected("work", *options)).json()["job_hash"]
    there = daemon.job_directory(job_hash) / "work" / job_hash / "top/job0/work/0/outputs/there"
    wait_until(there.exists, "the node did not run", 60)
    archives = daemon.job_directory(job_hash) / "archives"
    files, before = descriptors(daemon), set(os.listdir(archives))
    got: list[tuple[int, bytes]] = []

    def fetch(node: str) -> None:
        body = f'{{"job_hash": "{job_hash}", "node": "{node}"}}'
        answer = httpx2.post(f"{daemon.url}/get_results/{job_hash}.tar.gz", content=body, timeout=120)
        got.append((answer.status_code, answer.content))

    threads = [threading.Thread(target=fetch, args=(node,)) for node in ("work0", "get0") * 20]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in got] == [200] * 40
    assert sum(any(name.endswith("outputs/big") for name in members(content)) for _, content in got) == 20
    wait_until(lambda: descriptors(daemon) <= files + 1, "descriptors are left open")
    assert set(os.listdir(archives)) == before, "snapshots are left"
    daemon.post("/cancel_job/", {"job_hash": job_hash})


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))
