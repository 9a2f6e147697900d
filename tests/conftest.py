from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from .harness import Daemon

# How long an example takes says more of the machine than of scd.
settings.register_profile("scd", deadline=None)
settings.load_profile("scd")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def new_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Make and start daemons of a test's own; ended with all that they started."""
    made: list[Daemon] = []

    def make(config: str = "", **options: Any) -> Daemon:
        daemon = Daemon(tmp_path / f"scd{len(made)}", config, **options)
        made.append(daemon)
        return daemon.start()

    yield make
    for daemon in made:
        daemon.end_everything()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests of a module, in its default configuration."""
    daemon = Daemon(tmp_path_factory.mktemp("scd"))
    yield daemon.start()
    daemon.end_everything()
