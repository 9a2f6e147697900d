"""What nodes in Slurm cost: ``python -m tests.slurm.bench [JOBS]``, each of 180 nodes in a partition that is down.

Prints the rate of submissions beside that of bare ``sbatch``, in turns on the same machine, as one account and through
scd-launcher as that of a user; the daemon's CPU time while all of them wait; and what is different with job arrays.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from ..gateway import ALICE, accounts, as_account, passage, place, started, who
from ..gateway import why_not as why_no_gateway
from ..harness import Daemon, wait_until
from ..integration.submission import collected, manifest
from .cluster import Cluster, cluster, why_not
from .gateway import OnSlurm
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
max_running_nodes = 1000
"""


def bare_rate(slurm: Cluster, directory: Path, count: int, account: Sequence[str] = ()) -> float:
    """Submissions a second of sbatch alone, as many at once as scd has, with a script as large as scd's."""
    script = directory / "script.sh"
    script.write_text("#!/bin/sh\nexec true <<'END'\n" + "x" * 12_000 + "\nEND\n")
    one = f"sbatch --parsable --partition=bigmem --output=/dev/null {script}"
    begin = time.monotonic()
    subprocess.run(
        [*account, "/bin/sh", "-c", f"seq {count} | xargs -P{PARALLEL} -I@ {one} --job-name=bare-@"], check=True,
        stdout=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", **slurm.environment}, cwd="/",
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
    if reason := why_no_gateway():
        sys.exit(f"no gateway can be made: {reason}")
    measure_accounts()


def measure_rates(site: Site) -> None:
    daemon = site.daemon(dispatch=_CONFIG, slurm=f"parallel = {PARALLEL}")
    _compare(daemon, site.cluster, lambda: bare_rate(site.cluster, site.directory, WIDTH), {})
    daemon.stop()


def measure_accounts() -> None:
    with accounts(), place() as directory, cluster(["MaxJobCount=20000"], under=passage(directory / "nodes")) as slurm:
        slurm.output("scontrol", "update", "partitionname=bigmem", "state=down")
        gateway = OnSlurm(directory / "gateway", slurm, _CONFIG, f"parallel = {PARALLEL}")
        alice = as_account(ALICE)
        with started(gateway):
            print("through scd-launcher:")
            _compare(gateway, slurm, lambda: bare_rate(slurm, gateway.everybodys, WIDTH, alice), who("alice"))


def _compare(daemon: Daemon, slurm: Cluster, bare: Callable[[], float], user: Mapping[str, str]) -> None:
    """scd and bare sbatch in turns."""
    pairs = []
    for _ in range(ROUNDS):
        pairs.append((_submit_and_cancel(daemon, user), bare()))
        print(f"  {pairs[-1][0]:.0f} and {pairs[-1][1]:.0f} a second, load {os.getloadavg()[0]:.1f}", flush=True)
        slurm.output("scancel", "--state=PENDING", "--partition=bigmem")
    own, alone, ratio = (statistics.median(found) for found in zip(*((a, b, a / b) for a, b in pairs), strict=True))
    print(
        f"{WIDTH} nodes of one job: {own:.0f} submissions a second; sbatch alone: {alone:.0f}; the ratio: {ratio:.2f}"
    )


def measure_arrays(site: Site) -> None:
    """On a site that says that it limits requests, and does not."""
    limited = "rl_enable,rl_bucket_size=100000,rl_refill_rate=100000"
    lines = f"s/^SlurmctldParameters .*/SlurmctldParameters = {limited}/; s/^SlurmUser .*/SlurmUser = slurm(64030)/"
    site.replace("scontrol", f'"$real" "$@" | sed "{lines}"')
    daemon = site.daemon(dispatch=_CONFIG, slurm=f"parallel = {PARALLEL}")
    rate = statistics.median(_submit_and_cancel(daemon, {}) for _ in range(ROUNDS))
    print(f"{WIDTH} nodes of one job as an array: {rate:.0f} a second", flush=True)
    daemon.stop()
    site.restore("scontrol")


def _submit_and_cancel(daemon: Daemon, user: Mapping[str, str]) -> float:
    response = daemon.submit(manifest("fan180"), collected("fan180"), **user)
    assert response.status_code == 200, response.text
    job_hash = str(response.json()["job_hash"])
    _wait(daemon, WIDTH)
    rate = own_rate(daemon, job_hash)
    daemon.post("/cancel_job/", {"job_hash": job_hash, **user})
    daemon.wait(job_hash, 120, user)
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
