"""Tells the service manager that the daemon lives: that its scheduler still turns, not that a process is there."""

import asyncio

from .scheduler import Scheduler
from .systemd import notify, watchdog

_BEATS = 3  # within the time that is granted


async def beat(scheduler: Scheduler) -> None:
    """For ever, where there is a watchdog. A turn that fails, on a full disk for instance, is a sign of life too:
    to start anew would mend nothing. One that never ends is not."""
    granted = watchdog()
    while granted is not None:
        before = scheduler.turns
        scheduler.wake()
        await asyncio.sleep(granted / _BEATS)
        if scheduler.turns != before:
            notify("WATCHDOG=1")
