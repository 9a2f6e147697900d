"""What scdctl asks of a running daemon, by the Unix socket: root and scd's account anything, users of their own."""

import asyncio
import logging

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..audit import audit, mend
from ..errors import BadRequest, ConfigError, NotRunning, UnknownJob
from ..listing import VERSION, Query, Record, describe, find, list_jobs, list_nodes
from ..logs import read_log
from ..model import NodeKey
from .answers import JsonAnswer
from .peers import only_administrator, seen_by
from .schemas import check_hash
from .services import Services

log = logging.getLogger(__name__)

_MOST_REASON = 500
_MOST_LISTED = 100_000
_PIECE = 4 * 2**20  # bytes of an ended node's log in an answer


class Admin:
    def __init__(self, services: Services):
        self._s = services
        self._reading = asyncio.Semaphore(1)  # an archive takes a thread for as long as its job made it large

    def routes(self) -> list[Route]:
        return [
            Route("/admin/jobs", self.jobs, methods=["GET"]),
            Route("/admin/jobs/{prefix}", self.job, methods=["GET"]),
            Route("/admin/nodes", self.nodes, methods=["GET"]),
            Route("/admin/waiting", self.waiting, methods=["GET"]),
            Route("/admin/cancel/{job_hash}", self.cancel, methods=["POST"]),
            Route("/admin/delete/{job_hash}", self.delete, methods=["POST"]),
            Route("/admin/drain", self.drain, methods=["POST"]),
            Route("/admin/fix", self.fix, methods=["POST"]),
            Route("/admin/log/{job_hash}/{step}/{index}", self.log, methods=["GET"]),
            Route("/admin/reload", self.reload, methods=["POST"]),
            Route("/admin/resume", self.resume, methods=["POST"]),
        ]

    async def jobs(self, request: Request) -> Response:
        """``{"version", "jobs"}``, of query ``query``: a listing.Query in JSON."""
        return _answer("jobs", await list_jobs(self._s.store, await self._query(request), self._s.scheduler.waits))

    async def nodes(self, request: Request) -> Response:
        return _answer("nodes", await list_nodes(self._s.store, await self._query(request), self._s.scheduler.waits))

    async def job(self, request: Request) -> Response:
        """``{"version", "jobs"}`` of one job and all that is known of it, by the beginning of its hash."""
        users = await seen_by(request, self._s.settings.config)
        job_hash = await find(self._s.store, request.path_params["prefix"], users)
        return _answer("jobs", [await describe(self._s.store, job_hash, self._s.scheduler.waits)])

    async def waiting(self, request: Request) -> Response:
        """``{"version", "waiting"}``: why each unfinished job waits, and its nodes; or of the query's ``job`` alone.

        For those who read all else in the database.
        """
        only_administrator(request)
        found = {}
        job = request.query_params.get("job")
        for job_hash in self._s.scheduler.unfinished() if job is None else [check_hash(job)]:
            found[job_hash] = self._s.scheduler.waits(job_hash)
            await asyncio.sleep(0)  # there may be thousands
        return JsonAnswer({"version": VERSION, "waiting": found})

    async def cancel(self, request: Request) -> Response:
        """``{"message", "success"}``; 404 if the job is not running, or not the caller's."""
        job_hash, own = await self._own(request)
        if not await self._s.scheduler.cancel(job_hash, own or "by the administrator"):
            raise NotRunning(f"Job {job_hash} is not running.")
        return JsonAnswer({"message": f"Job {job_hash} is being cancelled.", "success": True})

    async def delete(self, request: Request) -> Response:
        """``{"message", "success"}``; 400 while the job is unfinished, 404 if there is none."""
        only_administrator(request)
        job_hash = check_hash(request.path_params["job_hash"])
        job = await self._s.store.job(job_hash)
        if job is None:
            raise UnknownJob(f"There is no job {job_hash} here.")
        if not job.state.ended or not await self._s.janitor.delete(job_hash):
            raise BadRequest(f"Job {job_hash} is still {job.state}; cancel it first.")
        return JsonAnswer({"message": f"Job {job_hash} is deleted.", "success": True})

    async def drain(self, request: Request) -> Response:
        """Take no new jobs, for the query's ``reason``, until ``resume``: also after a restart."""
        only_administrator(request)
        reason = request.query_params.get("reason", "")
        if len(reason) > _MOST_REASON:
            raise BadRequest(f"A reason has {_MOST_REASON} characters at most.")
        await asyncio.to_thread(self._s.drain.order, " ".join(reason.split()))
        log.info("no new jobs are taken: %s", self._s.drain.reason())
        return JsonAnswer({"message": f"scd takes no new jobs: {self._s.drain.reason()}", "success": True})

    async def resume(self, request: Request) -> Response:
        """Take new jobs again, unless the configuration says otherwise."""
        only_administrator(request)
        await asyncio.to_thread(self._s.drain.end)
        if reason := self._s.drain.reason():
            raise BadRequest(f"[server] drain in the configuration still stops new jobs: {reason}")
        log.info("new jobs are taken again")
        return JsonAnswer({"message": "scd takes new jobs again.", "success": True})

    async def reload(self, request: Request) -> Response:
        """``{"message", "success", "waiting": [...]}``, the keys that wait for a restart; 400 if nothing was taken."""
        only_administrator(request)
        try:
            waiting = await self._s.reload()
        except ConfigError as error:
            raise BadRequest(f"Nothing has changed: {error.message}") from None
        more = f" These wait for a restart: {', '.join(waiting)}." if waiting else ""
        return JsonAnswer({"message": f"The configuration is reloaded.{more}", "success": True, "waiting": waiting})

    async def fix(self, request: Request) -> Response:
        """``{"findings": [...]}``: what did not fit between disk and database, mended where that can be."""
        only_administrator(request)
        return JsonAnswer({"findings": await mend(await audit(self._s.store, self._s.spool))})

    async def log(self, request: Request) -> Response:
        """``{"text", "offset", "live"}`` of a node's log from query ``offset`` on. No text: there is no more of it yet,
        or ever, if it is not ``live``. 404 if it has none."""
        job_hash, _ = await self._own(request)
        offset = request.query_params.get("offset", "0")
        if not offset.isascii() or not offset.isdigit() or len(offset) > 15:
            raise BadRequest("offset must be a number.")
        key = NodeKey(request.path_params["step"], request.path_params["index"])
        found = await self._s.executor.tail(job_hash, key, int(offset))
        if found is not None:
            return JsonAnswer({"text": found["text"], "offset": found["offset"], "live": True})
        archive = await self._s.store.archive(job_hash, key)
        if archive is None:
            raise NotRunning(f"Node {job_hash}.{key} is not running, and has left no log.")
        path = self._s.spool.job(job_hash).archives / archive
        async with self._reading:
            data = await asyncio.to_thread(read_log, path, key, int(offset), _PIECE)
        return JsonAnswer({"text": data.decode(errors="replace"), "offset": int(offset) + len(data), "live": False})

    async def _query(self, request: Request) -> Query:
        """What is asked for, of what the caller may see."""
        users = await seen_by(request, self._s.settings.config)
        try:
            query = msgspec.json.decode(request.query_params.get("query", "{}"), type=Query)
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise BadRequest(f"Invalid query: {error}.") from None
        if users is not None:
            users = users if query.users is None else users & query.users
            query = msgspec.structs.replace(query, users=users)
        return msgspec.structs.replace(query, limit=max(0, min(query.limit, _MOST_LISTED)))

    async def _own(self, request: Request) -> tuple[str, str]:
        """The job that is asked about, and by which user, "" for the administrator. Who may not ask hears no more.

        Raises Forbidden, BadRequest, or UnknownJob for others' jobs too.
        """
        users = await seen_by(request, self._s.settings.config)
        job_hash = check_hash(request.path_params["job_hash"])
        if users is None:
            return job_hash, ""
        job = await self._s.store.job(job_hash)
        if job is None or job.user not in users:
            raise UnknownJob(f"There is no job {job_hash} here.")
        return job_hash, f"by {job.user}"


def _answer(kind: str, records: list[Record]) -> Response:
    return JsonAnswer({"version": VERSION, kind: records})
