"""At start: find again what ran on without the daemon, and clear what a crash left half made."""

import asyncio
import logging

from .scheduler import Scheduler
from .spool import Spool
from .store import JobStore

log = logging.getLogger(__name__)


async def recover(scheduler: Scheduler, store: JobStore, spool: Spool) -> None:
    """Remove directories of submissions that were never acknowledged, then take up every unfinished job."""
    known = await store.known_hashes()
    for job_hash in await asyncio.to_thread(spool.hashes) - known:
        log.info("job=%s was never acknowledged: its directory is removed", job_hash)
        await asyncio.to_thread(spool.remove, job_hash)
    jobs = await scheduler.load()
    if jobs:
        log.info("%d unfinished jobs are taken up again", len(jobs))
    await scheduler.resubmit()
