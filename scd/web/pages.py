"""The status page: a user's jobs, one job, a node's log, and what can be done with them. Works without scripts."""

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from .. import errors
from ..auth import Identity
from ..logs import read_end, read_log
from ..model import Job, Node, Tombstone
from ..states import JobState
from .api import Api
from .guard import is_cross_site
from .live import Live, tail
from .render import PROTECTED, Files, Templates, log_text, page, token_field
from .schemas import Body, check
from .services import Services
from .sessions import Sessions, fresh_token, give, token_of
from .view import job_values
from .visitors import LogInFirst, Visitor, Visitors, form_of, nobody

_ON_A_PAGE = 50
_MOST_LOG = 2**18  # bytes of a log on a page
_PLACES = re.compile(r"/(job/[0-9a-f]{32}(/node/[0-9]{1,9}/log)?)?", re.ASCII)  # where a login may lead
_CURSOR = re.compile(r"([0-9]{1,12}\.[0-9]{1,9})-([0-9a-f]{32})", re.ASCII)
_NAME = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)

Handler = Callable[["Pages", Request], Awaitable[Response]]


def _on_a_page(handler: Handler) -> Handler:
    """What is refused is told on a page, and who must log in is sent there."""

    @functools.wraps(handler)
    async def wrapped(pages: "Pages", request: Request) -> Response:
        try:
            return await handler(pages, request)
        except LogInFirst:
            return pages.to_login(request)
        except errors.ScdError as error:
            return pages.refusal(error)

    return wrapped


