"""What happens to nodes when Slurm, the daemon, or what lies between them fails. No node is lost, none runs twice."""

import signal
import time
from collections.abc import Iterator

import pytest

from ..harness import Daemon, wait_until
from .cluster import NODES, Cluster
from .site import (
    COUNT,
    Site,
    attempts,
    finish,
    job,
    node,
    once,
    runs,
    said_while_running,
    slow,
    slurm_jobs,
    submit,
    wait_for_submission,
    working,
)


@pytest.fixture(autouse=True)
def _whole_cluster(slurm: Cluster) -> Iterator[None]:
    """Each test finds all of the cluster, whatever the one before did to it."""
    yield
    slurm.mend()


def ran_once(daemon: Daemon, slurm: Cluster, job_hash: str) -> None:
    """The node ``work`` succeeded at its first attempt, and its script ran once."""
    assert runs(daemon, job_hash) == 1, "the script did not run exactly once"
    (attempt,) = attempts(daemon, job_hash)
    assert attempt["state"] == "success"
    (charged,) = daemon.rows("SELECT count(*) AS n FROM ledger WHERE job_hash = ? AND core_seconds > 0", job_hash)
    (owed,) = daemon.rows("SELECT count(*) AS n FROM attempts WHERE job_hash = ? AND elapsed > 0", job_hash)
    assert charged["n"] == owed["n"] >= 3, "a node, or the preparation, was not charged once"


# -- the daemon


