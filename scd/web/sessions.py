"""Who is logged in to the status page. In memory only: a restart of scd ends every session.

A browser holds a random token, scd its digest. Forms carry a second token, made from the first by a secret of this
process: what another site makes a browser send lacks it.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..errors import Forbidden

COOKIE = "scd_session"

_IDLE = 8 * 3600.0
_LONGEST = 3 * 86400.0
_MOST = 10_000
_MOST_OF_A_USER = 20


class Session(msgspec.Struct):
    """Times are of the monotonic clock."""

    user: str
    credential: str  # as the configuration had it at the login
    begun: float
    used: float


class Sessions:
    """``credential`` says what a user logs in with at present: another one, or none, ends his sessions."""

    def __init__(self, credential: Callable[[str], str]):
        self._credential = credential
        self._secret = secrets.token_bytes(32)
        self._sessions: dict[bytes, Session] = {}  # in the order of their beginning

    def begin(self, user: str) -> str:
        """A new session's token. The oldest of the user, or of all, make room."""
        now = time.monotonic()
        self._sessions = {digest: one for digest, one in self._sessions.items() if self._is_good(one, now)}
        of_user = [digest for digest, one in self._sessions.items() if one.user == user]
        for digest in of_user[: max(0, len(of_user) + 1 - _MOST_OF_A_USER)]:
            del self._sessions[digest]
        if len(self._sessions) >= _MOST:
            del self._sessions[next(iter(self._sessions))]
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = Session(user, self._credential(user), now, now)
        return token

    def user_of(self, token: str, *, use: bool = True) -> str | None:
        """Whose session it is, None for nobody's. ``use``: it is not idle then."""
        session = self._sessions.get(_digest(token))
        now = time.monotonic()
        if session is None or not self._is_good(session, now):
            return None
        if use:
            session.used = now
        return session.user

    def end(self, token: str) -> None:
        self._sessions.pop(_digest(token), None)

    def form_token(self, token: str) -> str:
        return hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()

    def check_form(self, token: str, form_token: str) -> None:
        """Raises Forbidden for a form that was not made for this browser by this process."""
        if not token or not hmac.compare_digest(self.form_token(token).encode(), form_token.encode()):
            raise Forbidden("This form is too old, or cookies are off. Go back, load the page again, and repeat it.")

    def _is_good(self, session: Session, now: float) -> bool:
        return (
            now - session.used < _IDLE
            and now - session.begun < _LONGEST
            and hmac.compare_digest(session.credential.encode(), self._credential(session.user).encode())
        )


def token_of(request: Request) -> str:
    """What the browser holds; "" if it holds nothing."""
    return request.cookies.get(COOKIE, "")


def give(response: Response, request: Request, token: str) -> None:
    """Let the browser hold a token until it is closed. No script sees it, and no request from elsewhere brings it."""
    response.set_cookie(
        COOKIE, token, path=f"{request.scope.get('root_path', '')}/", httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip


def fresh_token() -> str:
    """For a browser without a session: its forms need something to go by too."""
    return secrets.token_urlsafe(16)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
