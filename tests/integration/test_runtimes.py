"""What a site gives a runtime besides its Python: tools on the path, variables, and what is run before it."""

import subprocess
import sys
from pathlib import Path

import pytest

from ..harness import ROOT, RUNTIME, Daemon, can_isolate
from .submission import collected, manifest, member, set_value

SCRIPT = "(echo $(sitetool) $SITE_LICENSE $FROM_PROLOG; echo $PATH) >out 2>&1"


def write_tool(directory: Path) -> Path:
    directory.mkdir()
    tool = directory / "sitetool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    return directory


def output(daemon: Daemon) -> list[str]:
    option = f"script={SCRIPT}"
    cfg = set_value(manifest("work", option), 1, "option", "scheduler", "cores")
    job_hash = daemon.submit(cfg, collected("work", option)).json()["job_hash"]
    assert daemon.wait(job_hash)["status"] == "completed"
    return (
        member(daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"}).content, "/out").decode().split("\n")
    )


@pytest.mark.parametrize("isolation", ["auto", "none"])
def test_nodes_have_the_tools_and_variables_of_their_runtime(tmp_path: Path, isolation: str) -> None:
    if isolation == "auto" and not can_isolate():
        pytest.skip("no sandbox can be made here")
    tools = write_tool(tmp_path / "tools")
    daemon = Daemon(
        tmp_path / "scd",
        f'[[runtime]]\npython = "{RUNTIME}"\npath = ["{tools}"]\nenv = {{ SITE_LICENSE = "27000@licenses" }}\n'
        f"prolog = '''\nload() {{ export FROM_PROLOG=$1; }}\nload \"yes indeed\"\n'''\n"
        f'[local]\nisolation = "{isolation}"\n',
    ).start()
    try:
        said, path, *_ = output(daemon)
    finally:
        daemon.end_everything()
    assert said == "found 27000@licenses yes indeed"
    assert path.startswith(f"{tools}:/usr/local/sbin:")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("prolog = 'module load yosys'", "module"),
        ("prolog = 'exit 3'", "prolog"),
        ("env = { PATH = '/opt/bin' }", "PATH is scd's own, and path adds to it"),
        ("env = { 'A=B' = '1' }", "is not the name of a variable"),
        ("path = ['bin']", "not an absolute path"),
        ("accepts = '0.54 to 0.57'", "not written as pip does"),
    ],
)
def test_a_runtime_that_cannot_work_is_refused_at_start(tmp_path: Path, keys: str, said: str) -> None:
    daemon = Daemon(tmp_path / "scd", f'[[runtime]]\npython = "{RUNTIME}"\n{keys}\n')
    done = subprocess.run(
        [sys.executable, "-m", "scd.daemon", "-c", str(daemon.file), "--check-config"],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 78, done.stderr
    assert said in done.stderr
