"""Who starts next on one machine. Pure: what is ready, what runs and what is free go in, what starts comes out.

1. The turn is that of the user who has had the least: the core-seconds of his nodes that ended, and of each that runs
   at least as many as a node here usually takes.
2. Who comes, or comes back, begins level with whoever has had the least of those who are here: he is next, and neither
   what he had before nor what he saved up meanwhile counts.
3. A user's own jobs go in order of submission, a job's nodes in execution order.
4. A node that does not fit although it is its user's turn may be overtaken. Where nothing of its user runs, by nobody:
   he waits for the end of one node at most. Else by as many as the machine has cores; then the rest waits for it. So no
   node waits for ever, and no machine stands still for each wide node.
5. Who is at a limit of running nodes is left out until one of them ends; his jobs may be prepared.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .model import PREPARE, NodeKey

# How much a node's length counts in the usual one.
_WEIGHT = 1 / 16
_SHORTEST = 0.01
# How far behind a node that does not fit one is looked for that does.
_DEPTH = 100

CORES = "waiting for cores"
TURN = "waiting for its turn"


class Waiting(NamedTuple):
    """One job's part: its ready nodes with the cores that each takes, or its preparation alone."""

    job_hash: str
    ready: Sequence[tuple[NodeKey, int]]


class Pick(NamedTuple):
    user: str
    job_hash: str
    key: NodeKey
    cores: int


class Room:
    """How many more nodes may run of a user, or of all users of a group."""

    def __init__(self, left: int, full: str):
        self.left = left
        self.full = full  # what those are told who do not fit in


class Running(NamedTuple):
    cores: int
    elapsed: float  # seconds


class Shares:
    def __init__(self, usual: float = 60.0):
        self._usual = usual  # seconds that a node takes
        self._used: dict[str, float] = {}
        self._turns = 0
        self._served: dict[str, int] = {}
        self._overtaken: dict[tuple[str, NodeKey], int] = {}

    def charge(self, user: str, cores: int, elapsed: float) -> None:
        """A node ended."""
        if user in self._used:
            self._used[user] += cores * elapsed
        self._usual = max(_SHORTEST, self._usual + _WEIGHT * (elapsed - self._usual))

    def share(self, user: str, running: Iterable[Running]) -> float:
        """What the user has had, in core-seconds."""
        return self._used.get(user, 0.0) + sum(one.cores * max(one.elapsed, self._usual) for one in running)

    def choose(
        self,
        waiting: Mapping[str, Sequence[Waiting]],
        running: Mapping[str, Sequence[Running]],
        rooms: Mapping[str, Sequence[Room]],
        free: int,
        total: int,
    ) -> list[Pick]:
        """What starts now, of each user's jobs in order of submission. ``rooms`` are counted down.

        ``free`` of ``total`` cores: no node takes more than ``total``.
        """
        self._welcome(waiting.keys() | running.keys())
        known = {part.job_hash for parts in waiting.values() for part in parts}
        self._overtaken = {node: times for node, times in self._overtaken.items() if node[0] in known}
        lines = {user: _line(user, parts, rooms.get(user, ())) for user, parts in waiting.items()}
        heap = [(self.share(user, running.get(user, ())), self._served.get(user, 0), user) for user in lines]
        heapq.heapify(heap)
        busy = {user for user, nodes in running.items() if nodes}
        passed: dict[str, tuple[str, NodeKey]] = {}  # the first node of each user that does not fit
        looked = dict.fromkeys(lines, 0)
        picks: list[Pick] = []
        while heap and free > 0:
            share, _, user = heapq.heappop(heap)
            pick = next(lines[user], None)
            if pick is None:
                continue
            if pick.cores > free:
                node = passed.setdefault(user, (pick.job_hash, pick.key))
                if user not in busy or self._overtaken.get(node, 0) >= total:
                    break
                looked[user] += 1
                if looked[user] < _DEPTH:
                    heapq.heappush(heap, (share, self._served.get(user, 0), user))
                continue
            picks.append(pick)
            self._turns += 1
            self._served[user] = self._turns
            self._overtaken.pop((pick.job_hash, pick.key), None)
            for node in passed.values():
                self._overtaken[node] = self._overtaken.get(node, 0) + 1
            free -= pick.cores
            busy.add(user)
            for room in () if pick.key == PREPARE else rooms.get(user, ()):
                room.left -= 1
            heapq.heappush(heap, (share + pick.cores * self._usual, self._turns, user))
        return picks

    def order(self, queues: Mapping[str, Sequence[str]], running: Mapping[str, Sequence[Running]]) -> list[str]:
        """All queued jobs about as they will begin: the first of each user, then the second of each."""
        ranked = [
            (place, self.share(user, running.get(user, ())), self._served.get(user, 0), job_hash)
            for user, jobs in queues.items()
            for place, job_hash in enumerate(jobs)
        ]
        return [job_hash for *_, job_hash in sorted(ranked)]

    def _welcome(self, present: set[str]) -> None:
        """Who is new here begins where the least of the others stands; who has left is forgotten."""
        staying = {user: used for user, used in self._used.items() if user in present}
        least = min(staying.values(), default=0.0)
        self._used = dict.fromkeys(present, least) | staying
        self._served = {user: turn for user, turn in self._served.items() if user in present}


def _line(user: str, parts: Sequence[Waiting], rooms: Sequence[Room]) -> Iterator[Pick]:
    """A user's candidates one after the other; those that have no room, at the moment they are asked for, left out."""
    for part in parts:
        for key, cores in part.ready:
            if key != PREPARE and any(room.left <= 0 for room in rooms):
                break  # all of this job's are nodes
            yield Pick(user, part.job_hash, key, cores)
