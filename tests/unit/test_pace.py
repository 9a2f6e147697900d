"""What one connection may hold: an answer that nobody reads, a request that was broken off."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from scd.web.pace import Gate, PacedProtocol, Place

pytestmark = pytest.mark.anyio


async def large(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"50000000")]})
    await send({"type": "http.response.body", "body": bytes(50_000_000)})


async def ask(app: Any, gate: Gate, place: Place) -> tuple[PacedProtocol, socket.socket]:
    """The server's end of a connection with a request, and the client's."""
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    config.load()
    ours, theirs = socket.socketpair()
    _, protocol = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: gate.protocol(place, config=config, server_state=ServerState(), app_state={}), ours
    )
    theirs.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    theirs.setblocking(False)
    return protocol, theirs


async def asked() -> tuple[PacedProtocol, socket.socket]:
    """The same, with an answer that does not fit."""
    protocol, theirs = await ask(large, Gate(10, 10, 1), Place(None))
    while not protocol.transport.get_write_buffer_size():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return protocol, theirs


@pytest.mark.parametrize("reads", [False, True])
async def test_a_reader_that_takes_nothing(*, reads: bool) -> None:
    protocol, theirs = await asked()
    with theirs:
        now = time.monotonic()
        protocol.look(now)
        protocol.look(now + 59)
        assert not protocol.transport.is_closing()
        if reads:
            await asyncio.get_running_loop().sock_recv(theirs, 1_000_000)
            await asyncio.sleep(0.05)
        protocol.look(now + 61)
        assert protocol.transport.is_closing() is not reads
        protocol.transport.abort()
        await asyncio.sleep(0)


async def test_a_request_that_is_broken_off_keeps_its_place_to_its_end() -> None:
    """Else whoever sends and leaves could have any number of requests under way, and scd's memory with them."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        begun.set()
        await may_end.wait()

    gate = Gate(1, 1, 1)
    _, theirs = await ask(slow, gate, gate.take("192.0.2.1"))
    await begun.wait()
    theirs.close()
    while gate.connections:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert gate.full
    may_end.set()
    await asyncio.wait_for(gate.room(), 10)
