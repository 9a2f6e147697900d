"""What scdctl asks of a running daemon. By the Unix socket only, which root and scd's account can open."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..audit import audit, mend
from ..errors import BadRequest, Forbidden, NotRunning
from ..executors.base import Executor
from ..model import NodeKey
from ..scheduler import Scheduler
from ..spool import Spool
from ..store import JobStore
from .answers import JsonAnswer
from .peers import is_admin
from .schemas import check_hash


class Admin:
    def __init__(self, scheduler: Scheduler, executor: Executor, store: JobStore, spool: Spool):
        self._scheduler = scheduler
        self._executor = executor
        self._store = store
        self._spool = spool

    def routes(self) -> list[Route]:
        return [
            Route("/admin/cancel/{job_hash}", self.cancel, methods=["POST"]),
            Route("/admin/fix", self.fix, methods=["POST"]),
            Route("/admin/log/{job_hash}/{step}/{index}", self.log, methods=["GET"]),
        ]

    async def cancel(self, request: Request) -> Response:
        """``{"message", "success"}``; 404 if the job is not running."""
        _only_local(request)
        job_hash = check_hash(request.path_params["job_hash"])
        if not await self._scheduler.cancel(job_hash, "by the administrator"):
            raise NotRunning(f"Job {job_hash} is not running.")
        return JsonAnswer({"message": f"Job {job_hash} is being cancelled.", "success": True})

    async def fix(self, request: Request) -> Response:
        """``{"findings": [...]}``: what did not fit between disk and database, mended where that can be."""
        _only_local(request)
        return JsonAnswer({"findings": await mend(await audit(self._store, self._spool))})

    async def log(self, request: Request) -> Response:
        """``{"text", "offset"}`` of a running node's log from query ``offset`` on; 404 if it does not run."""
        _only_local(request)
        key = NodeKey(request.path_params["step"], request.path_params["index"])
        offset = request.query_params.get("offset", "0")
        if not offset.isascii() or not offset.isdigit():
            raise BadRequest("offset must be a number.")
        job_hash = check_hash(request.path_params["job_hash"])
        found = await self._executor.tail(job_hash, key, int(offset))
        if found is None:
            raise NotRunning(f"Node {job_hash}.{key} is not running.")
        return JsonAnswer({"text": found["text"], "offset": found["offset"]})


def _only_local(request: Request) -> None:
    if not is_admin(request.scope):
        raise Forbidden("This is for the administrator's Unix socket only: the first one in [server] listen.")
