"""A reader of an answer that takes nothing is ended; one that takes something is not."""

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


async def asked() -> tuple[PacedProtocol, socket.socket]:
    """The server's end of a connection whose answer does not fit, and the client's."""
    config = uvicorn.Config(large, ws="none", lifespan="off", log_config=None)
    config.load()
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, protocol = await loop.connect_accepted_socket(
        lambda: Gate(10, 10, 1).protocol(Place(None), config=config, server_state=ServerState(), app_state={}), ours
    )
    theirs.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    theirs.setblocking(False)
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
