"""/healthz: what makes it say that scd cannot do its work; /metrics: what it costs."""

import json
from pathlib import Path
from typing import cast

import pytest
from starlette.requests import Request

from scd.board import Board
from scd.config import Config, Local, Settings, User
from scd.executors.base import Spec
from scd.executors.local import LocalExecutor
from scd.launcher.gateway import Gateway
from scd.metrics import Metrics
from scd.scheduler import Scheduler
from scd.spool import Spool
from scd.store import Database, JobStore, UsageStore
from scd.web import health
from scd.web.health import Health
from scd.web.monitor import Monitor
from scd.web.stream import Audience

pytestmark = pytest.mark.anyio
NOBODY = cast(Request, None)


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_FRESH", 0.0)


async def asked(found: Health) -> tuple[int, dict[str, str]]:
    response = await found.healthz(NOBODY)
    return response.status_code, json.loads(bytes(response.body))


async def test_a_database_that_cannot_be_read(tmp_path: Path) -> None:
    async with await Database.open(tmp_path / "scd.db") as database:
        found = Health(database, [])
        assert await asked(found) == (200, {"status": "ok"})
        async with database.transaction() as db:
            await db.execute("ALTER TABLE jobs RENAME TO gone")
        assert await asked(found) == (503, {"status": "failing", "reason": "the database does not answer"})


async def nothing_to_do(_: Spec) -> None:
    """No job is resumed."""


async def test_a_launcher_that_is_away(tmp_path: Path) -> None:
    config = Config(local=Local(account="eda", launcher=str(tmp_path / "launcher.sock")), users={"a": User("x")})
    launcher = Gateway(Settings(config))
    async with await Database.open(tmp_path / "scd.db") as database:
        found = Health(database, [LocalExecutor(Spool(tmp_path), launcher, lambda: None, nothing_to_do)])
        assert await asked(found) == (503, {"status": "failing", "reason": "scd-launcher does not answer"})
        assert found.troubles == {"local": "scd-launcher does not answer"}


async def test_a_scrape_reads_no_table(tmp_path: Path) -> None:
    async with await Database.open(tmp_path / "scd.db") as database:
        metrics = Metrics()
        scheduler = Scheduler(Settings(Config()), JobStore(database), UsageStore(database), Board(), metrics)
        monitor = Monitor(metrics, scheduler, Health(database, []), Audience(), {"state": tmp_path}, ["127.0.0.1"])
        asked: list[str] = []
        await database._reader.set_trace_callback(asked.append)
        response = await monitor.metrics(Request({"type": "http", "headers": [], "client": ("127.0.0.1", 1)}))
        assert b'scd_jobs{state="queued"} 0.0' in bytes(response.body)
        assert asked == ["SELECT 1 FROM jobs LIMIT 1"], "more than the look at whether the database answers"
