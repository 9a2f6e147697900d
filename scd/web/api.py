"""The six endpoints of SiliconCompiler's client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .. import __version__, limits, manifest
from ..auth import Identity
from ..board import JobView
from ..errors import BadRequest, NoResults, NotOwner, NotRunning, TooLarge, UnknownJob
from ..intake import digest
from ..model import Job, Tombstone
from ..units import format_size
from .answers import JsonAnswer
from .held import Held
from .multipart import Event, PartBegin, PartEnd, events
from .peers import client_address
from .progress import ended, running
from .results import Results
from .schemas import body, check_hash, decode_submission, required_hash
from .services import Services, owned

_LARGE_AT_ONCE = 2  # submissions of a hundred megabytes, whole in memory
_RESULT_SUFFIX = ".tar.gz"


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
        self.results = Results(services)

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
            job = await owned(self._s.store, job_hash, user)
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
        job = await owned(self._s.store, job_hash, user)
        if job.state.ended or not await self._s.scheduler.cancel(job_hash, f"by {user or 'the user'}"):
            current = await owned(self._s.store, job_hash, user)
            raise NotRunning(f"Job {job_hash} is not running: it is {current.state}.")

    async def delete_job(self, request: Request) -> Response:
        asked = await body(request)
        user = (await self._s.login(request, asked)).user
        job_hash = required_hash(asked)
        await self.delete(job_hash, user)
        return JsonAnswer({"message": f"Job {job_hash} is deleted.", "success": True})

    async def delete(self, job_hash: str, user: str) -> None:
        """A user's own job that ended. Raises UnknownJob, NotOwner, BadRequest."""
        job = await owned(self._s.store, job_hash, user)
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
        return await self.results.answer(request, job_hash, await self._s.login(request, asked), asked.node)

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
