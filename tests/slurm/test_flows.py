"""The real client, with all nodes in Slurm: statuses and files as of a local run."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from ..acceptance.test_flows import FLOWS, ONLY_REMOTE, files
from ..harness import Daemon, Json, run_client, run_locally
from .cluster import Cluster
from .site import Site

Flow = tuple[str, tuple[str, ...]]

SLOW = bool(os.environ.get("SCD_TEST_SLOW"))
# One of each kind; all of them with SCD_TEST_SLOW.
SOME: list[Flow] = [
    ("fan", ()),
    ("minimum", ()),
    ("lint", ("rtl=bad",)),
    ("lint-builtin", ("rtl=bad", "continue=lint")),
    ("work", ("script=echo done > reports/done.txt",)),
    ("work", ("script=exit 3",)),
]
CHOSEN: list[Flow] = [flow for flow in FLOWS if flow[0] != "simulate"] if SLOW else SOME
_AT_ONCE = 3


@pytest.fixture(scope="module")
def daemon(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    made = Site(slurm, tmp_path_factory.mktemp("site"))
    yield made.daemon(dispatch='default = "slurm"')
    made.end()


@pytest.fixture(scope="module")
def clients(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Flow, Future[Json]]]:
    """Each flow's client, some at a time: most of what they do is waiting for Slurm."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {
            (flow, options): pool.submit(
                run_client, tmp_path_factory.mktemp("remote"), flow, daemon, *options, timeout=300
            )
            for flow, options in CHOSEN
        }


@pytest.mark.parametrize(
    ("flow", "options"), CHOSEN, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_a_flow_gives_what_a_local_run_gives(
    tmp_path: Path, clients: dict[Flow, Future[Json]], daemon: Daemon, flow: str, options: tuple[str, ...]
) -> None:
    remote = clients[flow, options].result()
    local = run_locally(tmp_path, flow, *options)
    assert remote["error"] == "", f"the client raised: {remote['error']}\n{remote['log']}"
    assert remote["statuses"] == local["statuses"], f"other statuses than a local run:\n{remote['log']}"
    there, here = Path(remote["directory"]), Path(local["directory"])
    assert files(there) - ONLY_REMOTE == files(here), "other files than a local run"
    attempts = daemon.rows("SELECT executor, handle FROM attempts WHERE job_hash = ?", remote["job_hash"])
    assert {row["executor"] for row in attempts} == {"slurm"}
    assert all(row["handle"] for row in attempts)
