"""At start: find again what ran on without the daemon, and clear what a crash left half made."""

import asyncio
import logging

from .scheduler import Scheduler
from .spool import Spool
from .store import JobStore

log = logging.getLogger(__name__)


async def recover(scheduler: Scheduler, store: JobStore, spool: Spool) -> None:
    """Bury what was never acknowledged or is deleted, then take up every unfinished job."""
    there, known = await asyncio.to_thread(spool.hashes), await store.known_hashes()
    marked = await asyncio.to_thread(spool.unacknowledged)
    for job_hash in marked & known:  # killed between the commit and this
        await asyncio.to_thread(spool.acknowledge, job_hash)
    unknown = there - known
    buried = await store.buried_hashes() if unknown else set()
    for job_hash in sorted(unknown & (buried | marked)):
        log.info("job=%s its directory is removed: it was never acknowledged, or is deleted", job_hash)
        await asyncio.to_thread(spool.bury, job_hash)
    if orphans := unknown - buried - marked:  # a database that was restored from a backup knows less than the disk
        log.warning("%d job directories are not in the database: see scdctl check", len(orphans))
    jobs = await scheduler.load()
    if jobs:
        log.info("%d unfinished jobs are taken up again", len(jobs))
    await scheduler.resubmit()
