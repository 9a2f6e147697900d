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

    A name that resolves to us by a stranger's DNS is an unknown host; an address cannot be rebound.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]):
        self._app = app
        self._hosts = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower(), *map(str.lower, hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_admin(scope):
            headers = Headers(scope=scope)
            if problem := self._problem(headers):
                await error_answer(Forbidden(problem))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, headers: Headers) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._known(host := hosts[0]):
            return (
                f"The host {hosts[0] if hosts else ''!r} is not known here. "
                "If it is a name of this server, add it to [server] hosts."
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return "Requests from pages of other origins are refused."
        if headers.get("sec-fetch-site", "none").lower() == "cross-site":
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
