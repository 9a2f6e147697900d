"""Nodes that go together, as job arrays, where a site limits requests; and that it is not asked too often."""

import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from ..harness import Daemon, Json, wait_until
from .cluster import Cluster
from .site import Site, finish, lines, slow, submit

WIDTH = 4  # nodes of the flow "workers"
RUNS = "pwd >>../../../../../runs"
# So many requests that they are no limit: what is looked at is what goes together.
PLENTY = (1000, 1000)


@pytest.fixture(autouse=True)
def _whole_cluster(slurm: Cluster) -> Iterator[None]:
    yield
    slurm.mend()


def workers(daemon: Daemon, script: str = "true") -> str:
    return submit(daemon, "workers", f"script={RUNS}; {script}", "threads=2")


def attempts(daemon: Daemon, job_hash: str) -> list[Json]:
    return daemon.rows("SELECT * FROM attempts WHERE job_hash = ? AND step = 'work' ORDER BY element", job_hash)


def states(daemon: Daemon, job_hash: str) -> list[str]:
    rows = daemon.rows("SELECT state FROM nodes WHERE job_hash = ? AND step = 'work' ORDER BY \"index\"", job_hash)
    return [row["state"] for row in rows]


def each_ran_once(daemon: Daemon, job_hash: str) -> None:
    ran = Counter(lines(daemon.job_directory(job_hash) / "work" / "runs"))
    assert sorted(ran.values()) == [1] * WIDTH, f"not each node ran once: {ran}"


def in_slurm(slurm: Cluster, job_hash: str) -> dict[str, str]:
    """The states of a job's arrays, element by element."""
    shown = slurm.output("squeue", "-h", "-r", "-t", "all", "-o", "%i %j %T").splitlines()
    rows = [line.split() for line in shown]
    return {identity: state for identity, name, state in rows if job_hash in name and name.endswith("-array")}


def test_nodes_that_are_ready_together_are_one_submission(site: Site, slurm: Cluster) -> None:
    """One of them fails, and the others go on."""
    site.limit_requests(*PLENTY)
    daemon = site.daemon()
    job_hash = workers(daemon, "case $PWD in */work/2) exit 3; esac")
    assert finish(daemon, job_hash) == "completed", "three of four nodes of the step are enough"
    assert states(daemon, job_hash) == ["success", "success", "error", "success"]
    each_ran_once(daemon, job_hash)
    assert site.sent("sbatch") == 2, "not one submission for the preparation, and one for all nodes"
    rows = attempts(daemon, job_hash)
    array = rows[0]["handle"].partition("_")[0]
    assert {row["array"] for row in rows} == {f"{rows[0]['name']}-array"}
    assert [row["handle"] for row in rows] == [f"{array}_{number}" for number in range(1, WIDTH + 1)]


def test_the_daemon_is_killed_before_it_hears_of_the_array(site: Site, slurm: Cluster) -> None:
    site.limit_requests(*PLENTY)
    daemon = site.daemon()
    site.replace("sbatch", 'case "$*" in *--array*) "$real" "$@" >$here/told; sleep 100; esac; exec "$real" "$@"')
    job_hash = workers(daemon)
    wait_until(lambda: (site.directory / "told").exists(), "nothing was submitted", 60)
    daemon.stop(signal.SIGKILL)
    site.limit_requests(*PLENTY)
    site.start(daemon)
    assert finish(daemon, job_hash) == "completed"
    each_ran_once(daemon, job_hash)
    assert {identity.partition("_")[0] for identity in in_slurm(slurm, job_hash)} == {
        row["handle"].partition("_")[0] for row in attempts(daemon, job_hash)
    }, "the array was submitted twice"


def test_sbatch_is_killed_before_it_submits_the_array(site: Site, slurm: Cluster) -> None:
    site.limit_requests(*PLENTY)
    daemon = site.daemon()
    site.replace("sbatch", 'case "$*" in *--array*) mkdir $here/once && kill -9 $$; esac; exec "$real" "$@"')
    job_hash = workers(daemon)
    assert finish(daemon, job_hash, 120) == "completed"
    each_ran_once(daemon, job_hash)
    assert len({row["handle"].partition("_")[0] for row in attempts(daemon, job_hash)}) == 1


