"""The listening sockets, and uvicorn behind them."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import FrameType

import msgspec
import uvicorn
from starlette.applications import Starlette

from ..config import Config, split_address
from ..config.check import check
from ..errors import ConfigError
from ..systemd import notify
from .doors import Doors, affordable
from .pace import Gate, Place
from .peers import Trusted
from .progress import Progress

log = logging.getLogger(__name__)

_KEEP_ALIVE = 15
_STOP_DEADLINE = 10
_FIRST_REQUEST = 1.0
_PROXY_MODE = 0o660  # a proxy's account is made a member of scd's group

Duty = Callable[[], Awaitable[None]]


class Server(uvicorn.Server):
    """uvicorn, telling the service manager when it listens, and letting held polls go when it stops.

    ``last_duty`` is done at the first signal, while requests are still answered.
    """

    def __init__(
        self, app: Starlette, config: Config, progress: Progress, banner: str, last_duty: Duty,
        tls: ssl.SSLContext | None = None,
    ):  # fmt: skip
        super().__init__(
            uvicorn.Config(
                app, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
                proxy_headers=False, timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=_STOP_DEADLINE,
            )
        )  # fmt: skip
        own = config.server
        self._gate = Gate(
            affordable(own.max_connections), own.max_connections_per_address, own.min_rate, Trusted(own.trusted_proxies)
        )
        self._tls = tls
        self._admin_socket = config.admin_socket
        self._doors: Doors | None = None
        self._progress = progress
        self._banner = banner
        self._last_duty = last_duty
        self._leaving: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopping = False
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup([])
        self._doors = Doors(sockets or [], self._protocol, self._gate, self._admin_socket, self._tls)
        self._doors.open()
        log.info("%s", self._banner)
        notify("READY=1")

    def _protocol(self, place: Place) -> asyncio.Protocol:
        return self._gate.protocol(
            place, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn cuts off who has connected and whose request has not been read yet: let these requests come first."""
        if self._doors is not None:
            await self._doors.close()
        deadline = time.monotonic() + _FIRST_REQUEST
        while not self.force_exit and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            if all(getattr(connection, "cycle", True) for connection in self.server_state.connections):
                break
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The first signal answers what is in flight, the second does not wait for it."""
        if self.stopping or self._loop is None:
            self.force_exit = self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._leave)
        self.stopping = True

    def fail(self) -> None:
        """Stop, since something else of the daemon has failed: answers are given, no duty is done."""
        self.failed = self.stopping = True
        self._leave()

    def _leave(self) -> None:
        notify("STOPPING=1")
        self._leaving = asyncio.create_task(self._do_last_duty())

    async def _do_last_duty(self) -> None:
        try:
            if not self.failed:
                await self._last_duty()
        except Exception:
            log.exception("stopping in spite of this")
        self._progress.stop()
        self.should_exit = True


def bind(config: Config) -> list[socket.socket]:
    """The listening sockets of the configuration. Raises ConfigError for one that cannot be had."""
    sockets = []
    for address in config.server.listen:
        try:
            path = address.removeprefix("unix:")
            mode = _admin_mode(config) if path == config.admin_socket else _PROXY_MODE
            sockets.append(_bind_tcp(address) if path == address else _bind_unix(path, mode))
        except OSError as error:
            raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from None
    return sockets


def in_force(config: Config, handed: Sequence[socket.socket]) -> Config:
    """With the addresses of sockets that the service manager has handed over, in place of its own.

    Raises ConfigError for one that others reach although nobody has to log in.
    """
    if not handed:
        return config
    addresses = tuple(map(address_of, handed))
    config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, listen=addresses))
    check(config, lambda _: Path("a socket of the service manager's"))
    return config


def address_of(listener: socket.socket) -> str:
    """As ``[server] listen`` has it."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_tcp(address: str) -> socket.socket:
    host, port = split_address(address)
    (family, *_, target), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # asyncio turns Nagle's delay off only where it reads the protocol: without, a body waits 40 ms behind its headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(target)
    return listener


def _admin_mode(config: Config) -> int:
    """Open to every account, of which each is told what is its own. Without users nothing is anybody's."""
    return 0o666 if config.auth_required else 0o600


def _bind_unix(path: str, mode: int) -> socket.socket:
    """Only after the state directory is locked: a socket found there is a dead daemon's."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, mode)
    return listener
