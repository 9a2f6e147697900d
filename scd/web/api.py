"""The six endpoints of SiliconCompiler's client."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from .. import __version__, limits, manifest
from ..admission import Admission
from ..auth import Identity, private_key
from ..board import Board, JobView
from ..config import Settings
from ..drain import Drain
from ..errors import BadRequest, NoResults, NotOwner, NotRunning, TooLarge, UnknownJob
from ..executors.base import Executor
from ..intake import Intake, digest
from ..janitor import Janitor
from ..metrics import Metrics
from ..model import Job, NodeKey, Tombstone
from ..reload import Reload
from ..runtimes import Runtimes
from ..scheduler import Scheduler
from ..sealed import open_either, size_of
from ..spool import Spool
from ..store import JobStore, UsageStore
from ..units import format_size
from .answers import JsonAnswer
from .health import Health
from .held import Held
from .login import Login
from .multipart import Event, PartBegin, PartEnd, events
from .peers import client_address, is_proxied
from .progress import Progress, ended, running
from .schemas import body, check_hash, decode_submission, required_hash
from .turns import Turns

_CHUNK = 2**16  # each reader that is slow holds some of them
_SLICE = 64 * 2**20  # of a download, charged at a time
_LARGE_AT_ONCE = 2  # submissions of a hundred megabytes, whole in memory
_SNAPSHOTS_AT_ONCE = 2  # a running node's directory is packed
_READS_AT_ONCE = 3  # of results, from the disk: not all threads, others need some
_RESULT_SUFFIX = ".tar.gz"


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


class Asked(NamedTuple):
    """A submission, but for its manifest and its import."""

    owner: Identity
    manifest: manifest.Manifest
    resumed: str | None  # the job that it resumes, if there is no import
    fingerprint: str


class Api:
    def __init__(self, services: Services):
        self._s = services
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._snapshots = Turns(_SNAPSHOTS_AT_ONCE)
        self._reads = Turns(_READS_AT_ONCE)

    def routes(self) -> list[Route]:
        """Each path with and without the trailing slash: a redirect would turn the POST into a GET."""
        handlers = {
            "/check_server": self.check_server,
            "/remote_run": self.remote_run,
            "/check_progress": self.check_progress,
            "/cancel_job": self.cancel_job,
            "/delete_job": self.delete_job,
            "/get_results/{name}": self.get_results,
        }
        return [
            Route(path + slash, handler, methods=["POST"]) for path, handler in handlers.items() for slash in ("", "/")
        ]

    async def check_server(self, request: Request) -> Response:
        asked = await body(request)
        config = self._s.settings.config
        versions = self._s.runtimes.newest
        answer: dict[str, object] = {
            "status": f"draining: {reason}" if (reason := self._s.draining()) else "ready",
            "terms": self._s.settings.terms,
            "versions": {"sc": versions.sc, "sc_schema": versions.sc_schema, "sc_server": __version__},
            "progress_interval": config.server.progress_interval,
        }
        if (pause := config.server.pre_upload) is not None:
            answer["pre_upload"] = {"message": pause.message, "delay": float(pause.delay)}
        if asked.username or asked.key:
            user = (await self._s.login(request, asked)).user
            if user:
                answer["user_info"] = limits.left(await self._s.admission.spent(user))
        return JsonAnswer(answer)

    # -- remote_run

    async def remote_run(self, request: Request) -> Response:
        """``params`` comes first, so that all can be refused before gigabytes of ``import`` are taken."""
        config = self._s.settings.config
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > config.server.max_upload + config.server.max_manifest:
            raise TooLarge(f"The upload is larger than the {format_size(config.server.max_upload)} allowed here.")
        if reason := self._s.draining():
            raise BadRequest(f"This server takes no new jobs at the moment: {reason}")
        parts = events(request.headers.get("content-type"), request.stream())
        held = Held(self._s.spool.staging, self._s.intake.check_space)
        try:
            await self._take_params(parts, held)
            async with self._large if held.is_large else contextlib.nullcontext():
                asked = await self._understand(request, held)
            job_hash = await self._submit(asked, held, parts, int(announced) if announced.isdigit() else 0)
        finally:
            held.close()
        if not await _has_left(request):
            await self._s.intake.answered(job_hash)
        answer = {"message": f"Job {job_hash} is queued.", "interval": config.server.progress_interval}
        return JsonAnswer({**answer, "job_hash": job_hash})

    async def _understand(self, request: Request, held: Held) -> Asked:
        """Who asks for what. ``held`` is the manifest alone then; only here all of it is in memory."""
        submission = await asyncio.to_thread(decode_submission, await held.read())
        owner = await self._s.login(request, submission.params)
        found = await asyncio.to_thread(manifest.decode, submission.cfg)
        if "slurm" in found.schedulers and self._s.settings.config.slurm is None:
            raise BadRequest("This server has no Slurm cluster. Unset option,scheduler,name and submit again.")
        resumed = submission.params.job_hash
        fingerprint = await asyncio.to_thread(digest, owner.user, resumed, submission.cfg)
        await held.replace(submission.cfg)
        return Asked(owner, found, resumed, fingerprint)

    async def _submit(self, asked: Asked, held: Held, parts: AsyncIterator[Event], announced: int) -> str:
        """The hash of the job that is made, resumed, or was made by the request that this one repeats."""
        owner, found, resumed, fingerprint = asked
        user = owner.user
        head = await self._import_head(parts)
        if head == b"":  # the client's file is at its end: it repeats a request that was not answered in time
            return await self._s.intake.retried(user, fingerprint)
        if head is not None or resumed is None or not await self._s.intake.resumed(resumed, fingerprint):
            limits.check_nodes(self._s.settings.config.limits_of(user), len(found.nodes))
            await self._s.admission.check(user, max(0, announced - held.size) if head is not None else 0)
        if head is None:
            if resumed is None:
                raise BadRequest("The part import is missing, and no job_hash says which job to resume.")
            return await self._s.intake.resume(resumed, owner, fingerprint, found, held.write_to)
        await asyncio.to_thread(self._s.intake.check_space, announced)
        return await self._s.intake.new(owner, fingerprint, found, held.write_to, _part_data(head, parts))

    async def _take_params(self, parts: AsyncIterator[Event], held: Held) -> None:
        most = self._s.settings.config.server.max_manifest
        begun = False
        async for event in parts:
            if isinstance(event, PartBegin):
                if event.name != "params":
                    raise BadRequest(f"The first part must be params, not {event.name!r}.")
                begun = True
            elif isinstance(event, PartEnd):
                return
            elif held.size + len(event) > most:
                raise TooLarge(f"The manifest is larger than the {format_size(most)} allowed here.")
            else:
                await held.add(event)
        raise BadRequest("The part params is missing." if not begun else "The part params ends too early.")

    async def _import_head(self, parts: AsyncIterator[Event]) -> bytes | None:
        """The first data of ``import``: None if there is no such part, empty if the part is."""
        async for event in parts:
            if isinstance(event, PartBegin):
                if event.name != "import":
                    raise BadRequest(f"The second part must be import, not {event.name!r}.")
            elif isinstance(event, PartEnd):
                return b""
            elif event:
                return event
        return None

    # -- jobs

    async def check_progress(self, request: Request) -> Response:
        asked = await body(request)
        user = (await self._s.login(request, asked)).user
        job_hash = required_hash(asked)
        view = self._s.board.get(job_hash)
        if view is not None and view.user != user:
            raise NotOwner
        # Without the database for all that is on the board: this is what clients ask most.
        answer = await self._s.progress.watch(job_hash, client_address(request))
        if answer is None:
            job = await self.owned(job_hash, user)
            answer = ended(job.state, job.reason) if job.state.ended else running(self._waiting(job))
        return JsonAnswer(answer)

    async def cancel_job(self, request: Request) -> Response:
        asked = await body(request)
        user = (await self._s.login(request, asked)).user
        job_hash = required_hash(asked)
        await self.cancel(job_hash, user)
        return JsonAnswer({"message": f"Job {job_hash} is being cancelled.", "success": True})

    async def cancel(self, job_hash: str, user: str) -> None:
        """A user's own job. Raises UnknownJob, NotOwner, NotRunning."""
        job = await self.owned(job_hash, user)
        if job.state.ended or not await self._s.scheduler.cancel(job_hash, f"by {user or 'the user'}"):
            current = await self.owned(job_hash, user)
            raise NotRunning(f"Job {job_hash} is not running: it is {current.state}.")

    async def delete_job(self, request: Request) -> Response:
        asked = await body(request)
        user = (await self._s.login(request, asked)).user
        job_hash = required_hash(asked)
        await self.delete(job_hash, user)
        return JsonAnswer({"message": f"Job {job_hash} is deleted.", "success": True})

    async def delete(self, job_hash: str, user: str) -> None:
        """A user's own job that ended. Raises UnknownJob, NotOwner, BadRequest."""
        job = await self.owned(job_hash, user)
        if isinstance(job, Tombstone):
            raise UnknownJob(f"Job {job_hash} was deleted before.")
        if not job.state.ended:
            raise BadRequest(f"Job {job_hash} is still {job.state}; cancel it first.")
        if not await self._s.janitor.delete(job_hash):
            raise BadRequest(f"Job {job_hash} has just been resumed; cancel it first.")

    async def get_results(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not name.endswith(_RESULT_SUFFIX):
            raise NoResults("Results are at /get_results/<job_hash>.tar.gz.")
        job_hash = check_hash(name.removesuffix(_RESULT_SUFFIX))
        asked = await body(request)
        return await self.results(request, job_hash, await self._s.login(request, asked), asked.node)

    async def results(self, request: Request, job_hash: str, owner: Identity, node: str | None) -> Response:
        """An archive of a user's own job, charged as it is sent.

        Raises UnknownJob, NotOwner, NoResults, ResultTooLarge, WrongKey.
        """
        user = owner.user
        job = await self.owned(job_hash, user)
        if isinstance(job, Tombstone):
            raise NoResults(f"Job {job_hash} was deleted.")
        self._s.janitor.fetched(job_hash)
        who = user or client_address(request)
        path, temporary = await self._archive(request, who, job_hash, node)
        try:
            file = await asyncio.to_thread(open_either, path, private_key(owner.key) if owner.key else None)
        except FileNotFoundError:
            raise NoResults from None
        size = size_of(file)
        if temporary:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        try:
            # Within the spool: where that lies is not for clients.
            where = f"jobs/{job_hash[:2]}/{job_hash}/archives/{path.name}"
            limits.check_result(self._s.settings.config.limits_of(user), size, where)
        except BaseException:
            file.close()
            raise
        headers = {"content-disposition": f'attachment; filename="{job_hash}.tar.gz"'}
        # What is encrypted, or is about to be, the proxy cannot send.
        accel = self._s.settings.config.server.accel and not job.public_key
        if accel and is_proxied(request.scope) and not temporary:
            return await self._hand_over(file, path, user, job_hash, headers)
        headers["content-length"] = str(size)
        return StreamingResponse(self._send(file, user, who, job_hash), media_type="application/gzip", headers=headers)

    async def _hand_over(
        self, file: IO[bytes], path: Path, user: str, job_hash: str, headers: dict[str, str]
    ) -> Response:
        """Let the proxy send an archive. What it sends is not known here: all of it is charged."""
        begun = time.monotonic()
        with file:
            size = os.fstat(file.fileno()).st_size
            await asyncio.to_thread(self._s.spool.let_group_read, job_hash, file.fileno())
        await self._charge(user, job_hash, size, time.monotonic() - begun)
        location = f"{self._s.settings.config.server.accel}{path.relative_to(self._s.spool.jobs)}"
        return Response(headers={**headers, "x-accel-redirect": location}, media_type="application/gzip")

    async def _archive(self, request: Request, who: str, job_hash: str, node: str | None) -> tuple[Path, bool]:
        """The archive's path, and whether it was made for this request alone. Raises NoResults."""
        store = self._s.store
        key = NodeKey("", "")
        if node is not None:
            found = await store.node_named(job_hash, node)
            if found is None:
                raise NoResults(f"Job {job_hash} has no node {node!r}.")
            key = found.key
            if found.state.live:
                async with self._snapshots.turn(who):
                    if await request.is_disconnected():  # it has waited too long, and asks again
                        raise ClientDisconnect
                    snapshot = await self._s.executor.snapshot(job_hash, key)
                if snapshot is not None:
                    return Path(snapshot), True
        archive = await store.archive(job_hash, key)
        if archive is None:
            what = f"node {key}" if node is not None else f"job {job_hash}"
            raise NoResults(f"There are no results of {what} yet.")
        return self._s.spool.job(job_hash).archives / archive, False

    async def _send(self, file: IO[bytes], user: str, who: str, job_hash: str) -> AsyncIterator[bytes]:
        """The file, charged by what was really sent, also when the client leaves in the middle."""
        sent, begun = 0, time.monotonic()
        try:
            while chunk := await self._read(file, who):
                yield chunk
                sent += len(chunk)
                if sent >= _SLICE:  # a crash loses no more than this
                    due, sent = sent, 0
                    await asyncio.shield(self._charge(user, job_hash, due))
        finally:
            file.close()
            with contextlib.suppress(ClientDisconnect):
                await asyncio.shield(self._charge(user, job_hash, sent, time.monotonic() - begun))

    async def _read(self, file: IO[bytes], who: str) -> bytes:
        async with self._reads.turn(who):
            return await asyncio.to_thread(file.read, _CHUNK)

    async def _charge(self, user: str, job_hash: str, sent: int, seconds: float = 0.0) -> None:
        await self._s.store.database.write(lambda db: self._s.usage.charge_download(db, user, job_hash, sent, seconds))

    async def owned(self, job_hash: str, user: str) -> Job | Tombstone:
        """The job or its tombstone. 404 only for a hash that never was a job: the client polls a 404 for ever."""
        job = await self._s.store.job(job_hash) or await self._s.store.tombstone(job_hash)
        if job is None:
            raise UnknownJob(f"There is no job {job_hash} here.")
        if job.user != user:
            raise NotOwner
        return job

    def _waiting(self, job: Job | Tombstone) -> JobView:
        return JobView(job.job_hash, job.user, job.state, job.reason, {}, 0)


async def _has_left(request: Request) -> bool:
    """Whether the client gave the answer up. Behind a large body uvicorn reads no further, and sees that late."""
    for _ in range(3):
        if await request.is_disconnected():
            return True
        await asyncio.sleep(0.001)
    return await request.is_disconnected()


async def _part_data(head: bytes, parts: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    yield head
    async for event in parts:
        if isinstance(event, bytes):
            yield event
        elif isinstance(event, PartBegin):
            raise BadRequest(f"The part {event.name!r} is not expected.")
