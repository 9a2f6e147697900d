"""The bodies of requests. Strict in what is known, silent about what is not: newer clients may send more."""

import re

import msgspec
from starlette.requests import Request

from ..errors import BadRequest, TooLarge

_MAX_BODY = 2**20
_JOB_HASH = re.compile(r"[0-9a-f]{32}", re.ASCII)
_USERNAME = re.compile(r"[^\s;]*")
_MAX_WORD = 4096


class Body(msgspec.Struct, frozen=True):
    """What every endpoint takes. All fields are checked by ``decode``."""

    username: str | None = None
    key: str | None = None
    job_hash: str | None = None
    job_id: str | None = None
    node: str | None = None


class Submission(msgspec.Struct, frozen=True):
    """The ``params`` part of remote_run. ``cfg`` stays raw: it has megabytes, and the daemon needs little of it."""

    cfg: msgspec.Raw
    params: Body = Body()


async def body(request: Request) -> Body:
    """The JSON body of a request; the client sends no Content-Type. An empty one is an empty object."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY:
            raise TooLarge(f"A request to this endpoint may have {_MAX_BODY} bytes.")
    return decode(bytes(data) or b"{}")


def decode(data: bytes) -> Body:
    try:
        found = msgspec.json.decode(data, type=Body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"Invalid parameters: {error}.") from None
    check(found)
    return found


def decode_submission(data: bytes) -> Submission:
    try:
        found = msgspec.json.decode(data, type=Submission)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"Invalid parameters: {error}.") from None
    check(found.params)
    return found


def check(found: Body) -> None:
    if found.username is not None and not _USERNAME.fullmatch(found.username):
        raise BadRequest("Invalid parameters: a username holds no white space and no semicolon.")
    if found.job_hash is not None:
        check_hash(found.job_hash)
    if any(word is not None and len(word) > _MAX_WORD for word in (found.username, found.job_id, found.node)):
        raise BadRequest(f"Invalid parameters: more than {_MAX_WORD} characters.")


def check_hash(job_hash: str) -> str:
    if not _JOB_HASH.fullmatch(job_hash):
        raise BadRequest("Invalid parameters: a job_hash has 32 characters of 0-9 and a-f.")
    return job_hash


def required_hash(found: Body) -> str:
    if found.job_hash is None:
        raise BadRequest("Invalid parameters: job_hash is missing.")
    return found.job_hash
