"""What squeue and pyslurm tell of the same jobs: one contract for both, as far as there is a pyslurm that fits."""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psutil
import pytest

from scd import slurm_cli as cli
from scd import slurm_queue
from scd.executors.readers import NoAnswer, Reader, Squeue
from scd.executors.slurm_pyslurm import Pyslurm, choose
from scd.executors.slurm_words import ending, waiting
from scd.slurm_queue import QueueRow
from scd.states import NodeState

from ..harness import wait_until
from .cluster import Cluster
from .site import Site, once, slow

_PATIENCE = 90.0
STRANGER = pwd.getpwnam("games")


@pytest.fixture(params=["squeue", "pyslurm"])
def reader(request: pytest.FixtureRequest, slurm: Cluster) -> Iterator[Reader]:
    env = cli.environment(str(slurm.config))
    if request.param == "squeue":
        yield Squeue(env)
        return
    choice = choose(env)
    choice.reader.close()
    if isinstance(choice.reader, Squeue):
        pytest.skip(choice.why)
    with closing(Pyslurm(env)) as made:  # alone: what it does not tell must not come from squeue
        yield made


@pytest.fixture(autouse=True)
def _no_jobs_left(slurm: Cluster) -> Iterator[None]:
    yield
    slurm.output("scancel", "--user=root")
    slurm.output("scancel", f"--user={STRANGER.pw_name}")


class Jobs:
    """Batch jobs with names as scd gives them."""

    def __init__(self, slurm: Cluster):
        self._slurm = slurm
        self._hash = os.urandom(16).hex()
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"scd-{self._hash}-{self._count}.1"

    def submit(self, script: str, *options: str, name: str = "") -> str:
        """The name of a new job."""
        name = name or self.name()
        self.submitted(name, script, *options)
        return name

    def submitted(self, name: str, script: str, *options: str, user: str = "root") -> str:
        """The id of a new job, of anybody's, under any name."""
        done = subprocess.run(
            ["sbatch", "--parsable", "--output=/dev/null", f"--job-name={name}", *options],
            input=f"#!/bin/sh\n{script}\n".encode(), capture_output=True, user=user, cwd="/", timeout=60, check=True,
            group=pwd.getpwnam(user).pw_gid, extra_groups=[],
            env={"PATH": os.environ["PATH"], **self._slurm.environment},
        )  # fmt: skip
        return done.stdout.decode().strip()


@pytest.fixture
def jobs(slurm: Cluster) -> Jobs:
    return Jobs(slurm)


