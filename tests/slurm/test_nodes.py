"""Nodes as Slurm batch jobs: what they get, what is refused, and how they end."""

import json
import time
from pathlib import Path

import pytest

from ..harness import Daemon, wait_until
from ..integration.submission import collected, manifest, member
from .cluster import Cluster
from .site import (
    Site,
    attempts,
    finish,
    node,
    once,
    runs,
    said_while_running,
    slow,
    slurm_jobs,
    submit,
    working,
)


def test_a_node_gets_what_its_manifest_asks_for(site: Site) -> None:
    daemon = site.daemon('allow_options = ["--nice"]\nmax_memory = "300MB"', dispatch='default = "local"')
    job_hash = working(
        daemon, "sleep 20", "queue=bigmem", "memory=1000", "timeout=600", "sbatch=--nice 7", "scheduler=slurm"
    )
    (attempt,) = attempts(daemon, job_hash)
    assert attempt["executor"] == "slurm"
    shown = site.cluster.output("scontrol", "-o", "show", "job", attempt["handle"])
    for fact in (
        f"JobName={attempt['name']} ", "Partition=bigmem ", "CPUs/Task=1 ", "MinMemoryNode=287M ", "Nice=7 ",
        "TimeLimit=00:12:00 ", "Requeue=0 ", f"job={job_hash} node=work/0 user=-", "NumNodes=1 ",
    ):  # fmt: skip
        assert fact in shown, f"{fact} is not what Slurm was asked for: {shown}"
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert finish(daemon, job_hash) == "canceled"


SIGHTS = (
    "ls -d ../../../../../../control ../../../../../../archives /run/munge /etc/slurm; env | grep SLURM; "
    "command -v squeue >/dev/null && squeue"
)


def test_nodes_of_one_job_run_here_and_in_slurm(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    job_hash = submit(daemon, "work", f"script=sleep 3; ({SIGHTS}) >reports/seen.txt 2>/dev/null; true", "threads=2")
    assert finish(daemon, job_hash) == "completed"
    found = {row["step"]: row["executor"] for row in daemon.rows("SELECT step, executor FROM attempts")}
    assert found == {"": "slurm", "get": "local", "work": "slurm", "after": "local"}

    (attempt,) = attempts(daemon, job_hash)
    assert len(slurm_jobs(slurm, attempt["name"])) == 1
    place = daemon.job_directory(job_hash) / "control" / "slurm" / attempt["name"].rpartition("-")[2]
    record = json.loads((place / "ended.json").read_text())
    assert record["job"] == attempt["handle"], "the record does not name its Slurm job"
    assert record["host"], "the record does not name its compute node"

    (charged,) = daemon.rows("SELECT max(core_seconds) AS most FROM ledger WHERE job_hash = ?", job_hash)
    assert attempt["cores"] == 2
    assert charged["most"] == pytest.approx(2 * attempt["elapsed"])
    assert attempt["elapsed"] >= 3

    answer = daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"})
    assert member(answer.content, "/reports/seen.txt") == b"", "a node sees its own records, or Slurm"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("sbatch=--reservation=mine", "the option '--reservation' of sbatch, which this server does not allow"),
        ("timeout=100000", "Slurm's partition compute gives 02:00:00 at most (MaxTime)"),
        ("threads=64", "asks for 64 cores, and Slurm's partition compute gives 8 at most"),
        ("memory=99999", "Slurm's partition compute gives"),
        ("queue=nowhere", "asks for the queue 'nowhere'; there are bigmem, compute"),
        ("defer=tomorrow; rm -rf /", "asks to start at"),
    ],
)
def test_what_slurm_would_never_start_is_rejected_with_the_limit(
    shared_daemon: Daemon, option: str, words: str
) -> None:
    job_hash = once(shared_daemon, option)
    answer = shared_daemon.wait(job_hash, 90)
    assert answer["status"] == "rejected", answer
    assert words in answer["message"], answer
    assert "work/0" in answer["message"], "the user is not told which node it is"


def test_why_a_node_waits_is_told(site: Site) -> None:
    daemon = site.daemon('allow_options = ["--dependency"]')
    first = working(daemon, "sleep 60")
    (attempt,) = attempts(daemon, first)
    second = once(daemon, f"sbatch=--dependency=afterok:{attempt['handle']}")
    said_while_running(daemon, second, "work/0: waiting for other Slurm jobs")
    assert node(daemon, second)["state"] == "submitted"
    daemon.post("/cancel_job/", {"job_hash": first})
    daemon.post("/cancel_job/", {"job_hash": second})
    assert finish(daemon, first) == finish(daemon, second) == "canceled"


