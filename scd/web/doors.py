"""The listening sockets, and who is accepted when."""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Callable, Sequence

from .pace import Gate

log = logging.getLogger(__name__)

_BACKLOG = 2048
_PAUSE = 1.0  # seconds, after an accept that failed: mostly for want of descriptors
_OWN_DESCRIPTORS = 64  # database, sockets of shims, log
_WANTED_DESCRIPTORS = 65536


class Doors:
    """Accepts while there is room.

    Who comes when there is none waits in the backlog. SiliconCompiler's client repeats a request that is not answered,
    and gives up at once if its connection is refused.
    """

    def __init__(self, listeners: Sequence[socket.socket], protocol: Callable[[], asyncio.Protocol], gate: Gate):
        self._listeners = listeners
        self._protocol = protocol
        self._gate = gate
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
            await asyncio.wait(self._entering)

    async def _accept(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        failing = False
        while True:
            if listener.family != socket.AF_UNIX:
                await self._gate.room()
            await _readable(listener)
            try:
                # Not by the loop's sock_accept(): whoever is accepted as that is cancelled would be cut off.
                connection, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                if not failing:
                    log.error("no connection can be accepted, it is tried again every second: %s", error.strerror)
                failing = True
                await asyncio.sleep(_PAUSE)
                continue
            failing = False
            task = asyncio.create_task(self._enter(connection))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)
            await asyncio.shield(task)  # so that it counts before the next one is let in

    async def _enter(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it is gone already
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)


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
