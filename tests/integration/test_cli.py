"""scdctl and scd as an administrator uses them."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import argon2
import pytest

from ..harness import Daemon, Json, wait_until
from .submission import collected, manifest


def scdctl(daemon: Daemon, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scd.cli.main", "-c", str(daemon.file), *arguments],
        capture_output=True, text=True, timeout=60, input=text,
    )  # fmt: skip


def good(daemon: Daemon, *arguments: str) -> str:
    done = scdctl(daemon, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def ctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("ctl"))
    yield daemon.start()
    daemon.end_everything()


def submit(daemon: Daemon, flow: str, *options: str) -> str:
    return str(daemon.submit(manifest(flow, *options), collected(flow, *options)).json()["job_hash"])


@pytest.fixture(scope="module")
def failed(ctl: Daemon) -> str:
    (header,) = good(ctl, "jobs").splitlines()
    assert header.startswith("JOB_HASH  USER  DESIGN"), "an empty list is a header"
    job_hash = submit(ctl, "lint", "rtl=bad")
    ctl.wait(job_hash)
    return job_hash


def test_jobs(ctl: Daemon, failed: str) -> None:
    header, *lines = good(ctl, "jobs").splitlines()
    assert header.split()[0] == "JOB_HASH"
    (line,) = (line for line in lines if line.startswith(failed[:8]))
    assert line.split()[1:5] == ["-", "top", "lintflow-slang", "failed"]
    assert "slang/lint reported 4 errors" in line
    assert good(ctl, "jobs", "-n", "-P", "-o", "job_hash,status", "-t", "failed") == f"{failed}|failed\n"
    assert good(ctl, "jobs", "-n", "-u", "somebody") == ""
    assert good(ctl, "jobs", "-n", "-j", failed[:8]).startswith(failed[:8])
    assert "\x1b" not in good(ctl, "jobs"), "colours are for terminals"


def test_json_is_stable(ctl: Daemon, failed: str) -> None:
    answer = json.loads(good(ctl, "--json", "jobs", "-t", "failed"))
    assert answer["version"] == 1
    (job,) = answer["jobs"]
    assert sorted(job) == [
        "created", "design", "disk_bytes", "elapsed", "ended", "flow", "job_hash", "jobname", "reason", "runtime",
        "started", "status", "upload_bytes", "user",
    ]  # fmt: skip
    assert job["created"].endswith("Z")
    nodes = json.loads(good(ctl, "--json", "nodes", "-j", failed[:8]))
    assert nodes["version"] == 1
    (node,) = nodes["nodes"]
    assert (node["job_hash"], node["step"], node["index"], node["status"]) == (failed, "lint", "0", "error")
    assert node["attempts"] == 1
    assert node["elapsed"] > 0
    assert sorted(node) == [
        "attempts", "cores", "cpu_seconds", "design", "elapsed", "ended", "exit_code", "index", "job_hash",
        "peak_bytes", "queued", "read_bytes", "reason", "started", "status", "step", "user", "written_bytes",
    ]  # fmt: skip
    (shown,) = json.loads(good(ctl, "--json", "show", failed))["jobs"]
    assert sorted(set(shown) - set(job)) == ["nodes", "timing"]
    assert sorted(set(shown["nodes"][0]) - set(node)) == ["archive", "inputs", "level", "run", "tool", "wait"]


def test_slurms_flags(ctl: Daemon, failed: str) -> None:
    """As somebody types them who knows squeue and sacct."""
    only = ("-n", "-P", "-o", "JobID,State")
    assert f"{failed}|failed\n" in good(ctl, "jobs", *only, "-S", "now-1hour")
    assert f"{failed}|failed\n" in good(ctl, "jobs", *only, "-S", "today", "-E", "now")
    assert good(ctl, "jobs", *only, "-E", "now-1hour") == ""
    assert good(ctl, "jobs", *only, "-S", "now+1hour") == ""
    assert good(ctl, "jobs", *only, "-j", f"{failed},{failed[:6]}", "-t", "failed,timeout") == f"{failed}|failed\n"
    assert good(ctl, "nodes", *only, "-j", failed) == f"{failed}.lint/0|error\n"
    assert f"{failed}.lint/0|error\n" in good(ctl, "nodes", *only, "-S", "now-1hour", "-u", ",somebody")
    assert good(ctl, "nodes", *only, "-E", "now-1hour") == ""
    head, line = good(ctl, "nodes", "-j", failed, "-o", "node,Elapsed,MaxRSS,CPUTime").splitlines()
    assert head.split() == ["NODE", "TIME", "MEMORY", "CPUTIME"]
    assert re.fullmatch(rf"{failed[:8]}\.lint/0 +00:00:0\d +[0-9.]+MiB +00:00:\d\d", line)


def test_show(ctl: Daemon, failed: str) -> None:
    text = good(ctl, "show", failed[:8])
    assert f"job_hash={failed}\n" in text
    assert "status=failed\n" in text
    assert re.search(
        r"\n  lint/0 error\n      Attempts=1 Start=\S+ Time=00:00:0\d CPU=\S+s Memory=\S+iB Reason=slang", text
    )


def test_where_the_time_went(ctl: Daemon) -> None:
    """Every part is measured, and the parts of a node are no longer than the job."""
    job_hash = submit(ctl, "work", "script=sleep 1")
    ctl.wait(job_hash)
    assert ctl.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"}).status_code == 200

    def shown() -> Json:
        (found,) = json.loads(good(ctl, "--json", "show", job_hash))["jobs"]
        return dict(found)

    wait_until(lambda: shown()["timing"]["download"] is not None, "the download was not measured")
    job = shown()
    timing = job["timing"]
    for part in ("upload", "queue", "unpack", "prepare", "run", "total", "download"):
        assert timing[part] is not None, f"{part} was not measured"
        assert 0 <= timing[part] < 60
    assert timing["downloads"] == 1
    assert timing["download_bytes"] > 0
    work = next(node for node in job["nodes"] if node["step"] == "work")
    assert 1 <= work["run"] <= timing["run"] <= timing["total"]
    assert 0 < work["archive"] < work["elapsed"]
    assert work["wait"] >= 0
    text = good(ctl, "show", "--timing", job_hash)
    assert re.search(r"\n  prepare +\d+\.\d+s  by SiliconCompiler\n", text)
    assert re.search(r"\nwork/0 +success +\d+\.\d+s +1\.\ds ", text)


def test_log(ctl: Daemon, failed: str) -> None:
    text = good(ctl, "log", failed[:8])
    assert "queued -> preparing" in text
    assert "lint/0 running -> error slang/lint reported 4 errors" in text
    assert "error: expected ','" in text, "the logs of failed nodes follow"
    assert "error: expected ','" in good(ctl, "log", f"{failed[:8]}.lint/0")


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("show", "ffffffff"), 1, "There is no job ffffffff here."),
        (("show", "abc"), 1, "give at least the first 4 of its 32 characters"),
        (("show", "x' OR 1"), 1, "is no job hash"),
        (("log", "{hash}.nothing/0"), 1, "has no node nothing/0"),
        (("log", "{hash}.lnt/0"), 1, "Did you mean lint/0? It has: lint/0."),
        (("jobs", "-t", "faild"), 2, "Did you mean failed?"),
        (("jobs", "-S", "soon"), 2, "not a time: 'soon' (write it as now-1hour"),
        (("jobs", "-o", "usr"), 2, "Did you mean user?"),
        (("shwo", "{hash}"), 2, "Did you mean show?"),
        (("log", "{hash}.lint"), 1, "write it as HASH.STEP/INDEX"),
        (("jobs", "-o", "colour"), 2, "Unknown column 'colour'. There are: job_hash, user"),
        (("jobs", "-t", "lost"), 2, "unknown state 'lost'"),
        (("cancel", "{hash}"), 1, "is not running"),
        (("nothing",), 2, "invalid choice: 'nothing'"),
    ],
)
def test_mistakes_say_what_to_do(ctl: Daemon, failed: str, arguments: tuple[str, ...], status: int, text: str) -> None:
    done = scdctl(ctl, *(argument.replace("{hash}", failed[:8]) for argument in arguments))
    assert done.returncode == status, done.stdout + done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_running_node_is_followed_and_cancelled(ctl: Daemon) -> None:
    job_hash = submit(ctl, "work", "script=echo one; sleep 60")
    ctl.wait_for_node(job_hash, "work0", "running")
    node = f"{job_hash[:8]}.work/0"
    deadline = time.monotonic() + 20
    while "Running in" not in good(ctl, "log", node) and time.monotonic() < deadline:
        time.sleep(0.1)
    command = [sys.executable, "-m", "scd.cli.main", "-c", str(ctl.file), "log", "-f", node]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follow:
        assert re.search(rf"^{re.escape(node)} +running", good(ctl, "nodes"), re.MULTILINE)
        assert good(ctl, "cancel", job_hash[:8]) == f"Job {job_hash} is being cancelled.\n"
        out, _ = follow.communicate(timeout=30)
    assert "Running in" in out
    assert "Halting work/0 due to errors." in out, "it was not followed to its end"
    assert ctl.wait(job_hash)["message"] == "by the administrator"


def test_colours_on_a_terminal(ctl: Daemon, failed: str) -> None:
    def on_terminal(**environment: str) -> bytes:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "scd.cli.main", "-c", str(ctl.file), "jobs"], stdout=theirs,
            env={**os.environ, "TERM": "xterm", **environment},
        ) as process:  # fmt: skip
            os.close(theirs)
            data = b""
            while True:
                try:
                    part = os.read(ours, 4096)
                except OSError:
                    break
                if not part:
                    break
                data += part
            process.wait(30)
        os.close(ours)
        return data

    assert b"\x1b[31mfailed" in on_terminal()
    assert b"\x1b[" not in on_terminal(NO_COLOR="1")


def test_a_reader_that_has_seen_enough(ctl: Daemon, failed: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m scd.cli.main -c {ctl.file} --json jobs | head -c 10",
        shell=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""


def test_hash_password(ctl: Daemon) -> None:
    done = scdctl(ctl, "hash-password", text="correct horse\n")
    assert argon2.PasswordHasher().verify(done.stdout.strip(), "correct horse")
    assert scdctl(ctl, "hash-password", text="\n").returncode == 1


def test_hash_password_before_there_is_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "scd.toml").write_text('[[runtime]]\npython = "/nowhere"\n')
    done = subprocess.run(
        [sys.executable, "-m", "scd.cli.main", "-c", str(tmp_path / "scd.toml"), "hash-password"],
        input="correct horse\n", capture_output=True, text=True,
    )  # fmt: skip
    assert argon2.PasswordHasher().verify(done.stdout.strip(), "correct horse"), done.stderr


def test_without_the_daemon_reads_work_and_writes_say_so(ctl: Daemon, failed: str) -> None:
    ctl.stop()
    assert failed[:8] in good(ctl, "jobs")
    assert "error: expected ','" in good(ctl, "log", f"{failed[:8]}.lint/0")
    done = scdctl(ctl, "cancel", failed[:8])
    assert done.returncode == 3
    assert "Is it running?" in done.stderr


def test_before_scd_ever_ran(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    done = scdctl(daemon, "jobs")
    assert done.returncode == 1
    assert f"There is no {daemon.state}/scd.db: scd has not run with this configuration yet." in done.stderr


def test_checking_and_showing_a_configuration(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)

    def scd(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scd.daemon", "-c", str(daemon.file), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert scd("--check-config").stdout == "The configuration is good.\n"
    assert f'state = "{daemon.state}"' in scd("--show-config").stdout
    daemon.file.write_text(daemon.file.read_text() + "[limits]\nmax_nodez = 1\n")
    for mode in ((), ("--check-config",), ("--show-config",)):
        done = scd(*mode)
        assert done.returncode == 78
        assert done.stderr == f"scd: {daemon.file}: limits.max_nodez: there is no such key (scd.toml(5) lists them)\n"


def test_a_runtime_without_siliconcompiler(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, runtime="/bin/false")
    done = subprocess.run(
        [sys.executable, "-m", "scd.daemon", "-c", str(daemon.file), "--check-config"], capture_output=True, text=True
    )
    assert done.returncode == 78
    assert "runtime 'default': /bin/false: it printed no version. Install SiliconCompiler there" in done.stderr