def test_slurm_counts_the_licences_of_what_runs_there(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon("[licenses]\nexecute = 1")
    job_hash = submit(daemon, "workers", "script=sleep 300", "threads=1")
    wait_until(
        lambda: sorted(row["state"] for row in daemon.rows("SELECT state FROM nodes WHERE step = 'work'"))
        == ["running", "submitted", "submitted", "submitted"],
        "not one node runs and three wait", 90,
    )  # fmt: skip
    said_while_running(daemon, job_hash, "waiting for an execute licence in Slurm")
    for attempt in attempts(daemon, job_hash):
        assert "Licenses=execute:1 " in slurm.output("scontrol", "-o", "show", "job", attempt["handle"])
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert finish(daemon, job_hash) == "canceled"


def test_scd_counts_a_licence_that_slurm_does_not_know(site: Site) -> None:
    daemon = site.daemon('[licenses.lmgrd]\ncount = 2\ntools = ["execute"]\nslurm = ""')
    job_hash = submit(daemon, "workers", "script=sleep 300", "threads=1")
    said_while_running(daemon, job_hash, "waiting for a lmgrd licence (2 of 2 in use)")
    assert len(attempts(daemon, job_hash)) == 2, "nodes are in Slurm's queue for which there is no licence"
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert finish(daemon, job_hash) == "canceled"


def test_one_cancel_ends_what_runs_and_what_waits(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon('cores = 8\nallow_options = ["--nodelist"]')
    job_hash = submit(daemon, "workers", "script=sleep 300", "threads=8", "sbatch=--nodelist=node1")
    wait_until(
        lambda: sorted(row["state"] for row in daemon.rows("SELECT state FROM nodes WHERE step = 'work'"))
        == ["running", "submitted", "submitted", "submitted"],
        "not one node runs and three wait", 90,
    )  # fmt: skip
    begin = time.monotonic()
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert finish(daemon, job_hash) == "canceled"
    assert time.monotonic() - begin < 20, "a cancel takes too long"
    for row in daemon.rows("SELECT state, reason FROM nodes WHERE step = 'work'"):
        assert row["state"] == "error"
        assert row["reason"].startswith("cancelled: by"), row
    names = {row["name"] for row in daemon.rows("SELECT name FROM attempts WHERE step = 'work'")}
    wait_until(
        lambda: not any(one["name"] in names and one["state"] in ("PENDING", "RUNNING") for one in slurm.jobs()),
        "Slurm still has what was cancelled", 60,
    )  # fmt: skip


def test_the_log_of_a_node_that_runs_and_of_one_that_was_cancelled(site: Site) -> None:
    daemon = site.daemon()
    job_hash = working(daemon, "echo so far so good; sleep 300")

    def can_be_read() -> bool:
        answer = daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"})
        return answer.status_code == 200 and b"so far so good" in member(answer.content, "/work/0/work.log")

    wait_until(can_be_read, "the log of a node that runs cannot be fetched", 60)
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert finish(daemon, job_hash) == "canceled"
    assert can_be_read(), "the log of a cancelled node did not arrive"


def test_an_operators_scancel_is_told_as_such(site: Site, slurm: Cluster) -> None:
    daemon = site.daemon()
    job_hash = working(daemon, "sleep 300")
    slurm.output("scancel", attempts(daemon, job_hash)[0]["handle"])
    assert finish(daemon, job_hash) == "failed"
    assert node(daemon, job_hash)["reason"] == "cancelled in Slurm, not by scd"
    assert runs(daemon, job_hash) == 1


@slow
def test_a_node_that_slurm_kills_for_its_memory(site: Site) -> None:
    """Without cgroups Slurm kills all of it, the batch job too, and calls it a failure."""
    daemon = site.daemon('memory = "600MB"')
    eat = 'python3 -c "import time; a = bytearray(2 * 10**9); time.sleep(60)"'
    job_hash = working(daemon, eat)
    assert finish(daemon, job_hash, 120) == "failed"
    assert node(daemon, job_hash)["state"] == "error"
    assert runs(daemon, job_hash) == 1


def test_a_server_without_slurm_says_so(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "scd").start()
    try:
        answer = daemon.submit(manifest("work", "scheduler=slurm"), collected("work", "scheduler=slurm"))
        assert answer.status_code == 400
        assert "has no Slurm cluster" in answer.text
    finally:
        daemon.end_everything()