def test_the_daemon_is_killed_while_a_node_runs(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    job_hash = working(daemon, "sleep 8")
    daemon.stop(signal.SIGKILL)
    time.sleep(2)
    site.start(daemon)
    assert finish(daemon, job_hash) == "completed"
    ran_once(daemon, slurm, job_hash)
    assert len(slurm_jobs(slurm, attempts(daemon, job_hash)[0]["name"])) == 1


def test_the_daemon_is_killed_between_a_submission_and_its_answer(site: Site, slurm: Cluster) -> None:
    """sbatch has submitted, and nobody heard its answer."""
    daemon = site.daemon()
    site.replace("sbatch", '"$real" "$@" >$here/told; sleep 100')
    job_hash = once(daemon)
    wait_until(lambda: (site.directory / "told").exists(), "nothing was submitted")
    daemon.stop(signal.SIGKILL)
    site.restore("sbatch")
    site.start(daemon)
    assert finish(daemon, job_hash) == "completed"
    ran_once(daemon, slurm, job_hash)
    names = [one["name"] for one in slurm.jobs() if job_hash in one["name"]]
    assert len(names) == len(set(names)) == 2, f"something was submitted twice: {names}"


# -- sbatch


def test_sbatch_that_is_killed_after_it_submitted(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    site.replace("sbatch", '"$real" "$@" >/dev/null; kill -9 $$')
    job_hash = once(daemon)
    assert finish(daemon, job_hash) == "completed"
    ran_once(daemon, slurm, job_hash)
    names = [one["name"] for one in slurm.jobs() if job_hash in one["name"]]
    assert len(names) == len(set(names)) == 2, f"something was submitted twice: {names}"


def test_sbatch_that_is_killed_before_it_submitted(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    site.replace("sbatch", 'if mkdir $here/once; then kill -9 $$; fi; exec "$real" "$@"')
    job_hash = once(daemon)
    assert finish(daemon, job_hash) == "completed"
    ran_once(daemon, slurm, job_hash)


def test_sbatch_that_hangs_after_it_submitted(site: Site, slurm: Cluster) -> None:
    """Its job is seen in the queue, runs and ends, while it still hangs."""
    daemon = site.daemon()
    site.replace("sbatch", '"$real" "$@" >/dev/null; sleep 1000')
    job_hash = once(daemon)
    assert finish(daemon, job_hash) == "completed"
    ran_once(daemon, slurm, job_hash)


def test_what_slurm_refuses_is_told_in_its_words(site: Site) -> None:
    daemon = site.daemon('allow_options = ["--constraint"]')
    job_hash = once(daemon, "sbatch=--constraint=nothing")
    assert finish(daemon, job_hash) == "failed"
    assert (
        "Slurm refused it: Batch job submission failed: Invalid feature specification"
        in job(daemon, job_hash)["reason"]
    )


# -- the controller


def test_the_controller_is_down_for_a_while(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    job_hash = working(daemon, "sleep 12")
    slurm.kill("slurmctld", signal.SIGTERM)
    second = once(daemon)
    said_while_running(daemon, second, "waiting for Slurm")
    wait_until(lambda: node(daemon, job_hash)["state"] == "success", "an end is not seen while Slurm is away", 60)
    time.sleep(5)
    assert job(daemon, second)["state"] == "preparing"
    assert daemon.log.read_text().count("Slurm does not answer") == 1, "the log does not say it once"
    slurm.launch("slurmctld")
    assert finish(daemon, job_hash) == finish(daemon, second) == "completed"
    ran_once(daemon, slurm, job_hash)
    ran_once(daemon, slurm, second)
    assert "Slurm answers again" in daemon.log.read_text()


def test_a_cancel_works_without_the_controller(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    job_hash = working(daemon, "sleep 300")
    slurm.kill("slurmctld", signal.SIGTERM)
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert finish(daemon, job_hash, 60) == "canceled"


def test_the_controller_forgets_what_it_acknowledged(site: Site, slurm: Cluster) -> None:
    """Killed right after submissions, it loses them, and gives their ids to others."""
    daemon = site.daemon()
    slurm.output("scontrol", "update", "partitionname=compute", "state=down")
    jobs = [once(daemon), once(daemon)]
    handles = {wait_for_submission(daemon, slurm, job_hash, "") for job_hash in jobs}
    said_while_running(daemon, jobs[0], "the partition is down")
    slurm.kill("slurmctld")
    slurm.launch("slurmctld")
    slurm.wait_until_it_answers()
    slurm.output("scontrol", "update", "partitionname=compute", "state=down")
    strangers = [slurm.output("sbatch", "--hold", "--parsable", "--wrap=true").strip() for _ in range(3)]
    slurm.output("scontrol", "update", "partitionname=compute", "state=up")
    for job_hash in jobs:
        assert finish(daemon, job_hash, 120) == "completed", f"{handles} {strangers}"
        ran_once(daemon, slurm, job_hash)


def test_the_controller_is_killed_in_mid_flow(site: Site, slurm: Cluster) -> None:
    """What ran for a while goes on."""
    daemon = site.daemon()
    job_hash = working(daemon, "sleep 15")
    time.sleep(7)  # the controller has written down that it runs
    slurm.kill("slurmctld")
    slurm.launch("slurmctld")
    assert finish(daemon, job_hash) == "completed"
    ran_once(daemon, slurm, job_hash)


# -- compute nodes


def test_slurmd_is_killed_and_the_node_goes_on(site: Site, slurm: Cluster) -> None:
    """Slurm says NODE_FAIL long before the node ends, and its record comes late."""
    daemon = site.daemon('allow_options = ["--nodelist"]')
    job_hash = working(daemon, "sleep 35", "sbatch=--nodelist=node2")
    (attempt,) = attempts(daemon, job_hash)
    slurm.kill("node2")
    wait_until(
        lambda: any(one["state"] == "NODE_FAIL" for one in slurm_jobs(slurm, attempt["name"])), "no NODE_FAIL", 60
    )
    assert node(daemon, job_hash)["state"] == "running", "a node that lives was declared dead"
    assert finish(daemon, job_hash, 120) == "completed"
    ran_once(daemon, slurm, job_hash)


def test_a_spool_that_compute_nodes_do_not_have(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {daemon.state} && exec "$@"', "sh"]
    for number in range(1, NODES + 1):
        slurm.kill(f"node{number}", signal.SIGTERM)
        slurm.launch(f"node{number}", hide)
    slurm.wait_until_ready()
    job_hash = once(daemon)
    assert finish(daemon, job_hash) == "failed"
    assert "Slurm could not run it to its end: JobLaunchFailure" in job(daemon, job_hash)["reason"]
    assert "spool" in job(daemon, job_hash)["reason"], "the reason does not say what to look at"


# -- what squeue says


@pytest.mark.parametrize(
    "answer", ["exit 0", *(pytest.param(text, marks=slow) for text in ("exit 1", "echo nonsense", "kill -9 $$"))]
)
def test_an_answer_of_squeue_that_says_nothing_ends_nothing(site: Site, slurm: Cluster, answer: str) -> None:
    """An empty one too: a site may hide jobs."""
    daemon = site.daemon()
    job_hash = working(daemon, "sleep 16")
    site.replace("squeue", answer)
    time.sleep(13)
    assert node(daemon, job_hash)["state"] == "running"
    site.restore("squeue")
    assert finish(daemon, job_hash) == "completed"
    ran_once(daemon, slurm, job_hash)


def test_a_job_that_is_not_visible_right_away(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    site.replace("squeue", '"$real" "$@" | grep -v "PENDING\\|RUNNING"; true')
    job_hash = submit(daemon, "work", f"script={COUNT}; sleep 12", "threads=1", "to=work")
    assert finish(daemon, job_hash, 120) == "completed"
    ran_once(daemon, slurm, job_hash)
    names = [one["name"] for one in slurm.jobs() if job_hash in one["name"]]
    assert len(names) == len(set(names)), f"something was submitted twice: {names}"


@slow
def test_a_record_that_comes_late(site: Site, slurm: Cluster) -> None:
    """Slurm says that it is over; what the node wrote is seen ten seconds later."""
    daemon = site.daemon()
    job_hash = working(daemon, "sleep 12")
    site.replace("squeue", '"$real" "$@" | sed "s/RUNNING/COMPLETED/"')
    time.sleep(6)
    assert node(daemon, job_hash)["state"] == "running"
    assert finish(daemon, job_hash) == "completed"
    ran_once(daemon, slurm, job_hash)