def seen(reader: Reader, name: str, like: Callable[[QueueRow], bool] = bool) -> QueueRow:
    """The one job of this name, once it is as it should be."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = reader.read().get(name, ())
        if len(found) == 1 and like(found[0]):
            return found[0]
        assert time.monotonic() < deadline, f"{name} is not told as it is, but as {found}"
        time.sleep(0.2)


def ended(row: QueueRow) -> bool:
    return row.has_ended


def running(row: QueueRow) -> bool:
    return row.state == "RUNNING"


def test_what_waits_and_why(reader: Reader, jobs: Jobs, slurm: Cluster) -> None:
    held = jobs.submit("true", "--hold")
    later = jobs.submit("true", "--begin=now+1hour")
    behind = jobs.submit("true", f"--dependency=afterok:{seen(reader, held).id}")
    never = jobs.submit("true", "--time=30:00:00")
    expected = {
        held: ("JobHeldUser", "held in Slurm"),
        later: ("BeginTime", "waiting for the time"),
        behind: ("Dependency", "waiting for other Slurm jobs"),
        never: ("PartitionTimeLimit", "it will never start like this"),
    }
    for name, (reason, words) in expected.items():
        row = seen(reader, name, lambda row, reason=reason: row.reason == reason)  # type: ignore[misc]
        assert (row.state, row.user, row.nodes, row.has_ended) == ("PENDING", 0, "", False)
        assert words in waiting(row)
    slurm.output("scancel", seen(reader, held).id)
    gone = seen(reader, held, ended)
    assert (gone.state, gone.never_ran) == ("CANCELLED", True)


def test_what_runs(reader: Reader, jobs: Jobs) -> None:
    row = seen(reader, jobs.submit("sleep 60", "--time=5"), running)
    assert row.nodes.startswith("node")
    assert row.started is not None
    assert abs(row.started - time.time()) < _PATIENCE
    assert row.ended == row.started + 300, "when it must have ended"
    assert (row.has_ended, row.pending, row.reason, waiting(row)) == (False, False, "None", "")


@pytest.mark.parametrize(
    ("script", "state", "reason"),
    [("true", "COMPLETED", "None"), ("exit 7", "FAILED", "NonZeroExitCode"), ("kill -9 $$", "FAILED", None)],
)
def test_what_ended_by_itself(reader: Reader, jobs: Jobs, script: str, state: str, reason: str | None) -> None:
    row = seen(reader, jobs.submit(script), ended)
    assert row.state == state
    assert reason in (None, row.reason)
    assert not row.never_ran
    assert row.started is not None
    assert row.ended is not None
    assert 0 <= row.elapsed < _PATIENCE


def test_what_was_cancelled_while_it_ran(reader: Reader, jobs: Jobs, slurm: Cluster) -> None:
    name = jobs.submit("sleep 60")
    slurm.output("scancel", seen(reader, name, running).id)
    row = seen(reader, name, ended)
    assert (row.state, row.never_ran) == ("CANCELLED", False)
    assert ending(row, 0, "").reason == "cancelled in Slurm, not by scd"


@slow
def test_what_had_a_time_limit(reader: Reader, jobs: Jobs) -> None:
    row = seen(reader, jobs.submit("sleep 300", "--time=1"), running)
    row = seen(reader, row.name, ended)
    assert row.state == "TIMEOUT"
    assert 60 <= row.elapsed < 150
    assert ending(row, 0, "00:01:00").state is NodeState.TIMEOUT


def test_other_peoples_jobs_and_their_names(reader: Reader, jobs: Jobs) -> None:
    """Everybody may choose a name, also one that looks like a line about a job of scd's."""
    mine, forged = jobs.submit("true", "--hold"), jobs.name()
    jobs.submitted(mine, "true", "--hold", user=STRANGER.pw_name)
    line = f"999999|0|RUNNING|1|2|node1|{forged}|None"
    for name in (f"x\n{line}", f"scd-\n{line}", f"x\r{line}\n{line}\n", "None", "a|b|c", "\x01", "\u2028é"):
        jobs.submitted(name, "true", "--hold", user=STRANGER.pw_name)
    subprocess.run(  # bytes that are no text
        [b"sbatch", b"--hold", b"--output=/dev/null", b"--job-name=scd-\xff\xfe", b"--wrap=true"], check=True,
        env={"PATH": os.environ["PATH"], **jobs._slurm.environment}, capture_output=True,
    )  # fmt: skip
    found = reader.read()
    assert sorted(row.user for row in found[mine]) == [0, STRANGER.pw_uid], "whose a job is, is not told"
    assert forged not in found, "a name was taken for a line of Slurm's"


def test_each_element_of_an_array(reader: Reader, jobs: Jobs, slurm: Cluster) -> None:
    """Those that wait are one job in Slurm; its list of them can be long."""
    many = ",".join(map(str, range(1, 190, 7)))
    arrays = {elements: jobs.name() for elements in ("0-2%1", "7", f"{many}%1", "0-12:4", "0")}
    ids = {name: jobs.submitted(name, "sleep 60", f"--array={elements}") for elements, name in arrays.items()}
    held = jobs.submit("true", "--array=0-1", "--hold")

    def elements(name: str) -> dict[str, str]:
        return {row.id.partition("_")[2]: row.state for row in reader.read().get(name, ())}

    numbers = {
        arrays["0-2%1"]: ["0", "1", "2"], arrays["7"]: ["7"], arrays[f"{many}%1"]: many.split(","),
        arrays["0-12:4"]: ["0", "4", "8", "12"], arrays["0"]: ["0"],
    }  # fmt: skip
    for name, expected in numbers.items():
        wait_until(lambda name=name: "RUNNING" in elements(name).values(), "no element runs", _PATIENCE)  # type: ignore[misc]
        assert sorted(elements(name)) == sorted(expected)
        assert {row.id.partition("_")[0] for row in reader.read()[name]} == {ids[name]}
    assert sorted(elements(arrays["0-2%1"]).values()) == ["PENDING", "PENDING", "RUNNING"]
    slurm.output(
        "scancel", *(f"{seen_array}_1" for seen_array in {row.id.split("_")[0] for row in reader.read()[held]})
    )
    assert elements(held)["0"] == "PENDING"
    same = Squeue(cli.environment(str(slurm.config)))
    wait_until(
        lambda: sorted(row.id for row in reader.read()[held]) == sorted(row.id for row in same.read()[held]),
        "what is left of an array has another id", 20,
    )  # fmt: skip


