"""What the handlers work with, and whose a job is."""

from collections.abc import Callable

import msgspec

from ..admission import Admission
from ..board import Board
from ..config import Settings
from ..drain import Drain
from ..errors import NotOwner, UnknownJob
from ..executors.base import Executor
from ..intake import Intake
from ..janitor import Janitor
from ..metrics import Metrics
from ..model import Job, Tombstone
from ..reload import Reload
from ..runtimes import Runtimes
from ..scheduler import Scheduler
from ..spool import Spool
from ..store import JobStore, UsageStore
from .health import Health
from .login import Login
from .progress import Progress


class Services(msgspec.Struct):
    """What the handlers work with."""

    settings: Settings
    store: JobStore
    usage: UsageStore
    admission: Admission
    spool: Spool
    scheduler: Scheduler
    executor: Executor
    board: Board
    runtimes: Runtimes
    login: Login
    intake: Intake
    janitor: Janitor
    progress: Progress
    metrics: Metrics
    health: Health
    drain: Drain
    reload: Reload
    draining: Callable[[], str]  # why no new jobs are taken, "" if they are


async def owned(store: JobStore, job_hash: str, user: str) -> Job | Tombstone:
    """The job or its tombstone. 404 only for a hash that never was a job: the client polls a 404 for ever."""
    job = await store.job(job_hash) or await store.tombstone(job_hash)
    if job is None:
        raise UnknownJob(f"There is no job {job_hash} here.")
    if job.user != user:
        raise NotOwner
    return job
