"""Turns at what is dear: so many at once, and whoever waits is taken in turn by who he is."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Turns:
    """Nobody is refused. Who asks for a hundred things at once keeps himself waiting, and nobody else for long."""

    def __init__(self, at_once: int):
        self._free = at_once
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the next one's first

    @contextlib.asynccontextmanager
    async def turn(self, who: str) -> AsyncIterator[None]:
        if self._free:
            self._free -= 1
        else:
            await self._wait(who)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, who: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came at that moment
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            who = next(iter(self._waiting))
            queue = self._waiting.pop(who)
            turn = queue.popleft()
            if queue:
                self._waiting[who] = queue  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
