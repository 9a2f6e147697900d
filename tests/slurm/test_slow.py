"""What takes Slurm's own minutes: only with SCD_TEST_SLOW (``make slurm``)."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness import wait_until
from .cluster import Cluster, cluster, why_not
from .site import (
    COUNT,
    MIXED,
    Site,
    attempts,
    finish,
    job,
    node,
    once,
    processes_of,
    runs,
    said_while_running,
    slow,
    submit,
    wait_for_submission,
    working,
)

pytestmark = slow


@pytest.fixture(autouse=True)
def _whole_cluster(slurm: Cluster) -> Iterator[None]:
    yield
    slurm.mend()


@pytest.fixture
def small_site(tmp_path: Path) -> Iterator[Site]:
    """A cluster whose queue is full with three jobs."""
    if reason := why_not():
        pytest.skip(f"no Slurm cluster can be started: {reason}")
    with cluster(["MaxJobCount=4", "MinJobAge=2"]) as made:
        site = Site(made, tmp_path)
        yield site
        site.end()


def test_slurms_time_limit(site: Site) -> None:
    daemon = site.daemon("max_time = 60")
    job_hash = working(daemon, "echo so far; sleep 600")
    assert finish(daemon, job_hash, 240) == "timeout"
    assert node(daemon, job_hash)["reason"] == "over its time limit of 00:01:00"
    assert runs(daemon, job_hash) == 1
    assert attempts(daemon, job_hash)[0]["archive"], "its log was not kept"


def test_an_operator_cancels_what_waits(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    job_hash = once(daemon, "defer=now+1hour")
    said_while_running(daemon, job_hash, "waiting for the time at which it may begin")
    slurm.output("scancel", wait_for_submission(daemon, slurm, job_hash))
    assert finish(daemon, job_hash) == "failed"
    assert node(daemon, job_hash)["reason"] == "cancelled in Slurm, not by scd"
    assert runs(daemon, job_hash) == 0


def test_sbatch_that_hangs_and_does_not_submit(site: Site) -> None:
    daemon = site.daemon()
    site.replace("sbatch", 'if mkdir $here/once; then sleep 1000; fi; exec "$real" "$@"')
    job_hash = once(daemon)
    assert finish(daemon, job_hash, 300) == "completed"
    assert runs(daemon, job_hash) == 1
    assert "no answer in time" in daemon.log.read_text()


def test_a_full_queue(small_site: Site) -> None:
    """MaxJobCount is reached: sbatch itself tries for two minutes, then scd waits for room."""
    slurm = small_site.cluster
    daemon = small_site.daemon()
    for _ in range(3):
        slurm.output("sbatch", "--hold", "--wrap=true")
    job_hash = once(daemon)
    said_while_running(daemon, job_hash, "Slurm takes no more at the moment", 240)
    assert job(daemon, job_hash)["state"] == "preparing"
    slurm.output("scancel", "--user=root", "--state=PENDING")
    assert finish(daemon, job_hash, 300) == "completed"
    assert runs(daemon, job_hash) == 1


def test_an_array_for_which_there_will_never_be_room(small_site: Site) -> None:
    """It is refused as a whole; its parts find room one after the other."""
    small_site.limit_requests(1000, 1000)
    daemon = small_site.daemon()
    job_hash = submit(daemon, "workers", f"script={COUNT}", "threads=1")
    said_while_running(daemon, job_hash, "Slurm takes no more at the moment", 240)
    assert finish(daemon, job_hash, 400) == "completed"
    assert runs(daemon, job_hash) == 4
    assert all(one["state"] == "success" for one in attempts(daemon, job_hash))


def test_a_node_ends_while_the_daemon_is_away(site: Site, slurm: Cluster) -> None:
    """Slurm has forgotten the job by the time that it is looked for."""
    daemon = site.daemon()
    job_hash = working(daemon, "sleep 3")
    handle = attempts(daemon, job_hash)[0]["handle"]
    daemon.stop(signal.SIGKILL)
    wait_until(
        lambda: "Invalid job id" in slurm.output("scontrol", "show", "job", handle), "Slurm forgets nothing", 180
    )
    site.start(daemon)
    assert finish(daemon, job_hash) == "completed"
    assert runs(daemon, job_hash) == 1


def test_the_controller_is_down_for_minutes(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    job_hash = working(daemon, "sleep 60")
    slurm.kill("slurmctld")
    second = once(daemon)
    time.sleep(180)
    assert node(daemon, job_hash)["state"] == "success"
    assert job(daemon, second)["state"] == "preparing"
    slurm.launch("slurmctld")
    assert finish(daemon, job_hash) == finish(daemon, second) == "completed"
    assert runs(daemon, job_hash) == runs(daemon, second) == 1


def test_a_node_that_dies_with_its_host_is_started_again(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon('allow_options = ["--nodelist"]', dispatch=f"retries = 1\n{MIXED}")
    job_hash = working(daemon, "test $(wc -l <../../../../../runs) = 2 || sleep 300", "sbatch=--nodelist=node2")
    slurm.kill("node2")
    for pid in processes_of(attempts(daemon, job_hash)[0]["handle"]):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: node(daemon, job_hash)["retries"] == 1, "it is not started again", 120)
    slurm.launch("node2")
    assert finish(daemon, job_hash, 120) == "completed"
    first, second = attempts(daemon, job_hash)
    assert first["reason"] == "its node failed (on node2)"
    assert second["state"] == "success"
    assert runs(daemon, job_hash) == 2
