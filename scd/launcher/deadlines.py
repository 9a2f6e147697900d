"""How long a shim waits for attempts that are to end. Standard library only."""

import heapq
import time
from collections.abc import Iterator


class Deadlines:
    def __init__(self) -> None:
        self._due: list[tuple[float, str]] = []

    def add(self, name: str, seconds: float) -> None:
        """From now on. An attempt may have several."""
        heapq.heappush(self._due, (time.monotonic() + seconds, name))

    def overdue(self) -> Iterator[str]:
        """The attempts whose time is up, each deadline once."""
        while self._due and self._due[0][0] <= time.monotonic():
            yield heapq.heappop(self._due)[1]

    def left(self, most: float) -> float:
        """Seconds until the next one, ``most`` of them at most."""
        return max(0.0, min(self._due[0][0] - time.monotonic(), most)) if self._due else most
