"""Server-sent events: what a page shows live comes over one answer that does not end, as long as it may."""

from collections import Counter
from collections.abc import AsyncIterator, Callable

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..errors import Unavailable

BEAT = 15.0  # seconds without news after which a sign of life is sent: proxies and vanished readers

_MOST = 200
_MOST_OF_AN_ADDRESS = 20
_RETRY = 3000  # ms until a browser comes back


class Audience:
    """How many watch: each holds a connection, and some work at each change."""

    def __init__(self, most: int = _MOST, most_of_an_address: int = _MOST_OF_AN_ADDRESS):
        self._most = most
        self._most_of_an_address = most_of_an_address
        self._by_address: Counter[str] = Counter()

    @property
    def size(self) -> int:
        return self._by_address.total()

    def enter(self, address: str) -> None:
        """Raises Unavailable."""
        if self.size >= self._most or self._by_address[address] >= self._most_of_an_address:
            raise Unavailable("Too many live views are open. Close some; this page can be reloaded all the same.")
        self._by_address[address] += 1

    def leave(self, address: str) -> None:
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class EventStream(StreamingResponse):
    """``leave`` is called once, whatever becomes of the answer."""

    def __init__(self, events: AsyncIterator[str], leave: Callable[[], None]):
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # the latter: nginx passes events on at once
        super().__init__(_begun(events), media_type="text/event-stream", headers=headers)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


def event(name: str, data: object, number: int) -> str:
    """JSON has no line breaks of its own: one line of data. ``number`` is what a browser that comes back tells."""
    return f"event: {name}\nid: {number}\ndata: {msgspec.json.encode(data).decode()}\n\n"


SIGN_OF_LIFE = ": \n\n"


async def _begun(events: AsyncIterator[str]) -> AsyncIterator[str]:
    yield f"retry: {_RETRY}\n\n"
    async for one in events:
        yield one
