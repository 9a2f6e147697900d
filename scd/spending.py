"""What users have used of their compute time while it is being used: asked in each turn of the scheduler."""

import time
from collections.abc import Iterable, Mapping

import aiosqlite
import msgspec

from . import limits
from .config import Budget, Settings
from .share import Running
from .store import UsageStore
from .store.usage import EVER

_FRESH = 60.0  # seconds after which the ledger is read again: a clock may have been set


class _Entry(msgspec.Struct):
    since: float
    spent: float  # core-seconds that are charged
    until: float  # on the monotonic clock


class Spending:
    def __init__(self, settings: Settings, usage: UsageStore):
        self._settings = settings
        self._usage = usage
        self._entries: dict[Budget, _Entry] = {}

    def charge(self, user: str, ended: float, elapsed: float, cores: int) -> None:
        """A node's end was charged."""
        for budget, entry in self._entries.items():
            if user in budget.members:
                entry.spent += max(0.0, min(elapsed, ended - entry.since)) * cores

    def forget(self) -> None:
        """What was charged last may not have been kept."""
        self._entries.clear()

    async def exhausted(
        self, db: aiosqlite.Connection, users: Iterable[str], running: Mapping[str, Iterable[Running]]
    ) -> tuple[dict[str, str], float | None]:
        """Whose compute time is used up, in words for him; and in how many seconds to look again at the latest."""
        found: dict[str, str] = {}
        known: dict[Budget, str] = {}
        soonest: float | None = None
        for user in users:
            for budget in self._settings.budgets_of(user):
                if budget.limits.compute_time is None:
                    continue
                if budget not in known:
                    known[budget], left = await self._look(db, budget, running)
                    soonest = min((seconds for seconds in (soonest, left) if seconds is not None), default=None)
                if known[budget]:
                    found.setdefault(user, known[budget])
        return found, soonest

    async def _look(
        self, db: aiosqlite.Connection, budget: Budget, running: Mapping[str, Iterable[Running]]
    ) -> tuple[str, float | None]:
        assert budget.limits.compute_time is not None
        period = budget.limits.period
        since = limits.period_start(period)
        spent = await self._charged(db, budget, since)
        longest = time.time() - since
        rate = 0
        for member in budget.members:
            for node in running.get(member, ()):
                spent += min(node.elapsed, longest) * node.cores
                rate += node.cores
        if reason := limits.exhausted(budget, spent, since + period):
            return reason, period - longest
        return "", (budget.limits.compute_time - spent) / rate if rate else None

    async def _charged(self, db: aiosqlite.Connection, budget: Budget, since: float) -> float:
        entry, now = self._entries.get(budget), time.monotonic()
        if entry is None or entry.since != since or entry.until < now:
            spent, _ = await self._usage.spent(budget.members, since, EVER, db)
            entry = self._entries[budget] = _Entry(since, spent, now + _FRESH)
        return entry.spent
