"""At start: find again what ran on without the daemon, and clear what a crash left half made."""

import asyncio
import logging

from .scheduler import Scheduler
from .spool import Spool
from .store import JobStore

log = logging.getLogger(__name__)


async def recover(scheduler: Scheduler, store: JobStore, spool: Spool) -> None:
    """Remove what was never acknowledged or is deleted, then take up every unfinished job."""
    unknown = await asyncio.to_thread(spool.hashes) - await store.known_hashes()
    buried = await store.buried_hashes() if unknown else set()
    orphans = 0
    for job_hash in sorted(unknown):
        if job_hash in buried or await asyncio.to_thread(spool.job(job_hash).unacknowledged.exists):
            log.info("job=%s its directory is removed: it was never acknowledged, or is deleted", job_hash)
            await asyncio.to_thread(spool.remove, job_hash)
        else:  # a database that was restored from a backup knows less than the disk
            orphans += 1
    if orphans:
        log.warning("%d job directories are not in the database: see scdctl check", orphans)
    jobs = await scheduler.load()
    if jobs:
        log.info("%d unfinished jobs are taken up again", len(jobs))
    await scheduler.resubmit()
