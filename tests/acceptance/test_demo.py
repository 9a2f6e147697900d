"""The first thing that a new user runs."""

import os
import subprocess
import sys
from pathlib import Path

from ..harness import RUNTIME, can_isolate

DEMO = (sys.executable, "-c", "from scd.demo.main import main; main()")
NODES = ("elaborate/0", "lint/0", "variant/0", "variant/1", "variant/2", "variant/3", "collect/0", "done/0")


def test_the_demo_runs_its_design_and_leaves_nothing_running(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--runtime", RUNTIME, "--directory", str(tmp_path)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for node in NODES:
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"│ {node}"))
        assert "success" in line, line
    assert ("without a sandbox" in done.stdout) != can_isolate()
    results = tmp_path / "build" / "heartbeat" / "job0"
    assert str(results) in done.stdout
    assert "module heartbeat" in (results / "elaborate/0/outputs/heartbeat.v").read_text()
    assert not (tmp_path / "server").exists(), "the private daemon's files are removed"
    assert running(tmp_path) == [], "processes were left"


def test_the_demo_says_when_there_is_no_sandbox(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()  # no bwrap in there
    done = subprocess.run(
        [*DEMO, "--runtime", RUNTIME, "--directory", str(tmp_path)], env={**os.environ, "PATH": str(tmp_path / "bin")},
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    (line,) = (line for line in done.stdout.splitlines() if "without a sandbox" in line)
    assert line == (
        "Its nodes run without a sandbox, on loopback only: jobs run in a sandbox, and bwrap is not installed. "
        "Install it: apt install bubblewrap."
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert running(tmp_path) == []


def test_the_demo_says_what_a_wrong_runtime_lacks(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--runtime", "/bin/false", "--directory", str(tmp_path)],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1
    assert "runtime 'default': /bin/false: it printed no version" in done.stderr
    assert running(tmp_path) == []


def running(directory: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(directory).encode() in line:
                found.append(line.replace(b"\0", b" ").decode())
    return found
