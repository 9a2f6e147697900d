"""The shape of answers, errors above all: ``{"message": ..., "status": ..., "success": false}``, always."""

import errno
import logging
from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..errors import DiskFull, Forbidden, ScdError
from ..store import is_full

log = logging.getLogger(__name__)


class JsonAnswer(Response):
    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return msgspec.json.encode(content)


def error_answer(error: ScdError) -> JsonAnswer:
    """``status`` is what the client's poll understands: rejected ends it, unknown does not."""
    status = "rejected" if isinstance(error, Forbidden) else "unknown"
    headers = None if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return _failure(error.message, status, error.http_status, headers)


async def on_error(_: Request, error: Exception) -> Response:
    """Every exception of a handler ends here; a stranger never sees a traceback."""
    if isinstance(error, ScdError):
        return error_answer(error)
    if isinstance(error, HTTPException):
        return _failure(error.detail, "unknown", error.status_code, error.headers)
    if isinstance(error, ClientDisconnect):
        return _failure("The client left in the middle of its request.", "unknown", 400)
    if _is_disk_full(error):
        return error_answer(DiskFull())
    log.error("a request failed", exc_info=error)
    return _failure("scd failed at this request; its log says why.", "unknown", 500)


def _failure(message: str, status: str, code: int, headers: Mapping[str, str] | None = None) -> JsonAnswer:
    return JsonAnswer({"message": message, "status": status, "success": False}, code, headers)


def _is_disk_full(error: Exception) -> bool:
    return is_full(error) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))
