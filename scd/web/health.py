"""Whether scd can do its work: what a load balancer and a watchdog ask, often, without an account."""

import asyncio
import sqlite3
import time
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response

from ..executors.base import Executor
from ..store import Database
from .answers import JsonAnswer

_FRESH = 2.0  # seconds for which a look is good: strangers ask, and not each of them is worth one
_PATIENCE = 3.0  # for the database


class Health:
    """``executors`` are asked why they cannot start anything."""

    def __init__(self, database: Database, executors: Iterable[Executor]):
        self._database = database
        self._executors = tuple(executors)
        self._looking = asyncio.Lock()
        self._looked = -_FRESH
        self._reason = ""
        self.troubles: dict[str, str] = {executor.name: "" for executor in self._executors}

    async def healthz(self, _: Request) -> Response:
        """``{"status": "ok"}``, or 503 with a ``reason`` of one sentence, and no more."""
        reason = await self.look()
        return JsonAnswer({"status": "failing", "reason": reason}, 503) if reason else JsonAnswer({"status": "ok"})

    async def look(self) -> str:
        """Why scd cannot do its work, "" if it can."""
        async with self._looking:
            if time.monotonic() - self._looked >= _FRESH:
                self.troubles = {executor.name: await executor.trouble() for executor in self._executors}
                troubles = [await self._database_trouble(), *self.troubles.values()]
                self._reason = next((trouble for trouble in troubles if trouble), "")
                self._looked = time.monotonic()
        return self._reason

    async def _database_trouble(self) -> str:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._database.read("SELECT 1 FROM jobs LIMIT 1")
        except (TimeoutError, sqlite3.Error):
            return "the database does not answer"
        return ""
