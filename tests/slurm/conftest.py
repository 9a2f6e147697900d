"""A real cluster, and daemons that use it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness import Daemon
from .cluster import Cluster, cluster, why_not
from .site import Site


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """One cluster for all tests; each leaves it running."""
    if reason := why_not():
        pytest.skip(f"no Slurm cluster can be started: {reason}")
    with cluster() as made:
        yield made


@pytest.fixture
def site(slurm: Cluster, tmp_path: Path) -> Iterator[Site]:
    made = Site(slurm, tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="module")
def shared_daemon(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests of a module, all of whose nodes go to Slurm."""
    made = Site(slurm, tmp_path_factory.mktemp("site"))
    yield made.daemon()
    made.end()
