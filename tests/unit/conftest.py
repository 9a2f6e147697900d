from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scd.store import Database, JobStore


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    found = await Database.open(tmp_path / "scd.db")
    yield found
    await found.close()


@pytest.fixture
async def store(database: Database) -> JobStore:
    return JobStore(database)
