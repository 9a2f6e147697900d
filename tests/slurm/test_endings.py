"""How Slurm ends a batch job, and what its user is told: on clusters that do so, and with records that come late."""

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness import Daemon, wait_until
from .cluster import NODES, Cluster, cluster, why_not
from .site import (
    COUNT,
    MIXED,
    Site,
    attempts,
    finish,
    node,
    once,
    runs,
    slow,
    slurm_jobs,
    submit,
    wait_for_submission,
    working,
)

pytestmark = slow

_MEMORY = Path("/sys/fs/cgroup/memory")
_CGROUPS = """\
CgroupPlugin=cgroup/v1
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
AllowedSwapSpace=0
"""
_URGENT = f"PartitionName=urgent Nodes=node[1-{NODES}] PriorityTier=10 MaxTime=1:00:00"
# Only the first time: it takes more than it has asked for, and its tool is killed for that.
_EAT = "test $(wc -l <../../../../../runs) = 2 || python3 -c 'import time; a = bytearray(9 * 10**8); time.sleep(30)'"


@contextlib.contextmanager
def confined() -> Iterator[Cluster]:
    """A cluster that keeps jobs to their memory by cgroups."""
    directory = Path(tempfile.mkdtemp(prefix="scd-slurm-"))
    directory.chmod(0o755)
    made = Cluster(directory, ["TaskPlugin=task/cgroup", "JobAcctGatherParams=NoShared"])
    (directory / "cgroup.conf").write_text(_CGROUPS)
    try:
        yield made.start()
    finally:
        made.stop()
        shutil.rmtree(directory, ignore_errors=True)
        for number in range(1, NODES + 1):
            for left in sorted(_MEMORY.glob(f"slurm_node{number}/**/"), reverse=True):
                with contextlib.suppress(OSError):  # another cluster's is in use
                    left.rmdir()


@pytest.fixture
def confined_site(tmp_path: Path) -> Iterator[Site]:
    if reason := why_not():
        pytest.skip(f"no Slurm cluster can be started: {reason}")
    if not (_MEMORY / "memory.limit_in_bytes").exists():
        pytest.skip("there are no cgroups (version 1) for memory, by which Slurm would keep jobs to it")
    with confined() as made:
        site = Site(made, tmp_path)
        yield site
        site.end()


