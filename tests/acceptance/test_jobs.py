"""What users do with jobs beside running them: cancel, delete, resume, two at once; and jobs that cannot run."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import RUNTIME, Daemon, run_client, start_client

NewDaemon = Callable[..., Daemon]
SC_REMOTE = Path(RUNTIME).with_name("sc-remote")

ASIC = """
import sys
from siliconcompiler import ASIC, Design
from siliconcompiler.targets import asap7_demo

design = Design("top")
design.set_dataroot("here", ".")
with design.active_dataroot("here"), design.active_fileset("rtl"):
    design.set_topmodule("top")
    design.add_file("top.v")
project = ASIC(design)
project.add_fileset("rtl")
asap7_demo(project)
project.option.set_nodashboard(True)
project.option.set_remote(True)
project.option.set_credentials(sys.argv[1])
project.run()
"""


def wait_for_job(daemon: Daemon, timeout: float = 30) -> str:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if rows := daemon.rows("SELECT job_hash FROM jobs ORDER BY created DESC LIMIT 1"):
            return str(rows[0]["job_hash"])
        time.sleep(0.05)
    raise AssertionError("no job was submitted")


def sc_remote(directory: Path, *options: str) -> str:
    """The client's own command, with the manifest that it left beside the job."""
    manifest = directory / "build" / "top" / "job0" / "sc_remote.pkg.json"
    done = subprocess.run(
        [str(SC_REMOTE), *options, "-cfg", str(manifest), "-credentials", str(directory / "credentials")],
        cwd=directory, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": str(directory)},
    )  # fmt: skip
    return done.stdout + done.stderr


