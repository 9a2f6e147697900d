"""Who is at the other end: the administrator, a proxy of the site, or a client, and by what address he is known."""

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

UNIX = "unix"  # in ``trusted_proxies``: whoever may open a Unix socket that is not the administrator's

_ADMIN = "scd.admin"
_PROXIED = "scd.proxied"


class Trusted:
    """``[server] trusted_proxies``."""

    def __init__(self, entries: Iterable[str]):
        self.unix = UNIX in entries
        self._networks = [ipaddress.ip_network(entry) for entry in entries if entry != UNIX]

    def __contains__(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)


class Peers:
    """Puts the client's own address and scheme into a request that came by a proxy, and says which these are.

    Only what a trusted proxy says counts. Of ``X-Forwarded-For`` that is the last address that is no proxy's: what
    stands before it, the client itself may have written.
    """

    def __init__(self, app: ASGIApp, trusted: Trusted, admin_socket: str | None):
        self._app = app
        self._trusted = trusted
        self._admin_socket = admin_socket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._look(scope)
        await self._app(scope, receive, send)

    def _look(self, scope: Scope) -> None:
        host, port = scope.get("server") or ("", 0)
        by_unix = port is None
        peer = plain_address(scope["client"][0]) if scope.get("client") else ""
        scope[_ADMIN] = by_unix and host == self._admin_socket
        scope[_PROXIED] = not scope[_ADMIN] and (self._trusted.unix if by_unix else peer in self._trusted)
        if scope[_PROXIED]:
            headers = Headers(scope=scope)
            peer = self._client(headers.getlist("x-forwarded-for"), peer)
            if (scheme := headers.get("x-forwarded-proto", "").lower()) in ("http", "https"):
                scope["scheme"] = scheme
        scope["client"] = (peer, 0) if peer else None

    def _client(self, forwarded: list[str], peer: str) -> str:
        for hop in reversed(",".join(forwarded).split(",")):
            address = plain_address(hop.strip())
            if not address:
                break  # no address: nothing before it is worth more
            peer = address
            if address not in self._trusted:
                break
        return peer


def is_admin(scope: Scope) -> bool:
    """Whether a request came by the administrator's socket, which only scd's account and root can open."""
    return bool(scope.get(_ADMIN))


def is_proxied(scope: Scope) -> bool:
    return bool(scope.get(_PROXIED))


def client_address(request: HTTPConnection) -> str:
    """ "" for the administrator, and for a proxy that does not tell."""
    return request.client.host if request.client else ""


def plain_address(text: str) -> str:
    """As it is written everywhere here, "" for what is no address: an IPv4 one may come as IPv6."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