def test_many_at_a_time(reader: Reader, jobs: Jobs) -> None:
    names = {jobs.submit("true", "--hold") for _ in range(40)}
    found = reader.read()
    assert names <= set(found)
    assert all(len(found[name]) == 1 for name in names)


def test_both_tell_the_same(reader: Reader, jobs: Jobs, slurm: Cluster) -> None:
    names = {jobs.submit("true", "--hold"), jobs.submit("exit 3"), jobs.submit("sleep 60", "--cpus-per-task=2")}
    down = jobs.submit("true", "--partition=bigmem", "--nodelist=node4", "--begin=now+1hour")
    squeue = Squeue(cli.environment(str(slurm.config)))

    def settled() -> bool:
        states = {row.state for name in names for row in squeue.read().get(name, ())}
        return states == {"PENDING", "FAILED", "RUNNING"}

    wait_until(settled, "the jobs do not get to where they should be", _PATIENCE)

    def alike() -> bool:
        one, other = reader.read(), squeue.read()
        return all(one.get(name) == other.get(name) for name in (*names, down))

    wait_until(alike, "they tell different things", 20)


def test_a_controller_that_is_away_is_no_empty_queue(reader: Reader, jobs: Jobs, slurm: Cluster) -> None:
    name = jobs.submit("true", "--hold")
    seen(reader, name)
    slurm.kill("slurmctld", signal.SIGTERM)
    try:
        with pytest.raises(NoAnswer):
            reader.read()
    finally:
        slurm.launch("slurmctld")
        slurm.wait_until_ready()
    assert seen(reader, name).pending


def test_a_controller_that_is_frozen(reader: Reader, slurm: Cluster) -> None:
    slurm.kill("slurmctld", signal.SIGSTOP)
    try:
        with pytest.raises(NoAnswer):
            reader.read()
    finally:
        slurm.kill("slurmctld", signal.SIGCONT)
        slurm.wait_until_ready()
    reader.read()


def test_a_hidden_partition(slurm: Cluster, jobs: Jobs) -> None:
    """squeue without --all keeps its jobs from all but root, also from those whose they are."""
    name = jobs.name()
    jobs.submitted(name, "true", "--hold", "--partition=bigmem", user=STRANGER.pw_name)
    slurm.output("scontrol", "update", "partitionname=bigmem", "hidden=yes")
    try:
        done = subprocess.run(
            slurm_queue.squeue(), capture_output=True, user=STRANGER.pw_uid, group=STRANGER.pw_gid, extra_groups=[],
            env={**cli.environment(str(slurm.config)), "SQUEUE_FORMAT": "%j"}, cwd="/", timeout=60,
        )  # fmt: skip
    finally:
        slurm.output("scontrol", "update", "partitionname=bigmem", "hidden=no")
    assert name.encode() in done.stdout.splitlines(), done


def test_the_log_says_which_it_is_and_a_flow_runs(site: Site) -> None:
    daemon = site.daemon()
    why = choose(cli.environment(str(site.cluster.config)))
    why.reader.close()
    assert daemon.wait(once(daemon), _PATIENCE)["status"] == "completed"
    assert daemon.log.read_text().count(why.why) == 1, "the log does not say once who reads the queue"


def test_the_program_around_pyslurm_ends_with_the_daemon(reader: Reader, site: Site) -> None:
    if isinstance(reader, Squeue):
        pytest.skip("squeue is no program that stays")
    daemon = site.daemon()

    (helper,) = [
        one for one in psutil.Process(daemon.pid).children() if "scd.executors.pyslurm_helper" in one.cmdline()
    ]
    daemon.stop(signal.SIGKILL)
    wait_until(lambda: not helper.is_running(), "what read the queue outlives the daemon", 30)
