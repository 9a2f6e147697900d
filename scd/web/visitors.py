"""Who asks for a page, what is his, and what he sends with a form."""

from typing import NamedTuple
from urllib.parse import parse_qsl

from starlette.requests import Request

from .. import errors
from ..model import Job, Node, Tombstone
from .schemas import check_hash
from .services import Services, owned
from .sessions import Sessions, fresh_token, token_of

_MOST_FORM = 2**14


class LogInFirst(errors.Forbidden):
    """Log in first."""


class Visitor(NamedTuple):
    user: str
    token: str  # what the browser holds
    is_new: bool  # it does not hold it yet


class Visitors:
    def __init__(self, services: Services, sessions: Sessions):
        self._s = services
        self._sessions = sessions

    def of(self, request: Request) -> Visitor:
        """Raises LogInFirst."""
        visitor = nobody(request)
        user = self._sessions.user_of(visitor.token)
        if user is None and self._s.settings.config.auth_required:
            raise LogInFirst
        return visitor._replace(user=user or "")

    def is_still(self, visitor: Visitor) -> bool:
        """For answers that last: whether a session goes on, which they do not prolong."""
        return (self._sessions.user_of(visitor.token, use=False) or "") == visitor.user

    async def own(self, request: Request) -> tuple[Visitor, Job | Tombstone]:
        """Raises LogInFirst, UnknownJob, NotOwner, BadRequest."""
        visitor = self.of(request)
        return visitor, await owned(self._s.store, check_hash(request.path_params["job_hash"]), visitor.user)

    async def own_node(self, request: Request) -> tuple[Visitor, Job, Node]:
        """As ``own``, and raises NoResults."""
        visitor, job = await self.own(request)
        number = request.path_params["n"]
        nodes = await self._s.store.nodes(job.job_hash)
        node = next((node for node in nodes if str(node.n) == number), None)
        if node is None or isinstance(job, Tombstone):
            raise errors.NoResults(f"Job {job.job_hash} has no such node.")
        return visitor, job, node

    async def check_form(self, request: Request) -> None:
        """Raises Forbidden for one that was not made for this browser, BadRequest, TooLarge."""
        self._sessions.check_form(token_of(request), (await form_of(request)).get("token", ""))


def nobody(request: Request) -> Visitor:
    """One who is not known, or not yet."""
    token = token_of(request)
    return Visitor("", token or fresh_token(), not token)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form. Raises BadRequest, TooLarge."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MOST_FORM:
            raise errors.TooLarge(f"A form may have {_MOST_FORM} bytes.")
    try:
        return dict(parse_qsl(data.decode("ascii"), keep_blank_values=True, max_num_fields=16, errors="strict"))
    except ValueError:
        raise errors.BadRequest("The form is not valid.") from None
