"""The real client on scd, and the same flow locally: statuses and files must be the same."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness import RUNTIME, Daemon, Json, run_client, run_locally

OLDEST = os.environ.get("SCD_TEST_OLDEST", "")
# The client's own note of where the job runs; a local run has none.
ONLY_REMOTE = {"sc_remote.pkg.json"}

FLOWS = [
    ("chain", ()),
    ("fan", ()),
    ("minimum", ()),
    ("maximum", ()),
    ("fan", ("to=mid",)),
    ("lint", ("rtl=good",)),
    ("lint", ("rtl=bad",)),
    ("elaborate", ()),
    ("lint-builtin", ("rtl=bad",)),
    ("lint-builtin", ("rtl=bad", "continue=lint")),
    ("lint-lint", ("rtl=bad",)),
    ("lint-lint", ("rtl=bad", "continue=lint")),
    ("work", ("script=echo done > reports/done.txt",)),
    ("work", ("script=echo unexpected > outputs/file.txt",)),
    ("work", ("script=exit 3",)),
    ("work", ("script=exit 3", "continue=work")),
    ("simulate", ()),
]


def files(directory: Path) -> set[str]:
    """The files of a build directory, relative to its job."""
    (job,) = (directory / "build" / "top").iterdir()
    return {str(path.relative_to(job)) for path in job.rglob("*") if not path.is_dir()}


def compare(tmp_path: Path, daemon: Daemon, flow: str, options: tuple[str, ...], python: str = RUNTIME) -> Json:
    """Run remotely and locally; the remote report."""
    remote = run_client(tmp_path / "remote", flow, daemon, *options, python=python)
    local = run_locally(tmp_path / "local", flow, *options, python=python)
    assert remote["error"] == "", f"the client raised: {remote['error']}\n{remote['log']}"
    assert remote["statuses"] == local["statuses"], f"other statuses than a local run:\n{remote['log']}"
    here = Path(local["directory"])
    assert files(tmp_path / "remote") - ONLY_REMOTE == files(here), "other files than a local run"
    return remote


@pytest.mark.parametrize(
    ("flow", "options"), FLOWS, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_a_flow_gives_what_a_local_run_gives(
    tmp_path: Path, daemon: Daemon, flow: str, options: tuple[str, ...]
) -> None:
    if flow == "simulate" and shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed (Debian: apt-get install iverilog)")
    compare(tmp_path, daemon, flow, options)


def test_a_failed_job_says_why_in_the_users_terminal(tmp_path: Path, daemon: Daemon) -> None:
    report = run_client(tmp_path, "lint", daemon, "rtl=bad")
    assert "Job is still running: lint/0 slang/lint reported 4 errors" in report["log"]
    assert "Job status: failed" in report["log"]
    (job,) = daemon.rows("SELECT state, reason FROM jobs WHERE job_hash = ?", report["job_hash"])
    assert job["state"] == "failed"
    assert "lint/0" in job["reason"]


def test_what_a_node_made_arrives_whole(tmp_path: Path, daemon: Daemon) -> None:
    run_client(tmp_path, "work", daemon, "script=seq 100000 > reports/numbers.txt; ln -s numbers.txt reports/link.txt")
    reports = tmp_path / "build" / "top" / "job0" / "work" / "0" / "reports"
    expected = "".join(f"{number}\n" for number in range(1, 100001))
    assert (reports / "numbers.txt").read_text() == expected
    assert (reports / "link.txt").read_text() == expected, "a link inside the node's directory is followed"


@pytest.mark.skipif(not OLDEST, reason="SCD_TEST_OLDEST does not name a Python with the oldest supported client")
@pytest.mark.parametrize(("flow", "options"), [("chain", ()), ("fan", ()), ("minimum", ()), ("lint", ("rtl=bad",))])
def test_the_oldest_client_on_the_newest_runtime(
    tmp_path: Path, daemon: Daemon, flow: str, options: tuple[str, ...]
) -> None:
    compare(tmp_path, daemon, flow, options, python=OLDEST)


@pytest.fixture(scope="module")
def oldest_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("oldest"), runtime=OLDEST)
    yield daemon.start()
    daemon.end_everything()


@pytest.mark.skipif(not OLDEST, reason="SCD_TEST_OLDEST does not name a Python with the oldest supported client")
@pytest.mark.parametrize(("flow", "options"), [("chain", ()), ("lint", ("rtl=bad",)), ("lint-lint", ("rtl=bad",))])
def test_the_oldest_client_on_the_oldest_runtime(
    tmp_path: Path, oldest_daemon: Daemon, flow: str, options: tuple[str, ...]
) -> None:
    compare(tmp_path, oldest_daemon, flow, options, python=OLDEST)


@pytest.mark.skipif(not OLDEST, reason="SCD_TEST_OLDEST does not name a Python with the oldest supported client")
def test_a_manifest_that_is_newer_than_every_runtime_is_rejected(tmp_path: Path, oldest_daemon: Daemon) -> None:
    report = run_client(tmp_path, "chain", oldest_daemon)
    assert "Job was rejected: This job's manifest has schema version" in report["log"]
    assert "0.37.12 (schema 0.54 to 0.54.0)" in report["log"], "the message names what the server has"
