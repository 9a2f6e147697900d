"""Which of the unfinished jobs get what is free of the machine, and what the others are told."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from . import limits
from .config import Budget, Config, Settings
from .licenses import Licenses
from .live import LiveJob
from .model import PREPARE, Attempt, NodeKey, PlanNode
from .placement import LOCAL, executor_of
from .share import CORES, Pick, Room, Running, Shares, Stock, Waiting, no_room
from .states import JobState


class Dispatch:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shares = Shares()
        self.licenses = Licenses(settings)

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """What is charged and chosen in here never was, if it fails: it will be once more."""
        before = self._shares.copy(), self.licenses.copy()
        try:
            yield
        except BaseException:
            self._shares, self.licenses = before
            raise

    def charge(self, live: LiveJob, attempt: Attempt) -> None:
        """A node, or a preparation, ended. What runs elsewhere is not this machine's to share."""
        if attempt.executor == LOCAL:
            self._shares.charge(live.job.user, attempt.cores, attempt.elapsed or 0.0)
        self.licenses.charge(live, attempt)

    def choose(self, jobs: Sequence[LiveJob], spent: dict[str, str]) -> list[Pick]:
        """What starts now. ``spent``: users who may compute no more, with the reason."""
        config = self._settings.config
        total = config.cores
        by_user: dict[str, list[LiveJob]] = {}
        for live in jobs:
            by_user.setdefault(live.job.user, []).append(live)
        running = {user: list(running_of(lives, here_only=True)) for user, lives in by_user.items()}
        rooms = self._rooms(by_user)
        # Of those who can start nothing now no node stands in line, for a licence neither.
        able = {user for user in by_user if user not in spent and not no_room(rooms[user])}
        wanted = {live.job_hash: self.licenses.wanted(live) if live.job.user in able else {} for live in jobs}
        stock = self.licenses.stock(jobs, wanted)
        offered = {live.job_hash: live.offered(stock.not_due(live.job_hash, wanted[live.job_hash])) for live in jobs}
        waiting = {
            user: [
                part
                for live in lives
                if (part := _waiting(config, live, offered[live.job_hash], wanted[live.job_hash])).ready
            ]
            for user, lives in by_user.items()
            if user not in spent
        }
        free = total - sum(node.cores for nodes in running.values() for node in nodes)
        elsewhere = [
            pick
            for live in jobs
            if live.job.user not in spent
            for pick in _elsewhere(config, live, offered[live.job_hash], rooms, stock, wanted[live.job_hash])
        ]
        picks = elsewhere + self._shares.choose(waiting, running, rooms, free, total, stock)
        picked = {pick.job_hash for pick in picks}
        queues = {
            user: [live.job_hash for live in lives if _queued(live) and live.job_hash not in picked]
            for user, lives in by_user.items()
        }
        places = {job_hash: place for place, job_hash in enumerate(self._shares.order(queues, running), 1)}
        for user, lives in by_user.items():
            for live in lives:
                lacking = self.licenses.lacking(live.job_hash, wanted[live.job_hash], stock)
                why = (no_room(rooms[user]) or CORES) if len(live.ready()) > len(lacking) else ""
                stands = live.job_hash not in picked and not live.attempts
                live.wait(places.get(live.job_hash, 0), spent.get(user) or why, lacking, stands=stands)
        return picks

    def _rooms(self, by_user: dict[str, list[LiveJob]]) -> dict[str, list[Room]]:
        """By user; a group's is one for all of its users."""
        nodes = {user: sum(live.running_nodes for live in lives) for user, lives in by_user.items()}
        made: dict[Budget, Room] = {}
        found: dict[str, list[Room]] = {}
        for user in by_user:
            found[user] = []
            for budget in self._settings.budgets_of(user):
                if (most := budget.limits.max_running_nodes) is None:
                    continue
                if budget not in made:
                    live = sum(nodes.get(member, 0) for member in budget.members)
                    made[budget] = Room(most - live, limits.full(budget))
                found[user].append(made[budget])
        return found


def running_of(lives: Iterable[LiveJob], *, here_only: bool = False) -> Iterator[Running]:
    """What has cores now, and for how many seconds: nodes, and preparations too; ``here`` on this machine."""
    for live in lives:
        for name, attempt in live.attempts.items():
            if attempt.executor == LOCAL or not here_only:
                yield Running(attempt.cores, live.seconds(name))


def _queued(live: LiveJob) -> bool:
    return live.job.state is JobState.QUEUED


def _waiting(config: Config, live: LiveJob, offered: Sequence[PlanNode], wanted: Mapping[NodeKey, str]) -> Waiting:
    """What of a job waits for this machine; ``wanted``: which licences it needs for that."""
    if live.ending or live.job.state is JobState.PREPARING:
        return Waiting(live.job_hash, ())
    if _queued(live):
        return Waiting(live.job_hash, ((PREPARE, 1),) if live.job.executor == LOCAL else ())
    # There may be fewer cores than when it was prepared.
    here = [node for node in offered if executor_of(config, node) == LOCAL]
    ready = [(node.key, min(live.nodes[node.key].cores, config.cores)) for node in here]
    return Waiting(live.job_hash, ready, wanted)


def _elsewhere(
    config: Config, live: LiveJob, offered: Sequence[PlanNode], rooms: Mapping[str, Sequence[Room]], stock: Stock,
    wanted: Mapping[NodeKey, str],
) -> Iterator[Pick]:  # fmt: skip
    """What of a job waits for nothing here but a licence: it has a queue of its own. ``rooms`` are counted down."""
    user = live.job.user
    if live.ending or live.job.state is JobState.PREPARING:
        return
    if _queued(live):
        if live.job.executor != LOCAL:
            yield Pick(user, live.job_hash, PREPARE, 0)
        return
    for node in offered:
        if no_room(rooms.get(user, ())):
            return
        pick = Pick(user, live.job_hash, node.key, 0, wanted.get(node.key, ""))
        if executor_of(config, node) != LOCAL and (not pick.license or stock.is_due(pick)):
            stock.take(pick)
            for room in rooms.get(user, ()):
                room.left -= 1
            yield pick
