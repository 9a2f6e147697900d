"""Who may submit one more job: asked before an upload is taken, and once more where the job is written down."""

import aiosqlite

from . import limits
from .config import Budget, Settings
from .model import Usage
from .scheduler import Scheduler
from .store import UsageStore


class Admission:
    def __init__(self, settings: Settings, usage: UsageStore, scheduler: Scheduler):
        self._settings = settings
        self._usage = usage
        self._scheduler = scheduler

    async def spent(self, user: str, db: aiosqlite.Connection | None = None) -> list[tuple[Budget, Usage]]:
        """What is used of all that count what ``user`` does; live nodes count as they run."""
        found = []
        for budget in self._settings.budgets_of(user):
            period = budget.limits.period
            since = limits.period_start(period)
            running = self._scheduler.running_core_seconds(budget.members, since)
            found.append((budget, await self._usage.current(budget.members, since, period, running, db)))
        return found

    async def check(self, user: str, size: int, db: aiosqlite.Connection | None = None) -> None:
        """Raise LimitReached for one more job with an upload of ``size`` bytes.

        ``db``: the transaction that writes the job down, so that of two at once one sees the other.
        """
        limits.admit(await self.spent(user, db), size)
