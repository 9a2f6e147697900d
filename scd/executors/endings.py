"""The ends of attempts that are not to go on: each is given up in its directory, then taken out of Slurm's queue."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from .. import slurm_cli as cli
from ..errors import ScdError
from ..launcher.base import LauncherDown
from ..slurm_queue import best
from ..states import NodeState
from .batches import Batches
from .controller import Controller
from .readers import Queue
from .submission import MARGIN, Stage, Submission

log = logging.getLogger(__name__)

_RESEND = 5.0  # between two tries to cancel
_AT_ONCE = 500  # in one command
_SOME = 8  # in one command, where each is a request and those are limited
_HARD = 15.0  # after which Slurm ends a batch job that was told to end


class Endings:
    def __init__(self, slurm: Controller, batches: Batches, wake: Callable[[], None]):
        self._slurm = slurm
        self._batches = batches
        self._wake = wake
        self._complaints: dict[str, str] = {}  # by user, as they were logged
        self.leaving: dict[str, Submission] = {}  # ended for scd, and still to be taken out of Slurm's queue

    async def give_up_killed(self, submissions: Iterable[Submission]) -> None:
        """What never ran never will; what runs is told so in its directory, also while Slurm is away."""
        killed: dict[tuple[str, NodeState, str], list[Submission]] = {}
        for known in (*submissions, *self.leaving.values()):
            if known.kill is not None and not known.ended and not known.given_up:
                killed.setdefault((known.spec.job_hash, *known.kill), []).append(known)
        for (_, state, reason), together in killed.items():
            outcomes = await self.give_up(together, state, reason)
            for known, never_ran in zip(together, outcomes, strict=False):
                known.given_up = True
                if never_ran:
                    if known.stage is not Stage.WAITING:
                        self.leaving[known.name] = known
                    known.end(state, reason)
                    self._wake()

    async def give_up(self, submissions: Sequence[Submission], state: NodeState, reason: str) -> list[bool]:
        """Of one job: for each whether it never ran; nothing if they have to be given up again."""
        job_hash, names = submissions[0].spec.job_hash, [known.name for known in submissions]
        try:
            return await self._slurm.do(self._batches.give_up, job_hash, names, state, reason)
        except LauncherDown:
            return []
        except (OSError, ScdError) as error:  # a disk that is full: Slurm will be told all the same
            log.error("job=%s %s cannot be given up: %s", job_hash, ", ".join(names), error)
            return [False] * len(names)

    async def tell_doomed(self, known: Submission) -> None:
        """Should it live after all, cut off from everything, it must not go on beside one that takes its place."""
        assert known.doom is not None
        state, reason, lost = known.doom
        try:
            await self._slurm.do(self._batches.give_up, known.spec.job_hash, [known.name], state, reason)
        except LauncherDown:
            return
        except (OSError, ScdError) as error:
            log.error("job=%s %s cannot be given up: %s", known.spec.job_hash, known.name, error)
        else:
            known.end(state, reason, lost)

    async def tell_slurm(self, submissions: Iterable[Submission]) -> None:
        """All of them with a few commands. What pends goes at once; what runs is told to end, and later made to."""
        if not self._slurm.reachable.is_set():
            return
        now = time.monotonic()
        candidates = (*submissions, *self.leaving.values())
        due: dict[str, list[Submission]] = {}
        for known in {known.name: known for known in candidates if known.given_up}.values():
            if known.row is not None and not known.row.has_ended and now - known.told >= _RESEND:
                due.setdefault(known.spec.user, []).append(known)
        for user, together in due.items():
            try:
                await self._tell(user, together, now)
            except ScdError as error:
                self._complain(user, error.message)
            else:
                self._complaints.pop(user, None)
        if due:
            self._slurm.hurry()

    def _complain(self, user: str, why: str) -> None:
        """Once: who was taken out of the configuration has no account to tell Slurm anything, for as long as jobs pend.

        They end by themselves: what runs at its next look at its directory, what pends when it begins.
        """
        if self._complaints.get(user) != why:
            self._complaints[user] = why
            log.warning("user=%s Slurm was not told to end jobs, which are given up all the same: %s", user or "-", why)

    async def _tell(self, user: str, submissions: Sequence[Submission], now: float) -> None:
        """As many as the controller answers; the others with the next look."""
        kinds: dict[tuple[bool, bool, bool], list[Submission]] = {}
        for known in submissions:
            assert known.row is not None
            pending, element = known.row.pending, bool(known.row.array)
            gently = not pending and now - known.killed < _HARD
            kinds.setdefault((pending and not element, gently, pending and element), []).append(known)
        for (pending, gently, whole), together in kinds.items():
            owner = together[0].owner
            size = _AT_ONCE if whole or not self._slurm.limits(owner) else _SOME
            for start in range(0, len(together), size):
                part = together[start : start + size]
                ids = [known.row.id for known in part if known.row is not None]
                requests = cli.requests(cli.scancel(ids, pending=pending, gently=gently))
                if not self._slurm.may(owner, requests + self._batches.looks):
                    break
                for known in part:
                    known.told = now
                await self._slurm.do(partial(self._batches.cancel, user, ids, pending=pending, gently=gently))

    def see_off(self, queue: Queue) -> None:
        now = time.monotonic()
        for name, known in list(self.leaving.items()):
            known.row = best(known.own(queue))
            if known.row is not None:
                known.missing = None
            elif known.missing is None:
                known.missing = now
            if known.is_over or (known.missing is not None and now - known.missing >= MARGIN):
                del self.leaving[name]
