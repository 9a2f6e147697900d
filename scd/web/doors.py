"""The listening sockets, and who is accepted when."""

import asyncio
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable, Sequence

from .pace import HEAD_DEADLINE, Gate, Place
from .peers import peer_of, plain_address

log = logging.getLogger(__name__)

_BACKLOG = 2048
_AT_ONCE = 32  # accepts, before others have their turn
_PAUSE = 1.0  # seconds, after an accept that failed: mostly for want of descriptors
_OWN_DESCRIPTORS = 64  # database, sockets of shims, log
_WANTED_DESCRIPTORS = 65536


class Doors:
    """Accepts while there is room.

    Who comes when there is none waits in the backlog. SiliconCompiler's client repeats a request that is not answered,
    and gives up at once if its connection is refused. With ``tls``, all TCP sockets speak it.
    """

    def __init__(
        self, listeners: Sequence[socket.socket], protocol: Callable[[Place], asyncio.Protocol], gate: Gate,
        admin_socket: str | None, tls: ssl.SSLContext | None = None,
    ):  # fmt: skip
        self._listeners = listeners
        self._protocol = protocol
        self._gate = gate
        self._admin_socket = admin_socket
        self._tls = tls
        self._tasks: list[asyncio.Task[None]] = []
        self._entering: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        self._tasks = [asyncio.create_task(self._accept(listener)) for listener in self._listeners]
        self._tasks.append(asyncio.create_task(self._gate.watch()))

    async def close(self) -> None:
        """Accept nobody any more. Connections that there are go on, and are no longer hurried."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        if self._entering:
            await asyncio.wait(self._entering, timeout=_PAUSE)

    async def _accept(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        failing = False
        while True:
            await _readable(listener)
            if listener.family != socket.AF_UNIX:
                await self._gate.room()
            try:
                self._accept_some(listener)
                failing = False
            except OSError as error:
                if not failing:
                    log.error("no connection can be accepted, it is tried again every second: %s", error.strerror)
                failing = True
                await asyncio.sleep(_PAUSE)

    def _accept_some(self, listener: socket.socket) -> None:
        """Those who wait, as far as there is room. Raises OSError."""
        by_unix = listener.family == socket.AF_UNIX
        for _ in range(_AT_ONCE):
            if self._gate.full and not by_unix:
                return
            try:
                # Not by the loop's sock_accept(): whoever is accepted as that is cancelled would be cut off.
                connection, peer = listener.accept()
            except BlockingIOError:
                return
            address = self._address(listener, connection) if by_unix else plain_address(peer[0])
            if by_unix and address is not None and self._gate.full:
                connection.close()
                continue
            place = self._gate.take(address)
            task = asyncio.create_task(self._enter(connection, place))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    def _address(self, listener: socket.socket, connection: socket.socket) -> str | None:
        """By a Unix socket: that of an account; None for the administrator, and for proxies, whose clients are many."""
        account = peer_of(connection)
        if listener.getsockname() != self._admin_socket or account in (0, os.geteuid()):
            return None
        return f"account {account}"

    async def _enter(self, connection: socket.socket, place: Place) -> None:
        by_tls = connection.family != socket.AF_UNIX and self._tls is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol(place), connection,
                ssl=self._tls if by_tls else None, ssl_handshake_timeout=HEAD_DEADLINE if by_tls else None,
            )  # fmt: skip
        except OSError:  # it is gone already, or did not come through the handshake
            self._gate.leave(place)


async def _readable(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(listener, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(listener)


def affordable(connections: int) -> int:
    """How many connections there may be with this process's descriptors: each may need another one for a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _WANTED_DESCRIPTORS:
        soft = min(hard, _WANTED_DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(connections, (soft - _OWN_DESCRIPTORS) // 2))
