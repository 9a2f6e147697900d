"""How many requests an account may still send to a controller that counts them (Slurm's ``rl_enable``)."""

import asyncio
import time
from collections.abc import Callable

from ..slurm_site import Limit


class Bucket:
    """Never more is taken than the controller has: it refills its own at the end of a period, this one all the time.

    It begins less than half full, since nobody knows what the account has sent before.
    """

    def __init__(self, limit: Limit, now: Callable[[], float] = time.monotonic):
        self._now = now
        self.rate = limit.refill / limit.period  # a second
        self._size = float(max(1, limit.burst - limit.refill))
        self._left = max(0.0, limit.burst / 2 - limit.refill)
        self._then = now()

    def take(self, count: int, keep: float = 0.0) -> bool:
        """Whether ``count`` requests may be sent now. ``keep``: the part of the bucket that is for what is urgent."""
        if self.lacks(count, keep) > 0.0:
            return False
        self._left -= count  # less than nothing after a command that alone needs more than there can be
        return True

    def lacks(self, count: int, keep: float = 0.0) -> float:
        """Seconds until ``take`` may succeed. Others may come first."""
        now = self._now()
        self._left = min(self._size, self._left + (now - self._then) * self.rate)
        self._then = now
        needed = min(self._size, count + keep * self._size)
        return max(0.0, (needed - self._left) / self.rate)

    async def wait(self, count: int) -> None:
        """Until ``take`` succeeds."""
        while True:
            if self.take(count):
                return
            await asyncio.sleep(max(0.01, self.lacks(count)))
