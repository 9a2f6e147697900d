"""Designs whose files come from a package of the network: the site fetches it, its jobs find it."""

import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ..harness import ROOT, RUNTIME, Daemon, can_isolate, run_client
from .client import GOOD

OLDEST = os.environ.get("SCD_TEST_OLDEST", "")
sandboxed = pytest.mark.skipif(not can_isolate(), reason="without a sandbox jobs fetch packages themselves")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def source(tmp_path: Path) -> Iterator[str]:
    """The address of an archive with top.v, and with what no package should have."""
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "ip.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("top.v")
        entry.size = len(GOOD)
        tar.addfile(entry, io.BytesIO(GOOD.encode()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/ip.tar.gz"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def python() -> str:
    return RUNTIME


@pytest.fixture
def daemon(tmp_path: Path, source: str, python: str) -> Iterator[Daemon]:
    allowed = source.removesuffix("ip.tar.gz")
    daemon = Daemon(tmp_path / "scd", f'[packages]\nsources = ["{allowed}"]\n', runtime=python)
    yield daemon.start()
    daemon.end_everything()


def scdctl(daemon: Daemon, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "scd.cli.main", "-c", str(daemon.file), *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip


@sandboxed
@pytest.mark.parametrize(
    "python",
    [
        RUNTIME,
        pytest.param(
            OLDEST,
            marks=pytest.mark.skipif(
                not OLDEST, reason="SCD_TEST_OLDEST does not name a Python with the oldest supported client"
            ),
        ),
    ],
    ids=["this", "oldest"],
)
def test_a_missing_package_is_named_with_the_command_that_adds_it(
    tmp_path: Path, daemon: Daemon, source: str, python: str
) -> None:
    def run(directory: Path) -> dict[str, Any]:
        return run_client(directory, "lint", daemon, f"package={source}", python=python)

    first = run(tmp_path / "first")
    command = f"scdctl cache add ip {source} v1"
    assert command in first["log"], "the user is not told what to ask for"
    (job,) = daemon.rows("SELECT state, reason FROM jobs")
    assert job["state"] == "rejected"
    assert command in job["reason"]

    added = scdctl(daemon, *command.split()[1:])
    assert added.returncode == 0, added.stderr
    assert "ip is in the cache" in added.stdout
    assert run(tmp_path / "second")["statuses"] == {"lint/0": "success"}

    listed = scdctl(daemon, "cache", "list")
    assert source in listed.stdout
    assert scdctl(daemon, "cache", "remove", "ip").returncode == 0
    assert source not in scdctl(daemon, "cache", "list").stdout
    assert not list((daemon.directory / "cache").rglob("top.v")), "the package is still there"
    run(tmp_path / "third")
    assert [row["state"] for row in daemon.rows("SELECT state FROM jobs ORDER BY created")][-1] == "rejected"


@pytest.mark.parametrize(
    ("name", "where", "reference", "said"),
    [
        ("ip", "https://elsewhere.example/ip.tar.gz", "v1", "not a source that this site trusts"),
        ("ip", "{site}@elsewhere.example/ip.tar.gz", "v1", "not a source that this site trusts"),
        ("ip", "{site}/x/../../ip.tar.gz", "v1", "steps up and down"),
        ("ip", "{site}/%2e%2e/ip.tar.gz", "v1", "steps up and down"),
        ("ip", "python://os", "v1", "not a source that this site trusts"),
        ("../ip", "{site}/ip.tar.gz", "v1", "not the name of a package"),
        ("ip", "{site}/ip.tar.gz", "../v1", "not a version"),
        ("ip", "{site}/ip.tar.gz", "--upload-pack=x", "not a version"),
        ("ip", "{site}/none.tar.gz", "v1", "404"),
    ],
)
def test_what_is_not_fetched(daemon: Daemon, source: str, name: str, where: str, reference: str, said: str) -> None:
    site = source.removesuffix("/ip.tar.gz")
    refused = scdctl(daemon, "cache", "add", "--", name, where.format(site=site), reference)
    assert refused.returncode != 0
    assert said in refused.stderr
    left = [path for path in (daemon.directory / "cache").rglob("*-v1-*") if path.is_dir()]
    assert not left, "something of it stayed"


def test_a_source_that_python_would_import_is_never_fetched(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "scd", '[packages]\nsources = ["python://", "file://"]\n')
    (daemon.directory / "cache").mkdir()
    (tmp_path / "package").mkdir()
    for where in ("python://this", f"file://{tmp_path}/package"):
        refused = scdctl(daemon, "cache", "add", "ip", where, "v1")
        assert refused.returncode == 1
        assert "not fetched over the network" in refused.stderr
