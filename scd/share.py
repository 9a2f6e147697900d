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
6. A node whose licence is not free is left out, and nothing waits for it. Licences have turns of their own, by the same
   rules: where it is the turn of a user whose node would take another's, the other's node goes, and the turn stays.
"""

import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    licenses: Mapping[NodeKey, str] = {}  # of the nodes that hold one


class Pick(NamedTuple):
    user: str
    job_hash: str
    key: NodeKey
    cores: int
    license: str = ""

    @property
    def node(self) -> tuple[str, NodeKey]:
        return self.job_hash, self.key


class Room:
    """How many more nodes may run of a user, or of all users of a group."""

    def __init__(self, left: int, full: str):
        self.left = left
        self.full = full  # what those are told who do not fit in: never ""


def no_room(rooms: Iterable[Room]) -> str:
    """What is said to a user with these rooms if no more of his nodes may run, "" if one may."""
    return next((room.full for room in rooms if room.left <= 0), "")


class Running(NamedTuple):
    cores: int
    elapsed: float  # seconds


class Stock:
    """The licences that are free, and those who are next to have them: as many of each as there are, in their order.

    ``asking`` are all that could go if they had one.
    """

    def __init__(self, free: Mapping[str, int], due: Iterable[Pick] = (), asking: Collection[tuple[str, NodeKey]] = ()):
        self.free = dict(free)
        self._asking = asking
        self._due = {pick.node: pick for pick in due}
        self._taken: set[tuple[str, NodeKey]] = set()
        self._gone: set[tuple[str, NodeKey]] = set()  # these, and those that do not fit for another reason

    def has(self, pick: Pick) -> bool:
        """Whether a node may still go in this turn, as far as licences are concerned."""
        return not pick.license or (self.free[pick.license] > 0 and pick.node not in self._gone)

    def is_due(self, pick: Pick) -> bool:
        return pick.node in self._due

    def not_due(self, job_hash: str, wanted: Iterable[NodeKey]) -> set[NodeKey]:
        """Those of a job's nodes that want a licence and are not next to have one."""
        return {key for key in wanted if (job_hash, key) not in self._due}

    def is_short(self, job_hash: str, key: NodeKey, name: str) -> bool:
        """Whether a node did not go for want of a licence: there is none, or what is left is for others."""
        node = (job_hash, key)
        return node not in self._taken and (self.free[name] <= 0 or (node in self._asking and node not in self._due))

    def take(self, pick: Pick) -> None:
        """A node goes."""
        if pick.license:
            self._taken.add(pick.node)
            self._gone.add(pick.node)
            self.free[pick.license] -= 1

    def skip(self, pick: Pick) -> None:
        """A node does not fit, licence or not."""
        if pick.license:
            self._gone.add(pick.node)

    def instead(self, pick: Pick, rooms: Mapping[str, Sequence["Room"]]) -> Pick:
        """The node that goes where it is the turn of ``pick``."""
        if not pick.license or pick.node in self._due:
            return pick
        others = (one for one in self._due.values() if one.license == pick.license and self.has(one))
        return next((one for one in others if not no_room(rooms.get(one.user, ()))), pick)


class Shares:
    def __init__(self, usual: float = 60.0):
        self._usual = usual  # seconds that a node takes
        self._used: dict[str, float] = {}
        self._turns = 0
        self._served: dict[str, int] = {}
        self._overtaken: dict[tuple[str, NodeKey], int] = {}

    def copy(self) -> "Shares":
        made = Shares(self._usual)
        made._used, made._turns = dict(self._used), self._turns
        made._served, made._overtaken = dict(self._served), dict(self._overtaken)
        return made

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
        stock: Stock | None = None,
    ) -> list[Pick]:
        """What starts now, of each user's jobs in order of submission. ``rooms`` and ``stock`` are counted down.

        ``free`` of ``total`` cores: no node takes more than ``total``.
        """
        self._welcome(waiting.keys() | running.keys())
        known = {part.job_hash for parts in waiting.values() for part in parts}
        self._overtaken = {node: times for node, times in self._overtaken.items() if node[0] in known}
        stock = stock or Stock({})
        lines = {user: _line(user, parts, rooms.get(user, ()), stock) for user, parts in waiting.items()}
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
            if (other := stock.instead(pick, rooms)) is not pick:
                lines[user] = itertools.chain(_still(pick, rooms.get(user, ()), stock), lines[user])
                pick = other
            if pick.cores > free:
                node = passed.setdefault(pick.user, pick.node)
                if pick.user not in busy or self._overtaken.get(node, 0) >= total:
                    break
                stock.skip(pick)
                looked[user] += 1
                if looked[user] < _DEPTH:
                    heapq.heappush(heap, (share, self._served.get(user, 0), user))
                continue
            picks.append(pick)
            stock.take(pick)
            self._turns += 1
            self._served[pick.user] = self._turns
            self._overtaken.pop(pick.node, None)
            for node in passed.values():
                self._overtaken[node] = self._overtaken.get(node, 0) + 1
            free -= pick.cores
            busy.add(pick.user)
            for room in () if pick.key == PREPARE else rooms.get(pick.user, ()):
                room.left -= 1
            if pick.user == user:
                share += pick.cores * self._usual
            heapq.heappush(heap, (share, self._served.get(user, 0), user))
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


def _line(user: str, parts: Sequence[Waiting], rooms: Sequence[Room], stock: Stock) -> Iterator[Pick]:
    """A user's candidates one after the other; those that have no room or no licence, when asked for, left out."""
    for part in parts:
        for key, cores in part.ready:
            if key != PREPARE and no_room(rooms):
                break  # all of this job's are nodes
            pick = Pick(user, part.job_hash, key, cores, part.licenses.get(key, ""))
            if stock.has(pick):
                yield pick


def _still(pick: Pick, rooms: Sequence[Room], stock: Stock) -> Iterator[Pick]:
    """A candidate in whose place another went: once more, when it is asked for."""
    if stock.has(pick) and not no_room(rooms):
        yield pick
