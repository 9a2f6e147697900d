"""What nodes in Slurm cost: ``python -m tests.slurm.bench [JOBS]``, each of 180 nodes in a partition that is down.

Prints the rate of submissions beside that of bare ``sbatch`` on the same machine in the same run, and the daemon's CPU
time while all of them wait.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from ..harness import Daemon, wait_until
from .cluster import cluster, why_not
from .site import Site, submit

WIDTH = 180
PARALLEL = 8
WATCHED = 60.0
_CONFIG = """\
default = "local"
[[dispatch.route]]
step = "mid"
executor = "slurm"
partition = "bigmem"
[limits]
max_nodes = 1000
"""


def bare_rate(site: Site, count: int) -> float:
    """Submissions a second of sbatch alone, as many at once as scd has, with a script as large as scd's."""
    script = site.directory / "script.sh"
    script.write_text("#!/bin/sh\nexec true <<'END'\n" + "x" * 12_000 + "\nEND\n")
    one = f"sbatch --parsable --partition=bigmem --output=/dev/null {script}"
    begin = time.monotonic()
    subprocess.run(
        ["/bin/sh", "-c", f"seq {count} | xargs -P{PARALLEL} -I@ {one} --job-name=bare-@"], check=True,
        stdout=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", **site.cluster.environment},
    )  # fmt: skip
    return count / (time.monotonic() - begin)


def own_rate(daemon: Daemon) -> float:
    """Between the first submission and the last, as Slurm has seen them, whatever else the daemon did meanwhile."""
    rows = daemon.rows("SELECT at FROM events WHERE new = 'submitted' AND step = 'mid' ORDER BY at")
    queued = daemon.rows("SELECT min(at) AS at FROM events WHERE new = 'queued' AND step = 'mid'")[0]["at"]
    return len(rows) / float(rows[-1]["at"] - queued)


def main() -> None:
    if reason := why_not():
        sys.exit(f"no Slurm cluster can be started: {reason}")
    jobs = int(sys.argv[1]) if sys.argv[1:] else 11
    with tempfile.TemporaryDirectory(prefix="scd-bench-") as place, cluster(["MaxJobCount=20000"]) as slurm:
        site = Site(slurm, Path(place))
        slurm.output("scontrol", "update", "partitionname=bigmem", "state=down")
        try:
            measure(site, jobs)
        finally:
            site.end()


def measure(site: Site, jobs: int) -> None:
    daemon = site.daemon(dispatch=_CONFIG, slurm=f"parallel = {PARALLEL}")
    first = submit(daemon, "fan180")
    _wait(daemon, WIDTH)
    own = own_rate(daemon)
    bare = bare_rate(site, WIDTH)
    print(f"{WIDTH} nodes of one job: {own:.0f} submissions a second; sbatch alone: {bare:.0f}", flush=True)
    for _ in range(jobs - 1):
        submit(daemon, "fan180")
    _wait(daemon, jobs * WIDTH)
    time.sleep(10)
    process = psutil.Process(daemon.pid)
    before, children = process.cpu_times(), process.cpu_times()
    begin = time.monotonic()
    time.sleep(WATCHED)
    after = process.cpu_times()
    took = time.monotonic() - begin
    own_part = (after.user + after.system - before.user - before.system) / took
    commands = (after.children_user + after.children_system - children.children_user - children.children_system) / took
    print(
        f"{jobs * WIDTH} nodes that wait: {own_part:.1%} of a core, and {commands:.1%} for squeue; "
        f"{process.num_threads()} threads, {len(process.children())} processes",
        flush=True,
    )
    begin = time.monotonic()
    daemon.post("/cancel_job/", {"job_hash": first})
    daemon.wait(first, 120)
    print(f"a cancel of {WIDTH} that wait: {time.monotonic() - begin:.1f} s", flush=True)


def _wait(daemon: Daemon, count: int) -> None:
    query = "SELECT count(*) AS n FROM nodes WHERE state = 'submitted' AND step = 'mid'"
    wait_until(lambda: daemon.rows(query)[0]["n"] >= count, "not all nodes were submitted", 1800)


if __name__ == "__main__":
    main()
