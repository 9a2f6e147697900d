"""What the status page shows live: that a job has changed, and what a node adds to its log."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..board import Board
from ..errors import BadRequest
from ..executors.base import Executor
from ..model import NodeKey
from .peers import client_address
from .progress import Progress
from .render import PROTECTED, log_text
from .stream import BEAT, SIGN_OF_LIFE, Audience, EventStream, event

_SPACING = 0.7  # seconds between two news of a job: each makes a browser load its page
_LOG_INTERVAL = 1.0  # each look at a running node's log is a process of its job

Still = Callable[[], bool]  # whether he who watches may go on


class Piece(msgspec.Struct, frozen=True):
    text: str
    offset: int  # in bytes, behind the text


class Live:
    """Streams end with the job, the session or the daemon, and at once when the reader leaves."""

    def __init__(self, board: Board, executor: Executor, progress: Progress, audience: Audience):
        self._board = board
        self._executor = executor
        self._progress = progress
        self._audience = audience

    def job(self, request: Request, job_hash: str, still: Still) -> Response:
        """``change`` with the job's version as its id, and at last ``end``. 204, which ends all, if it has ended."""
        version = _number(request, "version")
        if self._board.get(job_hash) is None:
            return Response(status_code=204, headers=PROTECTED)
        return self._stream(request, self._changes(job_hash, version, still))

    def log(self, request: Request, job_hash: str, key: NodeKey, still: Still) -> Response:
        """``text`` with the offset behind it as its id, and at last ``end``."""
        return self._stream(request, self._pieces(job_hash, key, _number(request, "offset"), still))

    def _stream(self, request: Request, events: AsyncIterator[str]) -> Response:
        address = client_address(request)
        self._audience.enter(address)
        return EventStream(events, lambda: self._audience.leave(address))

    async def _changes(self, job_hash: str, version: int, still: Still) -> AsyncIterator[str]:
        while still() and not self._progress.stopping:
            view = self._board.get(job_hash)
            if view is None or view.state.ended:
                yield event("end", {}, version)
                return
            if view.version == version:
                yield SIGN_OF_LIFE
                await self._board.changed(job_hash, BEAT)
            else:
                version = view.version
                yield event("change", {}, version)
                await asyncio.sleep(_SPACING)

    async def _pieces(self, job_hash: str, key: NodeKey, offset: int, still: Still) -> AsyncIterator[str]:
        while still() and not self._progress.stopping:
            found = await tail(self._executor, job_hash, key, offset)
            if found is not None and found.text:
                offset = found.offset
                yield event("text", log_text(found.text), offset)
            elif found is not None or self._lives(job_hash, key):
                yield SIGN_OF_LIFE
            else:
                yield event("end", {}, offset)
                return
            await self._board.changed(job_hash, _LOG_INTERVAL)

    def _lives(self, job_hash: str, key: NodeKey) -> bool:
        """It may not have written yet."""
        view = self._board.get(job_hash)
        return view is not None and key in view.nodes and view.nodes[key].state.live


async def tail(executor: Executor, job_hash: str, key: NodeKey, offset: int) -> Piece | None:
    """A piece of a running node's log. It comes from the job's own processes, which may say anything."""
    try:
        found = msgspec.convert(await executor.tail(job_hash, key, offset), Piece | None)
    except msgspec.ValidationError:
        return None
    return found if found is None or 0 <= found.offset < 2**50 else None


def _number(request: Request, name: str) -> int:
    """Where to go on: what the browser last got, or what the page said."""
    text = request.headers.get("last-event-id") or request.query_params.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise BadRequest(f"{name} must be a number.")
    return int(text)
