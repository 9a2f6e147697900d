"""A submission on its way to the disk and into the database."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator
from typing import IO

import aiosqlite
import msgspec

from .admission import Admission
from .auth import Identity
from .config import Settings
from .errors import BadRequest, DiskFull, NotOwner, TooLarge, UnknownJob
from .manifest import Manifest
from .model import Job, Tombstone
from .placement import prepares
from .runtimes import Runtimes
from .scheduler import Scheduler
from .sealing import Sealing
from .spool import JobDirectory, Spool, Writer
from .states import JobState
from .store import JobStore
from .units import format_size

_BLOCK = 2**20
_SYNC_EVERY = 64 * 2**20  # so that the last fsync is short, and the answer is there within the client's 10 s
_RETRY_WINDOW = 300.0


def digest(user: str, resumed: str | None, manifest: bytes | msgspec.Raw) -> str:
    """What makes two submissions the same request. The key is no part of it: digests are stored."""
    found = hashlib.sha256(f"{user}\0{resumed or ''}\0".encode())
    found.update(manifest)
    return found.hexdigest()


class Intake:
    def __init__(
        self, settings: Settings, spool: Spool, store: JobStore, scheduler: Scheduler, sealing: Sealing,
        runtimes: Runtimes, admission: Admission,
    ):  # fmt: skip
        self._settings = settings
        self._sealing = sealing
        self._spool = spool
        self._store = store
        self._scheduler = scheduler
        self._runtimes = runtimes
        self._admission = admission
        self._resuming = asyncio.Lock()
        self._in_flight: dict[tuple[str, str], asyncio.Future[str]] = {}

    async def retried(self, user: str, fingerprint: str) -> str:
        """The job of the earlier, unanswered request that an empty import repeats. Raises BadRequest."""
        earlier = self._in_flight.get((user, fingerprint))
        if earlier is not None:
            return await asyncio.shield(earlier)
        job_hash = await self._store.retried(fingerprint, user, time.time() - _RETRY_WINDOW)
        if job_hash is None:
            raise BadRequest(
                "The import is empty, and no earlier submission of this job waits for its answer. Run it again."
            )
        return job_hash

    async def new(
        self, owner: Identity, fingerprint: str, manifest: Manifest, write_manifest: Writer,
        upload: AsyncIterator[bytes],
    ) -> str:  # fmt: skip
        """Take the upload, make it last, and queue the job. Leaves nothing behind if it fails."""
        user = owner.user
        staged = await asyncio.to_thread(self._spool.stage)
        arrived: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        arrived.add_done_callback(lambda future: future.cancelled() or future.exception())
        first = self._in_flight.setdefault((user, fingerprint), arrived) is arrived
        job_hash = secrets.token_hex(16)
        try:
            begun = time.monotonic()
            size = await self._receive(staged, upload)
            seconds = time.monotonic() - begun
            if size == 0:
                raise BadRequest("The import is empty.")
            await asyncio.to_thread(write_manifest, staged.manifest(1))
            await asyncio.to_thread(self._spool.commit, staged, job_hash)
            await self._insert(self._job(job_hash, owner, fingerprint, manifest, size, seconds))
            await asyncio.to_thread(self._spool.acknowledge, job_hash)
            await self._scheduler.admit(job_hash)
            arrived.set_result(job_hash)
        except BaseException as error:
            arrived.set_exception(error if isinstance(error, Exception) else ConnectionError())
            await asyncio.shield(asyncio.to_thread(self._spool.discard, staged))
            raise
        finally:
            if first:
                del self._in_flight[user, fingerprint]
        return job_hash

    async def _insert(self, job: Job) -> None:
        """The row of a job whose directory is in its place; without the one the other goes again."""
        insert = asyncio.ensure_future(self._store.database.write(lambda db: self._admit(db, job)))
        try:
            await asyncio.shield(insert)
        except BaseException:
            await asyncio.wait([insert])  # also when this request is given up: the commit may still succeed
            if insert.cancelled() or insert.exception() is not None:
                await asyncio.to_thread(self._spool.remove, job.job_hash)
            raise

    async def _admit(self, db: aiosqlite.Connection, job: Job) -> None:
        """Others may have been admitted while this one's upload came."""
        if not job.state.ended:
            await self._admission.check(job.user, job.upload_bytes, db)
        await self._store.add(db, job)

    async def resume(
        self, job_hash: str, owner: Identity, fingerprint: str, manifest: Manifest, write_manifest: Writer
    ) -> str:
        """Queue an ended job again in its directory: only what is not done will run. One request at a time."""
        async with self._resuming:
            return await self._resume(job_hash, owner, fingerprint, manifest, write_manifest)

    async def resumed(self, job_hash: str, fingerprint: str) -> bool:
        """Whether an equal request has resumed the job, and it has not ended yet."""
        job = await self._store.job(job_hash)
        return job is not None and not job.state.ended and job.digest == fingerprint

    async def _resume(
        self, job_hash: str, owner: Identity, fingerprint: str, manifest: Manifest, write_manifest: Writer
    ) -> str:
        job = await self._store.job(job_hash) or await self._store.tombstone(job_hash)
        if job is None:
            raise UnknownJob(f"There is no job {job_hash} here to resume. Submit it again with clean set.")
        if job.user != owner.user:
            raise NotOwner
        if isinstance(job, Tombstone):
            raise BadRequest(f"Job {job_hash} was deleted and cannot be resumed. Submit it again with clean set.")
        if job.public_key not in ("", owner.public_key):
            raise BadRequest(
                f"The files of job {job_hash} are encrypted to another key of this account. Log in with that one to "
                "resume it, or submit it again with clean set."
            )
        if not job.state.ended:
            if job.digest == fingerprint:
                return job_hash  # a repeated request
            raise BadRequest(f"Job {job_hash} is still {job.state}; cancel it first, or wait for its end.")
        runtime, upload_bytes = self._check_fits(job, manifest), job.upload_bytes
        try:
            await asyncio.to_thread(self._spool.add_manifest, job_hash, job.generation + 1, write_manifest)
        except FileNotFoundError:
            raise BadRequest(f"The files of job {job_hash} are gone. Submit it again with clean set.") from None
        if owner.key:
            self._sealing.keep(job_hash, job.generation + 1, owner.key)

        async def queue(db: aiosqlite.Connection) -> bool:
            await self._admission.check(owner.user, upload_bytes, db)
            return await self._store.resume(
                db, job_hash, manifest.flow, runtime, fingerprint, self._prepares(manifest), owner.public_key
            )

        if not await self._store.database.write(queue):
            raise BadRequest(f"Job {job_hash} was resumed by another request.")
        await self._scheduler.admit(job_hash)
        return job_hash

    def _check_fits(self, job: Job, manifest: Manifest) -> str:
        """The runtime of a resume with this manifest. Raises BadRequest."""
        if (job.design, job.jobname) != (manifest.design, manifest.jobname):
            raise BadRequest(
                f"Job {job.job_hash} is of {job.design}/{job.jobname}, not of {manifest.design}/{manifest.jobname}."
            )
        runtime = self._runtimes.choose(manifest.schema_version)
        if runtime is None:
            raise BadRequest(self._runtimes.refusal(manifest.schema_version))
        return runtime

    async def answered(self, job_hash: str) -> None:
        """The client has its answer: an equal request is no retry any more."""
        with contextlib.suppress(sqlite3.Error):  # the job is kept, and that is what the answer says
            await self._store.database.write(lambda db: self._store.answered(db, job_hash))

    def check_space(self, announced: int) -> None:
        """Refuse early what would leave less than ``paths.min_free``. Blocks. Raises DiskFull."""
        free = self._spool.free()
        min_free = self._settings.config.paths.min_free
        if free - announced < min_free:
            raise DiskFull(
                f"The server's disk has {format_size(free)} left, and {format_size(min_free)} of it stay free. "
                "Nothing was taken; try again when jobs have been deleted, or tell the administrator."
            )

    def _prepares(self, manifest: Manifest) -> str:
        """The executor that prepares a job."""
        return prepares(self._settings.config, manifest.nodes, manifest.schedulers)

    def _job(
        self, job_hash: str, owner: Identity, fingerprint: str, manifest: Manifest, size: int, seconds: float
    ) -> Job:
        """Queued, or rejected at once where no runtime takes its manifest: the client shows that reason."""
        now = time.time()
        runtime = self._runtimes.choose(manifest.schema_version)
        return Job(
            job_hash=job_hash, user=owner.user, state=JobState.QUEUED if runtime else JobState.REJECTED,
            reason="" if runtime else self._runtimes.refusal(manifest.schema_version), design=manifest.design,
            jobname=manifest.jobname, flow=manifest.flow, runtime=runtime or "", created=now, started=None,
            ended=None if runtime else now, upload_bytes=size, digest=fingerprint, answered=False, cancel_reason=None,
            generation=1, plan=None, upload_seconds=seconds, public_key=owner.public_key,
            executor=self._prepares(manifest),
        )  # fmt: skip

    async def _receive(self, staged: JobDirectory, upload: AsyncIterator[bytes]) -> int:
        """Stream to the disk, a block at a time, off the event loop."""
        size = synced = 0
        most = self._settings.config.server.max_upload
        block = bytearray()
        with await asyncio.to_thread(open, staged.import_archive, "xb", buffering=0) as file:
            async for data in upload:
                size += len(data)
                if size > most:
                    raise TooLarge(f"The upload is larger than the {format_size(most)} allowed here.")
                block += data
                if len(block) >= _BLOCK:
                    sync = size - synced >= _SYNC_EVERY
                    synced = size if sync else synced
                    await asyncio.to_thread(_write, file, block, sync)
                    block = bytearray()
            await asyncio.to_thread(_write, file, block, False)
        return size


def _write(file: IO[bytes], block: bytearray, sync: bool) -> None:
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]
    if sync:
        os.fdatasync(file.fileno())