class Pages:
    def __init__(self, services: Services, api: Api, sessions: Sessions, live: Live):
        self._s = services
        self._api = api
        self._sessions = sessions
        self._visitors = Visitors(services, sessions)
        self._live = live
        self._root = services.settings.config.server.root_path
        self._files = Files()
        self._templates = Templates(self._root, self._files)
        self._reading = asyncio.Semaphore(1)  # an archive takes a thread for as long as its job made it large

    def routes(self) -> list[Route]:
        job, node = "/job/{job_hash}", "/job/{job_hash}/node/{n}"
        gets = {
            "/": self.show_jobs,
            job: self.show_job,
            f"{job}/events": self.follow_job,
            f"{job}/results.tar.gz": self.download_job,
            f"{node}/log": self.show_log,
            f"{node}/log/events": self.follow_log,
            f"{node}/results.tar.gz": self.download_node,
            "/static/{digest}/{name}": self.static_file,
        }
        posts = {
            "/logout": self.log_out,
            f"{job}/cancel": self.cancel_on_page,
            f"{job}/delete": self.delete_on_page,
        }
        return [
            Route("/login", self.login, methods=["GET", "POST"]),
            *(Route(path, handler, methods=["GET"]) for path, handler in gets.items()),
            *(Route(path, handler, methods=["POST"]) for path, handler in posts.items()),
        ]

    # -- what is shown

    @_on_a_page
    async def show_jobs(self, request: Request) -> Response:
        """Query ``state``, and ``before``, the place in the list behind which the page begins."""
        visitor = self._visitors.of(request)
        chosen = request.query_params.get("state", "")
        if chosen and chosen not in list(JobState):
            raise errors.BadRequest("There is no such state of a job.")
        before = request.query_params.get("before", "")
        place = _CURSOR.fullmatch(before)
        if before and place is None:
            raise errors.BadRequest("That is no place in the list of jobs.")
        jobs = await self._s.store.page(
            visitor.user, JobState(chosen) if chosen else None, (float(place[1]), place[2]) if place else None,
            _ON_A_PAGE + 1,
        )  # fmt: skip
        shown = jobs[:_ON_A_PAGE]
        values = {
            "title": "Jobs", "jobs": shown, "states": list(JobState), "chosen": chosen, "later": bool(before),
            "older": f"{shown[-1].created:.9f}-{shown[-1].job_hash}" if len(jobs) > _ON_A_PAGE else "",
            "unfinished": any(not job.state.ended for job in shown), "draining": self._s.draining(),
        }  # fmt: skip
        return self._answer(request, visitor, "jobs.html", values)

    @_on_a_page
    async def show_job(self, request: Request) -> Response:
        visitor, job = await self._visitors.own(request)
        if isinstance(job, Tombstone):
            return self._answer(request, visitor, "gone.html", {"title": "A deleted job", "job": job})
        view = self._s.board.get(job.job_hash)  # before the rows, which are then at least as new
        nodes, attempts = await self._s.store.nodes(job.job_hash), await self._s.store.attempts(job.job_hash)
        waits = self._s.scheduler.waits(job.job_hash)
        values = await asyncio.to_thread(job_values, job, view, nodes, attempts, waits)
        values |= {"follow": not job.state.ended, "revision": view.version if view is not None else 0}
        return await asyncio.to_thread(self._answer, request, visitor, "job.html", values)

    @_on_a_page
    async def show_log(self, request: Request) -> Response:
        """The end of a node's log, or with the query ``from`` what begins there."""
        begin = request.query_params.get("from")
        if begin is not None and not (begin.isascii() and begin.isdigit() and len(begin) <= 15):
            raise errors.BadRequest("from must be a number of bytes.")
        visitor, job, node = await self._visitors.own_node(request)
        offset = None if begin is None else int(begin)
        found = await tail(self._s.executor, job.job_hash, node.key, -_MOST_LOG if offset is None else offset)
        if found is not None:
            text, end, live = found.text, found.offset, offset is None
            before = offset is None and end > _MOST_LOG
        else:
            text, end, before = await self._finished_log(job.job_hash, node, offset)
            live = False
        more = offset is not None and end - offset >= _MOST_LOG
        values = {
            "title": f"Log of {node.key}", "job": job, "node": node, "n": node.n, "key": node.key,
            "text": log_text(text), "before": before, "live": live, "offset": end, "next": end if more else None,
        }  # fmt: skip
        return self._answer(request, visitor, "log.html", values)

    async def _finished_log(self, job_hash: str, node: Node, offset: int | None) -> tuple[str, int, bool]:
        """Text, where it ends, and whether it is the end of a longer one."""
        archive = await self._s.store.archive(job_hash, node.key)
        if archive is None:
            raise errors.NoResults(f"Node {node.key} has no log yet: it is {node.state}.")
        path = self._s.spool.job(job_hash).archives / archive
        async with self._reading:
            if offset is None:
                data, size = await asyncio.to_thread(read_end, path, node.key, _MOST_LOG)
                return data.decode(errors="replace"), size, size > len(data)
            data = await asyncio.to_thread(read_log, path, node.key, offset, _MOST_LOG)
        return data.decode(errors="replace"), offset + len(data), False

    async def static_file(self, request: Request) -> Response:
        found = self._files.answer(request.path_params["digest"], request.path_params["name"])
        return found or self.refusal(errors.NoResults("There is no such file."))

    # -- what is followed

    @_on_a_page
    async def follow_job(self, request: Request) -> Response:
        visitor, job = await self._visitors.own(request)
        return self._live.job(request, job.job_hash, lambda: self._visitors.is_still(visitor))

    @_on_a_page
    async def follow_log(self, request: Request) -> Response:
        visitor, job, node = await self._visitors.own_node(request)
        return self._live.log(request, job.job_hash, node.key, lambda: self._visitors.is_still(visitor))

    # -- what is fetched

    @_on_a_page
    async def download_job(self, request: Request) -> Response:
        visitor, job = await self._visitors.own(request)
        return await self._download(request, job, visitor, None)

    @_on_a_page
    async def download_node(self, request: Request) -> Response:
        visitor, job, node = await self._visitors.own_node(request)
        return await self._download(request, job, visitor, node)

    async def _download(self, request: Request, job: Job | Tombstone, visitor: Visitor, node: Node | None) -> Response:
        response = await self._api.results.answer(
            request, job.job_hash, Identity(visitor.user), node.key.name if node is not None else None
        )
        assert isinstance(job, Job)
        parts = [job.design, job.jobname, *([node.step, node.index] if node is not None else ["setup"])]
        name = "-".join(_NAME.sub("_", part) for part in parts)
        response.headers.update({**PROTECTED, "content-disposition": f'attachment; filename="{name}.tar.gz"'})
        return response

    # -- what is done

    @_on_a_page
    async def login(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._log_in(request)
        if not self._s.settings.config.can_log_in:
            return self._go("/")
        return self._login_page(request, request.query_params.get("next", "/"))

    async def _log_in(self, request: Request) -> Response:
        form = await form_of(request)
        if missing := {"token", "username", "password"} - form.keys():
            raise errors.BadRequest(f"The form has no {min(missing)}.")
        if not self._s.settings.config.can_log_in:
            return self._go("/")
        try:
            self._sessions.check_form(token_of(request), form["token"])
            user = await self._identify(request, form["username"], form["password"])
        except errors.ScdError as error:
            return self._login_page(request, form.get("next", "/"), form["username"], error)
        self._sessions.end(token_of(request))
        response = self._go(_local(form.get("next", "/")))
        give(response, request, self._sessions.begin(user))
        return response

    async def _identify(self, request: Request, username: str, password: str) -> str:
        """The same accounts, answers and brakes as the client's requests have."""
        asked = Body(username=username, key=password)
        check(asked)
        if not username or not password:
            raise errors.Unauthorized
        return (await self._s.login(request, asked)).user

    @_on_a_page
    async def log_out(self, request: Request) -> Response:
        await self._visitors.check_form(request)
        self._sessions.end(token_of(request))
        response = self._go("/")
        give(response, request, fresh_token())
        return response

    @_on_a_page
    async def cancel_on_page(self, request: Request) -> Response:
        visitor, job = await self._visitors.own(request)
        await self._visitors.check_form(request)
        await self._api.cancel(job.job_hash, visitor.user)
        return self._go(f"/job/{job.job_hash}")

    @_on_a_page
    async def delete_on_page(self, request: Request) -> Response:
        visitor, job = await self._visitors.own(request)
        await self._visitors.check_form(request)
        await self._api.delete(job.job_hash, visitor.user)
        return self._go("/")

    # -- who asks, and how he is answered

    def _answer(
        self, request: Request, visitor: Visitor, template: str, values: dict[str, object], status: int = 200
    ) -> Response:
        field = token_field(self._sessions.form_token(visitor.token))
        values |= {"user": visitor.user, "can_log_in": self._s.settings.config.can_log_in, "token_field": field}
        response = page(self._templates.text(template, **values), status)
        if visitor.is_new:
            give(response, request, visitor.token)
        return response

    def _login_page(
        self, request: Request, after: str, username: str = "", problem: errors.ScdError | None = None
    ) -> Response:
        values: dict[str, object] = {
            "title": "Log in", "next": _local(after), "username": username, "problem": problem and problem.message,
        }  # fmt: skip
        return self._answer(
            request, nobody(request), "login.html", values, problem.http_status if problem is not None else 200,
        )  # fmt: skip

    def to_login(self, request: Request) -> Response:
        path = request.url.path.removeprefix(self._root)
        if is_cross_site(request.headers):  # a link elsewhere brought no session; the same link from here does
            return page(self._templates.text("enter.html", title="scd", path=_local(path)))
        return self._go(f"/login?next={path}" if _PLACES.fullmatch(path) and path != "/" else "/login")

    def refusal(self, error: errors.ScdError) -> Response:
        title = {403: "Not allowed", 404: "Not found"}.get(error.http_status, "This did not work")
        return page(self._templates.text("error.html", title=title, problem=error.message), error.http_status)

    def _go(self, path: str) -> Response:
        return RedirectResponse(f"{self._root}{path}", 303, PROTECTED)


def _local(path: str) -> str:
    """A login leads nowhere but to pages of this one."""
    return path if _PLACES.fullmatch(path) else "/"
