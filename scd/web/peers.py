"""Who is at the other end: the administrator, an account of this machine, a proxy of the site, or a client."""

import asyncio
import ipaddress
import os
import pwd
import socket
import struct
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ..config import Config
from ..errors import Forbidden

UNIX = "unix"  # in ``trusted_proxies``: whoever may open a Unix socket that is not the administrator's

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_ACCOUNT = "scd.account"
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
        local = by_unix and host == self._admin_socket
        scope[_ACCOUNT] = scope["state"].get("peer") if local else None
        scope[_PROXIED] = not local and (self._trusted.unix if by_unix else peer in self._trusted)
        if scope[_PROXIED]:
            headers = Headers(scope=scope)
            peer = self._client(headers.getlist("x-forwarded-for"), peer)
            if (scheme := headers.get("x-forwarded-proto", "").lower()) in ("http", "https"):
                scope["scheme"] = scheme
        elif local and not is_admin(scope):
            peer = f"account {scope[_ACCOUNT]}"
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


def peer_of(connection: socket.socket) -> int | None:
    """The account that made a connection, by the kernel's word; None by TCP."""
    if connection.family != socket.AF_UNIX:
        return None
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def is_admin(scope: Scope) -> bool:
    """Whether a request came by the administrator's socket, from root or scd's own account."""
    return scope.get(_ACCOUNT) in (0, os.geteuid())


def only_administrator(request: Request) -> None:
    """Raises Forbidden."""
    if not is_admin(request.scope):
        raise Forbidden("This is for root and scd's own account, by the first Unix socket in [server] listen.")


async def seen_by(request: Request, config: Config) -> frozenset[str] | None:
    """The users whose jobs are the caller's own; None: all, he is the administrator. Raises Forbidden."""
    if is_admin(request.scope):
        return None
    uid = request.scope.get(_ACCOUNT)
    if uid is None:
        raise Forbidden("This is for the first Unix socket in [server] listen only.")
    try:
        account = (await asyncio.to_thread(pwd.getpwuid, uid)).pw_name
    except KeyError:
        account = ""
    if users := config.users_of(account):
        return users
    raise Forbidden(
        f"The account {account or uid} is no user of scd: no [users.NAME] has its name, or has it as account."
    )


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
