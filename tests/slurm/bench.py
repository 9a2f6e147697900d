"""What nodes in Slurm cost: ``python -m tests.slurm.bench [JOBS]``, each of 180 nodes in a partition that is down.

Prints the rate of submissions beside that of bare ``sbatch``, in turns on the same machine; the daemon's CPU time while
all of them wait; and what is different where they go as job arrays.
"""

import os
import statistics
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
ROUNDS = 7
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


def own_rate(daemon: Daemon, job_hash: str) -> float:
    """From the commit of the nodes' intent to that of the last one's id, whatever else the daemon did meanwhile."""
    query = (
        "SELECT min(at) AS first, max(at) AS last, count(*) AS n FROM events "
        "WHERE new = ? AND step = 'mid' AND job_hash = ?"
    )
    (queued,), (submitted,) = (daemon.rows(query, state, job_hash) for state in ("queued", "submitted"))
    return float(submitted["n"] / (submitted["last"] - queued["first"]))


def main() -> None:
    if reason := why_not():
        sys.exit(f"no Slurm cluster can be started: {reason}")
    jobs = int(sys.argv[1]) if sys.argv[1:] else 11
    with tempfile.TemporaryDirectory(prefix="scd-bench-") as place, cluster(["MaxJobCount=20000"]) as slurm:
        site = Site(slurm, Path(place))
        slurm.output("scontrol", "update", "partitionname=bigmem", "state=down")
        try:
            measure_rates(site)
            measure_arrays(site)
            measure_waiting(site, jobs)
        finally:
            site.end()


def measure_rates(site: Site) -> None:
    daemon = site.daemon(dispatch=_CONFIG, slurm=f"parallel = {PARALLEL}")
    pairs = []
    for _ in range(ROUNDS):
        pairs.append((_submit_and_cancel(daemon), bare_rate(site, WIDTH)))
        print(f"  {pairs[-1][0]:.0f} and {pairs[-1][1]:.0f} a second, load {os.getloadavg()[0]:.1f}", flush=True)
        site.cluster.output("scancel", "--user=root", "--state=PENDING")
    own, bare, ratio = (statistics.median(found) for found in zip(*((a, b, a / b) for a, b in pairs), strict=True))
    print(f"{WIDTH} nodes of one job: {own:.0f} submissions a second; sbatch alone: {bare:.0f}; the ratio: {ratio:.2f}")
    daemon.stop()


def measure_arrays(site: Site) -> None:
    """On a site that says that it limits requests, and does not."""
    limited = "rl_enable,rl_bucket_size=100000,rl_refill_rate=100000"
    lines = f"s/^SlurmctldParameters .*/SlurmctldParameters = {limited}/; s/^SlurmUser .*/SlurmUser = slurm(64030)/"
    site.replace("scontrol", f'"$real" "$@" | sed "{lines}"')
    daemon = site.daemon(dispatch=_CONFIG, slurm=f"parallel = {PARALLEL}")
    rate = statistics.median(_submit_and_cancel(daemon) for _ in range(ROUNDS))
    print(f"{WIDTH} nodes of one job as an array: {rate:.0f} a second", flush=True)
    daemon.stop()
    site.restore("scontrol")


def _submit_and_cancel(daemon: Daemon) -> float:
    job_hash = submit(daemon, "fan180")
    _wait(daemon, WIDTH)
    rate = own_rate(daemon, job_hash)
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    daemon.wait(job_hash, 120)
    time.sleep(2)
    return rate


def measure_waiting(site: Site, jobs: int) -> None:
    daemon = site.daemon(dispatch=_CONFIG, slurm=f"parallel = {PARALLEL}")
    first, *_ = [submit(daemon, "fan180") for _ in range(jobs)]
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