def test_cancel_by_the_client(tmp_path: Path, new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    client = start_client(tmp_path, "work", daemon, "script=sleep 300")
    job_hash = wait_for_job(daemon)
    daemon.wait_for_node(job_hash, "work0", "running")
    begin = time.monotonic()
    assert "is being cancelled" in sc_remote(tmp_path, "-cancel")
    out, _ = client.communicate(timeout=60)
    assert time.monotonic() - begin < 30, "the client did not see the end of its job"
    assert "Job status: canceled" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["statuses"] == {"get/0": "success", "work/0": "error", "after/0": "pending"}
    assert (tmp_path / "build/top/job0/work/0/sc_work_0.log").exists(), "a cancelled node's log arrives"


def test_delete_by_the_client(tmp_path: Path, new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    report = run_client(tmp_path, "chain", daemon)
    assert daemon.job_directory(report["job_hash"]).exists()
    assert "is deleted" in sc_remote(tmp_path, "-delete")
    assert not daemon.job_directory(report["job_hash"]).exists()
    assert daemon.progress(report["job_hash"])["status"] == "completed", "the true status stays known"
    assert "was deleted before" in sc_remote(tmp_path, "-delete")


def test_resume_runs_only_what_is_not_done(tmp_path: Path, new_daemon: NewDaemon) -> None:
    """A project that is read again from the client's note of its job goes on with that job."""
    daemon = new_daemon()
    first = run_client(tmp_path, "work", daemon, "script=test -e $HOME/flag")
    assert first["statuses"] == {"get/0": "success", "work/0": "error", "after/0": "pending"}
    (daemon.job_directory(first["job_hash"]) / "work" / "flag").touch()
    manifest = tmp_path / "build" / "top" / "job0" / "sc_remote.pkg.json"
    second = run_client(tmp_path, "work", daemon, f"manifest={manifest}")
    assert second["job_hash"] == first["job_hash"], f"a new job was made:\n{second['log']}"
    assert second["statuses"] == {"get/0": "success", "work/0": "success", "after/0": "success"}, second["log"]
    attempts = daemon.rows("SELECT step, count(*) AS n FROM attempts WHERE step <> '' GROUP BY step")
    assert {row["step"]: row["n"] for row in attempts} == {"get": 1, "work": 2, "after": 1}


@pytest.mark.parametrize("restarted", [False, True], ids=["", "and-a-crash"])
def test_a_resume_after_a_cancel(tmp_path: Path, new_daemon: NewDaemon, *, restarted: bool) -> None:
    daemon = new_daemon()
    script = "[ -e ../../../once ] || { touch ../../../once; sleep 300; }"
    client = start_client(tmp_path, "work", daemon, f"script={script}")
    job_hash = wait_for_job(daemon)
    daemon.wait_for_node(job_hash, "work0", "running")
    sc_remote(tmp_path, "-cancel")
    client.communicate(timeout=60)
    if restarted:
        daemon.stop(signal.SIGKILL)
        daemon.start()
    manifest = tmp_path / "build" / "top" / "job0" / "sc_remote.pkg.json"
    second = run_client(tmp_path, "work", daemon, f"manifest={manifest}")
    assert second["job_hash"] == job_hash, f"a new job was made:\n{second['log']}"
    assert set(second["statuses"].values()) == {"success"}, second["log"]
    attempts = daemon.rows("SELECT step, count(*) AS n FROM attempts WHERE step <> '' GROUP BY step")
    assert {row["step"]: row["n"] for row in attempts} == {"get": 1, "work": 2, "after": 1}


def test_a_partial_run_is_continued(tmp_path: Path, new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    first = run_client(tmp_path, "chain", daemon, "to=s2")
    assert first["statuses"]["s2/0"] == "success"
    assert first["statuses"]["s3/0"] == "pending"
    manifest = tmp_path / "build" / "top" / "job0" / "sc_remote.pkg.json"
    second = run_client(tmp_path, "chain", daemon, f"manifest={manifest}", "to=s4")
    assert second["job_hash"] == first["job_hash"]
    assert set(second["statuses"].values()) == {"success"}, second["log"]
    again = daemon.rows("SELECT step FROM attempts WHERE step <> '' GROUP BY step HAVING count(*) > 1")
    assert again == [], "a node that was done ran again"


def test_two_jobs_at_once(tmp_path: Path, daemon: Daemon) -> None:
    clients = [start_client(tmp_path / name, "fan", daemon) for name in ("one", "two")]
    logs = [client.communicate(timeout=120)[0] for client in clients]
    for name, log in zip(("one", "two"), logs, strict=True):
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert set(report["statuses"].values()) == {"success"}, log


def test_a_task_of_the_users_own_script_is_rejected_by_name(tmp_path: Path, daemon: Daemon) -> None:
    report = run_client(tmp_path, "mine", daemon)
    assert "Job was rejected: This server's SiliconCompiler lacks the task modules" in report["log"]
    assert "own/0 (__main__/MyTask)" in report["log"]


def test_an_asic_job_without_its_tools_is_rejected_naming_them(tmp_path: Path, daemon: Daemon) -> None:
    (tmp_path / "top.v").write_text(
        "module top(input clk, input d, output reg q); always @(posedge clk) q <= d; endmodule\n"
    )
    (tmp_path / "asic.py").write_text(ASIC)
    credentials = {"address": "http://localhost", "port": daemon.port, "directory_whitelist": []}
    (tmp_path / "credentials").write_text(json.dumps(credentials))
    done = subprocess.run(
        [RUNTIME, "asic.py", "credentials"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    log = done.stdout + done.stderr
    assert "Job was rejected: " in log
    assert "could not be found: openroad" in log, log
    (job,) = daemon.rows("SELECT job_hash, state, reason FROM jobs ORDER BY created DESC LIMIT 1")
    assert job["state"] == "rejected"
    size = daemon.job_directory(job["job_hash"]).joinpath("upload/manifest-1.json").stat().st_size
    assert size > 1_000_000, "the manifest of a real target is large"


def test_check_server_by_the_client(tmp_path: Path, daemon: Daemon) -> None:
    credentials = {"address": "http://localhost", "port": daemon.port, "directory_whitelist": []}
    (tmp_path / "credentials").write_text(json.dumps(credentials))
    script = (
        "from siliconcompiler import Project\nfrom siliconcompiler.remote import Client\n"
        "p = Project()\np.option.set_credentials('credentials')\nClient(p).check()\n"
    )
    done = subprocess.run(
        [RUNTIME, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    log = done.stdout + done.stderr
    assert "Server status: ready" in log, log
    assert "sc_server version" in log


def test_a_node_killed_from_outside_is_an_error_with_its_logs(tmp_path: Path, new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    client = start_client(tmp_path, "work", daemon, "script=echo begun; sleep 300")
    job_hash = wait_for_job(daemon)
    daemon.wait_for_node(job_hash, "work0", "running")
    daemon.kill_node(job_hash, "work")
    out, _ = client.communicate(timeout=60)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["statuses"]["work/0"] == "error", out
    assert "killed by SIGKILL" in out
    assert (tmp_path / "build/top/job0/work/0/sc_work_0.log").exists(), "its log arrives"