def test_the_controller_forgets_an_array(site: Site, slurm: Cluster) -> None:
    """Killed right after the submission, and the array's id is given to somebody else."""
    site.limit_requests(*PLENTY)
    daemon = site.daemon()
    site.replace("sbatch", 'case "$*" in *--array*) set -- --begin=now+5 "$@"; esac; exec "$real" "$@"')
    job_hash = workers(daemon)
    wait_until(lambda: states(daemon, job_hash) == ["submitted"] * WIDTH, "no array was submitted", 60)
    slurm.kill("slurmctld")
    site.limit_requests(*PLENTY)
    slurm.launch("slurmctld")
    slurm.wait_until_it_answers()
    for _ in range(3):
        slurm.output("sbatch", "--hold", "--parsable", "--array=1-9", "--wrap=true")
    assert finish(daemon, job_hash, 150) == "completed"
    each_ran_once(daemon, job_hash)


def test_one_cancel_ends_all_of_an_array(site: Site, slurm: Cluster) -> None:
    """What runs of it and what waits."""
    site.limit_requests(*PLENTY)
    daemon = site.daemon('cores = 8\nallow_options = ["--nodelist"]')
    job_hash = submit(daemon, "workers", f"script={RUNS}; sleep 300", "threads=8", "sbatch=--nodelist=node1")
    wait_until(
        lambda: sorted(states(daemon, job_hash)) == ["running", "submitted", "submitted", "submitted"],
        "not one node runs and three wait", 90,
    )  # fmt: skip
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert finish(daemon, job_hash) == "canceled"
    for row in daemon.rows("SELECT state, reason FROM nodes WHERE step = 'work'"):
        assert row["state"] == "error"
        assert row["reason"].startswith("cancelled: by"), row
    wait_until(
        lambda: not {"PENDING", "RUNNING"} & set(in_slurm(slurm, job_hash).values()),
        "Slurm still has what was cancelled", 60,
    )  # fmt: skip


@pytest.mark.parametrize("all_of_them", [False, True], ids=["one", "all"])
def test_an_operator_cancels_elements_that_wait(site: Site, slurm: Cluster, all_of_them: bool) -> None:
    """Slurm keeps nothing of them, while others of their array wait."""
    site.limit_requests(*PLENTY)
    daemon = site.daemon()
    slurm.output("scontrol", "update", "partitionname=compute", "state=down")
    site.replace("sbatch", 'case "$*" in *--array*) set -- --begin=now+30 "$@"; esac; exec "$real" "$@"')
    slurm.output("scontrol", "update", "partitionname=compute", "state=up")
    job_hash = workers(daemon)
    wait_until(lambda: states(daemon, job_hash) == ["submitted"] * WIDTH, "no array was submitted", 60)
    row = attempts(daemon, job_hash)[1]
    array = row["handle"].partition("_")[0]
    slurm.output("scancel", *(["--state=PENDING", f"--name={row['array']}"] if all_of_them else [row["handle"]]))
    assert finish(daemon, job_hash, 120) == ("failed" if all_of_them else "completed")
    ended = (
        [True] * WIDTH if all_of_them else [attempt["name"] == row["name"] for attempt in attempts(daemon, job_hash)]
    )
    for attempt, cancelled in zip(attempts(daemon, job_hash), ended, strict=True):
        assert attempt["state"] == ("error" if cancelled else "success"), f"{array}: {attempt}"
        assert attempt["reason"] == ("cancelled in Slurm, not by scd" if cancelled else "")


def test_a_site_that_limits_requests_is_not_asked_too_often(site: Site, slurm: Cluster) -> None:
    """Many jobs at once, each with more requests than the site answers at once; the state of all is told meanwhile."""
    site.limit_requests(15, 3)
    daemon = site.daemon(dispatch='default = "local"\n[[dispatch.route]]\nstep = "work"\nexecutor = "slurm"')
    time.sleep(5)
    jobs = [workers(daemon) for _ in range(6)]
    assert [finish(daemon, job_hash, 240) for job_hash in jobs] == ["completed"] * len(jobs)
    for job_hash in jobs:
        each_ran_once(daemon, job_hash)
    assert site.sent("sbatch") == 2 * len(jobs), "not one submission for each preparation, and one for its nodes"
    assert site.refused() == [], "the controller was asked more often than it answers"


@slow
def test_nodes_one_by_one_on_a_site_that_limits_requests(site: Site, slurm: Cluster) -> None:
    """Of different sizes, they cannot go together."""
    site.limit_requests(10, 2)
    daemon = site.daemon()
    jobs = [submit(daemon, "work", "threads=1", "to=work") for _ in range(20)]
    assert [finish(daemon, job_hash, 400) for job_hash in jobs] == ["completed"] * len(jobs)
    assert site.refused() == [], "the controller was asked more often than it answers"
