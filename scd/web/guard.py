"""Requests that a browser was tricked into: any page can post to a daemon on its reader's loopback."""

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import Forbidden
from .answers import error_answer
from .peers import is_admin


class Guard:
    """403 for an unknown ``Host``, a foreign ``Origin`` or ``Sec-Fetch-Site: cross-site``.

    Links of other sites lead here all the same: a browser then shows a page to its user, and to nobody else. A name
    that resolves to us by a stranger's DNS is an unknown host; an address cannot be rebound.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]):
        self._app = app
        self._hosts = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower(), *map(str.lower, hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_admin(scope):
            headers = Headers(scope=scope)
            if problem := self._problem(scope["method"], headers):
                await error_answer(Forbidden(problem))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, method: str, headers: Headers) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._known(host := hosts[0]):
            return (
                f"The host {hosts[0] if hosts else ''!r} is not known here. "
                "If it is a name of this server, add it to [server] hosts."
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return "Requests from pages of other origins are refused."
        if is_cross_site(headers) and not _is_visit(method, headers):
            return "Requests from other sites are refused."
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True


def is_cross_site(headers: Headers) -> bool:
    return headers.get("sec-fetch-site", "none").lower() == "cross-site"


def _is_visit(method: str, headers: Headers) -> bool:
    """A link that was followed, in no frame. It changes nothing, and brings no session (``SameSite=Strict``)."""
    return (
        method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )
