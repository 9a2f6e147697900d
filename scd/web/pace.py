"""What strangers may hold: how many connections there are, and how slow and how wordy a request may be.

uvicorn bounds none of these: half a request keeps a connection for ever, and a header without end fills the memory.
"""

import asyncio
import functools
import time
from collections import Counter
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .peers import Trusted, peer_of

HEAD_DEADLINE = 10.0  # seconds for a request's first line and headers
_WINDOW = 10.0  # seconds over which a body's rate is looked at
_STALL = 60.0  # seconds in which a reader of an answer must take something
_PATIENCE = 60.0  # seconds that a connection waits for others from its address to end
_MAX_WORDS = 2**16  # bytes of headers, or of anything else that is no body, in a row
_TICK = 1.0


class Gate:
    """All connections but those of the administrator, who gets in when nobody else does, and of proxies by a socket.

    ``most`` connections, of which ``most_per_address`` are served for one address: further ones wait. Nobody else
    suffers from those who wait: if there is no room they are turned away. A refused client may lose its results, since
    it asks for them once; one that waits asks again. Addresses in ``trusted`` have no share, since they are many.
    ``min_rate``: bytes a second of a body.
    """

    def __init__(self, most: int, most_per_address: int, min_rate: int, trusted: Trusted | None = None):
        self.most, self.most_per_address, self.min_rate = most, most_per_address, min_rate
        self.connections: set[PacedProtocol] = set()
        self._trusted = trusted or Trusted(())
        self._held = 0
        self._served: Counter[str] = Counter()
        self._waiting: dict[str, dict[Place, PacedProtocol]] = {}  # in the order in which they came
        self._room = asyncio.Event()

    @property
    def full(self) -> bool:
        return self._held >= self.most

    def take(self, address: str | None) -> "Place":
        """A place for a connection that was accepted; None: by a Unix socket."""
        self._held += address is not None
        return Place(address)

    def protocol(self, place: "Place", **options: Any) -> "PacedProtocol":
        """A connection's protocol, as uvicorn asks for one."""
        return PacedProtocol(gate=self, place=place, **options)

    async def room(self) -> None:
        """Return when one more may be accepted. Somebody wants it."""
        while self.full:
            if self._waiting:
                address = max(self._waiting, key=lambda address: len(self._waiting[address]))
                newest = next(reversed(self._waiting[address]))
                self._forget(address, newest).turn_away()
            self._room.clear()
            await self._room.wait()

    def begin(self, place: "Place", connection: "PacedProtocol") -> None:
        """Let a connection be served, now or when it is its turn."""
        address = place.address
        if address is None or self._served[address] < self.most_per_address or address in self._trusted:
            self._serve(place, connection)
        else:
            self._waiting.setdefault(address, {})[place] = connection

    def leave(self, place: "Place") -> None:
        """A place is free."""
        address, place.address = place.address, None
        if address is None:
            return
        self._held -= 1
        self._room.set()
        waiting = self._waiting.get(address, {})
        if place in waiting:
            self._forget(address, place)
        elif place.served:
            self._served[address] -= 1
            if not self._served[address]:
                del self._served[address]
            if waiting:
                following = next(iter(waiting))
                self._serve(following, self._forget(address, following))

    def _serve(self, place: "Place", connection: "PacedProtocol") -> None:
        place.served = True
        if place.address is not None:
            self._served[place.address] += 1
        connection.serve()

    def _forget(self, address: str, place: "Place") -> "PacedProtocol":
        connection = self._waiting[address].pop(place)
        if not self._waiting[address]:
            del self._waiting[address]
        return connection

    async def watch(self) -> None:
        """End what is too slow, for ever."""
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            for connection in list(self.connections):
                connection.look(now)


class Place:
    """One connection among those that there may be, from its accept to its end."""

    def __init__(self, address: str | None):
        self.address = address
        self.served = False


class PacedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with deadlines.

    A connection waits for others from its address, is in a request's head, in its body, or between requests.
    """

    def __init__(self, *, gate: Gate, place: Place, **options: Any):
        super().__init__(**options)
        self._gate = gate
        self._place = place
        self._peer: int | None = None  # the account at the other end of a Unix socket
        self._phase = "waiting"
        self._since = time.monotonic()  # of the phase, or of a body's window
        self._early = b""  # what came while it waited
        self._body_bytes = 0  # in this window
        self._words = 0  # bytes since the last ones of a body
        self._unsent, self._unsent_since = 0, self._since
        self._served_app, self.app = self.app, self._serve_one
        self._requests = 0  # that the application is at: two where a client sends the next one early
        self._lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._gate.connections.add(self)
        self._peer = peer_of(transport.get_extra_info("socket"))
        self._gate.begin(self._place, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.connections.discard(self)
        self._lost = True
        self._leave_if_done()
        super().connection_lost(exc)

    async def _serve_one(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request keeps its connection's place to its own end: who breaks it off makes no room yet."""
        self._requests += 1
        try:
            await self._served_app(scope, receive, send)
        finally:
            self._requests -= 1
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._lost and not self._requests:
            self._gate.leave(self._place)

    def serve(self) -> None:
        """It has waited long enough, or need not."""
        self._enter("head")
        self.flow.resume_reading()
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    def turn_away(self) -> None:
        """It waits, and others need the room."""
        self._refuse(503, f"There are more than {self._gate.most_per_address} connections from your address.")

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._phase == "waiting":  # still read, or its end would not be seen
            self._early += data
            if len(self._early) > _MAX_WORDS:
                self.flow.pause_reading()
            return
        self._words += len(data)
        super().data_received(data)
        if self._words > _MAX_WORDS and not self.transport.is_closing():
            self._refuse(431, f"A request's headers may have {_MAX_WORDS} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["peer"] = self._peer
        self._enter("head")

    def on_headers_complete(self) -> None:
        self._enter("body")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._words = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._enter("between")  # uvicorn ends a connection that stays so
        super().on_message_complete()

    def look(self, now: float) -> None:
        """End the connection if its other end is too slow. Once a second."""
        if self._reader_stalls(now):
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._phase == "waiting" and now - self._since > _PATIENCE:
            self.turn_away()
        elif self._phase == "head" and now - self._since > HEAD_DEADLINE:
            self._refuse(408, f"The headers of a request must come within {HEAD_DEADLINE:.0f} seconds.")
        elif self._phase == "body" and self.flow.read_paused:  # it is scd that makes it wait
            self._enter("body")
        elif self._phase == "body" and now - self._since > _WINDOW:
            if self._body_bytes < self._gate.min_rate * _WINDOW:
                self._refuse(408, f"A request must come with {self._gate.min_rate} bytes a second.")
            else:
                self._enter("body")

    def _enter(self, phase: str) -> None:
        self._phase, self._since, self._body_bytes = phase, time.monotonic(), 0
        if phase != "body":
            self._words = 0

    def _reader_stalls(self, now: float) -> bool:
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        return now - self._unsent_since > _STALL

    def _refuse(self, status: int, message: str) -> None:
        """Answer, unless an answer is on its way already, and close. A handler that waits for the rest sees the end."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn has none before the first request
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_answer(status, message))
        self.transport.close()


@functools.cache
def _answer(status: int, message: str) -> bytes:
    phrase = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}[status]
    body = msgspec.json.encode({"message": message, "status": "unknown", "success": False})
    return (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    ).encode() + body
