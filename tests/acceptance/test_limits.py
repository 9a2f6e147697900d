"""What a user sees on his terminal when a limit, or an administrator, stops his job: by the real client."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import argon2
import pytest

from ..harness import RUNTIME, Daemon, Json, run_client, start_client, wait_until

NewDaemon = Callable[..., Daemon]
HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
LIMITS = {
    "nodes": "max_nodes = 2", "time": "compute_time = 0", "bandwidth": "bandwidth = 0", "jobs": "max_jobs = 0",
    "storage": "storage = 100", "result": "max_result = 100", "short": 'compute_time = "2s"',
}  # fmt: skip


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose users, named after it, have one limit each; their passwords are their names."""
    tables = "".join(
        f'[users.{name}]\npassword_hash = "{HASHER.hash(name)}"\n[users.{name}.limits]\n{limit}\n'
        for name, limit in LIMITS.items()
    )
    daemon = Daemon(tmp_path_factory.mktemp("limits"), tables, server='terms = "Be kind to the machine."')
    yield daemon.start()
    daemon.end_everything()


def run(directory: Path, daemon: Daemon, user: str, flow: str = "work", *options: str) -> Json:
    return run_client(directory, flow, daemon, *options, username=user, password=user)


@pytest.mark.parametrize(
    ("user", "code", "text"),
    [
        ("nodes", 403, "Too many nodes in flowgraph: 3, and 2 are allowed."),
        ("time", 400, "The account is out of compute time: 00:00:00 of 00:00:00 core time used. The period ends 20"),
        ("bandwidth", 400, "The account is out of bandwidth: 0B of 0B downloaded. The period ends 20"),
        ("jobs", 400, "The account has 0 unfinished jobs, and 0 are allowed. Wait for one to end, or cancel one."),
        ("storage", 400, "unfinished jobs hold 0B of 100B. Wait for one to end, or cancel one."),
    ],
)
def test_a_refusal_says_why(tmp_path: Path, limited: Daemon, user: str, code: int, text: str) -> None:
    report = run(tmp_path, limited, user)
    assert f"Server responded with {code}: " in report["log"], report["log"]
    assert text in report["log"]
    assert limited.rows("SELECT count(*) AS n FROM jobs WHERE user = ?", user) == [{"n": 0}]


def test_an_upload_that_is_too_large(tmp_path: Path, new_daemon: NewDaemon) -> None:
    report = run_client(tmp_path, "work", new_daemon(server="max_upload = 100\nmax_manifest = 1000000"), "script=true")
    assert "Server responded with 413: The upload is larger than the 100B allowed here." in report["log"], report["log"]


def test_results_over_the_download_limit(tmp_path: Path, limited: Daemon) -> None:
    """The client shows no text of a refused download: the job ends, and its results are not there."""
    report = run(tmp_path, limited, "result", "work", "script=true", "threads=1")
    assert report["statuses"]["work/0"] != "success" or not (tmp_path / "build/top/job0/work/0/outputs").exists()
    answer = limited.post(
        f"/get_results/{jobs(limited, 'result')[0]}.tar.gz", {"username": "result", "key": "result", "node": "work0"}
    )
    assert answer.status_code == 503
    message = answer.json()["message"]
    assert "and 100B can be downloaded at once. The administrator finds them at jobs/" in message


def jobs(daemon: Daemon, user: str) -> list[str]:
    return [str(row["job_hash"]) for row in daemon.rows("SELECT job_hash FROM jobs WHERE user = ?", user)]


def test_a_job_that_waits_for_a_licence(tmp_path: Path, new_daemon: NewDaemon) -> None:
    """The first client's node holds it for longer than the second needs to be prepared."""
    daemon = new_daemon("[local]\ncores = 2\n[licenses]\nexecute = 1\n")
    first = start_client(tmp_path / "first", "work", daemon, "script=sleep 15", "threads=1")
    wait_until(lambda: daemon.rows("SELECT 1 FROM nodes WHERE step = 'work' AND state = 'running'"), "nothing runs", 90)
    report = run_client(tmp_path / "second", "work", daemon, "script=true", "threads=1")
    assert "work/0: waiting for an execute licence (1 of 1 in use)" in report["log"], report["log"]
    assert report["statuses"]["work/0"] == "success", "it waits for ever"
    assert "Job status: completed" in first.communicate(timeout=90)[0]


def test_a_job_that_runs_out_of_compute_time(tmp_path: Path, limited: Daemon) -> None:
    report = run(tmp_path, limited, "short", "work", "script=sleep 300", "threads=1")
    assert "Job status: timeout" in report["log"], report["log"]
    assert "out of compute time: 00:00:0" in report["log"], "the reason does not reach the terminal"
    assert report["statuses"]["work/0"] == "error", "a node that was ended leaves a manifest that says error"
    (node,) = limited.rows("SELECT state FROM nodes WHERE job_hash = ? AND step = 'work'", report["job_hash"])
    assert node["state"] == "timeout"
    assert (tmp_path / "build/top/job0/work/0/sc_work_0.log").exists(), "what it made is delivered all the same"


def test_terms_are_shown(tmp_path: Path, limited: Daemon) -> None:
    assert "Be kind to the machine." in run(tmp_path, limited, "jobs")["log"]


def test_a_queued_job_says_where_it_stands_and_a_waiting_one_why(tmp_path: Path, new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[local]\ncores = 1\n[limits]\nmax_running_nodes = 1\n")
    first = start_client(tmp_path / "first", "work", daemon, "script=sleep 300", "threads=1")
    wait_until(lambda: daemon.rows("SELECT 1 FROM nodes WHERE step = 'work' AND state = 'running'"), "no node", 60)
    second = start_client(tmp_path / "second", "work", daemon, "script=true", "threads=1")
    wait_until(lambda: daemon.rows("SELECT 1 FROM jobs WHERE state = 'queued'"), "the second is not queued", 60)
    (running,) = daemon.rows("SELECT job_hash FROM jobs WHERE state = 'running'")
    assert second.stdout is not None
    read = [next(second.stdout)]
    while "Job is still running: queued, position 1" not in read[-1]:  # at the latest the first job's end ends this
        assert read[-1], f"the queue's place is not told:\n{''.join(read)}"
        read.append(second.stdout.readline())
    daemon.post("/cancel_job/", {"job_hash": running["job_hash"]})
    first.communicate(timeout=120)
    out, _ = second.communicate(timeout=120)
    assert json.loads((tmp_path / "second" / "report.json").read_text())["statuses"]["work/0"] == "success", out


def test_a_drained_server_says_so(tmp_path: Path, new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    command = [sys.executable, "-m", "scd.cli.main", "-c", str(daemon.file), "drain", "--reason", "new disks until six"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    report = run_client(tmp_path, "work", daemon, "script=true")
    assert "Remote server is not available." in report["log"], "the client's own words, and all that it says then"
    script = (
        "from siliconcompiler import Project\nfrom siliconcompiler.remote import Client\n"
        "p = Project()\np.option.set_credentials('credentials')\nClient(p).check()\n"
    )
    done = subprocess.run(
        [RUNTIME, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "Server status: draining: new disks until six" in done.stdout + done.stderr
    assert daemon.rows("SELECT count(*) AS n FROM jobs") == [{"n": 0}]