@pytest.fixture(params=["CANCEL", "REQUEUE"])
def contested_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A cluster with a partition whose jobs take the nodes of others."""
    if reason := why_not():
        pytest.skip(f"no Slurm cluster can be started: {reason}")
    extra = ["PreemptType=preempt/partition_prio", f"PreemptMode={request.param}", _URGENT]
    with cluster(extra) as made:
        site = Site(made, tmp_path)
        yield site
        site.end()


def eating(daemon: Daemon) -> str:
    return submit(daemon, "work", f"script={COUNT}; {_EAT}", "threads=1", "to=work")


def take_all_nodes(slurm: Cluster, partition: str, seconds: int) -> None:
    what = ("--exclusive", f"--nodes={NODES}", f"--partition={partition}", f"--wrap=sleep {seconds}")
    slurm.output("sbatch", "--job-name=urgent", "--output=/dev/null", *what)
    wait_until(lambda: slurm_jobs(slurm, "urgent")[-1]["state"] == "RUNNING", "the nodes are not taken", 90)


def test_out_of_memory(confined_site: Site) -> None:
    daemon = confined_site.daemon('memory = "500MiB"')
    job_hash = eating(daemon)
    assert finish(daemon, job_hash) == "failed"
    (attempt,) = attempts(daemon, job_hash)
    assert slurm_jobs(confined_site.cluster, attempt["name"])[0]["state"] == "OUT_OF_MEMORY"
    assert node(daemon, job_hash)["reason"].startswith("out of memory: 500 MiB were asked for (on node")
    assert attempt["archive"], "its log was not kept"
    assert runs(daemon, job_hash) == 1


def test_out_of_memory_and_more_of_it(confined_site: Site) -> None:
    daemon = confined_site.daemon('memory = "500MiB"\nmemory_on_oom = 3', dispatch=f"retries = 1\n{MIXED}")
    job_hash = eating(daemon)
    assert finish(daemon, job_hash) == "completed"
    first, second = attempts(daemon, job_hash)
    assert first["reason"].startswith("out of memory: 500 MiB were asked for")
    assert (first["memory"], second["memory"]) == (500 * 2**20, 1500 * 2**20)
    assert second["state"] == "success"


def test_preempted_and_started_again(contested_site: Site) -> None:
    slurm = contested_site.cluster
    daemon = contested_site.daemon(dispatch=f"retries = 1\n{MIXED}")
    job_hash = working(daemon, "test $(wc -l <../../../../../runs) = 2 || sleep 300")
    take_all_nodes(slurm, "urgent", 10)
    wait_until(lambda: node(daemon, job_hash)["retries"] == 1, "it is not started again", 90)
    assert finish(daemon, job_hash) == "completed"
    first, second = attempts(daemon, job_hash)
    assert first["reason"] == "preempted by a job of higher priority"
    assert second["state"] == "success"
    assert runs(daemon, job_hash) == 2


def test_preempted_and_not_started_again(contested_site: Site) -> None:
    daemon = contested_site.daemon()
    job_hash = working(daemon, "sleep 300")
    take_all_nodes(contested_site.cluster, "urgent", 1)
    assert finish(daemon, job_hash) == "failed"
    assert node(daemon, job_hash)["reason"] == "preempted by a job of higher priority"
    assert len(attempts(daemon, job_hash)) == runs(daemon, job_hash) == 1


def test_a_deadline_that_cannot_be_kept(site: Site, slurm: Cluster) -> None:
    """Slurm takes out of its queue what would end too late. That is no fault that another try would mend."""
    daemon = site.daemon(dispatch=f"retries = 1\n{MIXED}")
    job_hash = once(daemon, "defer=now+15")
    handle = wait_for_submission(daemon, slurm, job_hash)
    take_all_nodes(slurm, "compute", 120)
    slurm.output("scontrol", "update", f"jobid={handle}", "deadline=now+60")
    assert finish(daemon, job_hash, 120) == "timeout"
    assert node(daemon, job_hash)["reason"] == "over its deadline in Slurm"
    assert len(attempts(daemon, job_hash)) == 1
    assert runs(daemon, job_hash) == 0


# The batch job has a directory of its own, beside the one that scd looks at.
_LAGGING_SBATCH = """\
for word; do case $word in --chdir=*) place=${word#--chdir=} ;; esac; done
mkdir "${place%/*}/there-${place##*/}"
sed 's|"place":"slurm/|&there-|' | "$real" "$@"
"""


@contextlib.contextmanager
def lagging(daemon: Daemon, slurm: Cluster, late: float) -> Iterator[None]:
    """A shared file system that shows scd the record of a node's end ``late`` s after Slurm says that it is over."""
    done = threading.Event()
    over: dict[str, float] = {}

    def show(there: Path) -> None:
        here = there.with_name(there.name.removeprefix("there-"))
        hash_and_attempt = f"{here.parents[2].name}-{here.name}"
        for name in {"claim", "alive", "started.json", "ended.json"} & {entry.name for entry in there.iterdir()}:
            if name == "claim":
                (here / name).mkdir(exist_ok=True)
            elif name == "alive":
                (here / name).touch()
            elif not (here / name).exists():
                if name == "ended.json" and not here.name.startswith("0."):
                    state = slurm_jobs(slurm, f"scd-{hash_and_attempt}")[0]["state"]
                    if state not in ("RUNNING", "COMPLETING"):
                        over.setdefault(here.name, time.monotonic())
                    if time.monotonic() - over.get(here.name, time.monotonic()) < late:
                        continue
                    shown.append(here.name)
                (here / name).write_bytes((there / name).read_bytes())

    def go_on() -> None:
        while not done.wait(0.2):
            for there in (daemon.state / "spool").glob("jobs/*/*/control/slurm/there-*"):
                show(there)

    shown: list[str] = []
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
        assert shown, "the record was seen at once"
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(("script", "status", "state"), [("", "completed", "success"), ("; exit 3", "failed", "error")])
def test_a_record_that_shows_up_twenty_seconds_late(
    site: Site, slurm: Cluster, script: str, status: str, state: str
) -> None:
    daemon = site.daemon(record_timeout=60)
    site.replace("sbatch", _LAGGING_SBATCH)
    with lagging(daemon, slurm, 20):
        job_hash = working(daemon, f"sleep 5{script}")
        name = attempts(daemon, job_hash)[0]["name"]
        wait_until(lambda: slurm_jobs(slurm, name)[0]["state"] in ("COMPLETED", "FAILED"), "it does not end", 60)
        time.sleep(15)
        assert node(daemon, job_hash)["state"] == "running", "it was declared dead before its record could be seen"
        assert finish(daemon, job_hash) == status
    (attempt,) = attempts(daemon, job_hash)
    assert (attempt["state"], attempt["lost"]) == (state, 0)
    assert attempt["archive"], "its results are not there"
    assert runs(daemon, job_hash) == 1
