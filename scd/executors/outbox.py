"""What is to be submitted to Slurm. Each parcel goes by one sbatch: one attempt, or as a job array some of one job.

Users take turns, so that who has much to submit, or no request left, is waited for by nobody else.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence

from .. import slurm_cli as cli
from ..errors import ScdError
from ..launcher.base import LauncherDown
from ..launcher.requests import MOST_SUBMISSIONS
from ..slurm_cli import Verdict
from ..states import NodeState
from .base import Spec
from .batches import Batches
from .controller import Controller
from .submission import Stage, Submission

log = logging.getLogger(__name__)

_FULL = 15.0  # before the next try to get into a full queue
_SPLIT = 4  # into so many goes an array for which there is no room: its parts may find some
_RELAUNCH = 2.0  # before scd-launcher is asked again
_UNLAUNCHED = "waiting for scd-launcher: it does not answer"

Parcel = list[Submission]


class Tray:
    """What one user has to be submitted."""

    def __init__(self) -> None:
        self.parcels: deque[Parcel] = deque()
        self.not_before = 0.0

    def take(self, most: int) -> list[Parcel]:
        """The first, and those after it that can go with it."""
        taken = [self.parcels.popleft()]
        while self.parcels and len(taken) < most and _are_alike(taken[0][0].spec, self.parcels[0][0].spec):
            taken.append(self.parcels.popleft())
        return taken


class Outbox:
    def __init__(
        self, slurm: Controller, batches: Batches, parallel: int, hurry: Callable[[], None], wake: Callable[[], None]
    ) -> None:
        """sbatch is called ``parallel`` times at once, for half of them by one round: while it begins, another works.

        ``hurry`` is called when something is about to change in Slurm's queue, ``wake`` when something is known.
        """
        self._slurm = slurm
        self._batches = batches
        self._parallel = self._free = parallel
        self._most = -(-parallel // 2)
        self._hurry = hurry
        self._wake = wake
        self._trays: dict[str, Tray] = {}  # by user, none of them empty: whoever's turn it is comes first
        self._stirred = asyncio.Event()
        self._open: dict[str, Parcel] = {}  # by their array's name: those that are still to be taken up
        self._unsent = 0  # parcels
        self.news = False  # something is known that nobody was woken for

    def put(self, known: Submission) -> None:
        """Arrays are submitted with whatever of them is here when it comes to them: the rest goes by the same name."""
        array = known.spec.array
        if array in self._open:
            self._open[array].append(known)
            return
        parcel = [known]
        if array:
            self._open[array] = parcel
        self._put(parcel)

    def _put(self, parcel: Parcel) -> None:
        self._tray(parcel).parcels.append(parcel)
        self._unsent += 1
        self._stirred.set()

    def _put_later(self, parcel: Parcel, after: float) -> None:
        if parcel:
            asyncio.get_running_loop().call_later(after, self._put, parcel)

    def _put_back(self, parcels: list[Parcel], pause: float) -> None:
        """Their turn is once more requests may be sent."""
        tray = self._tray(parcels[0])
        tray.parcels.extendleft(reversed(parcels))
        tray.not_before = time.monotonic() + pause
        self._unsent += len(parcels)
        self._stirred.set()

    def _tray(self, parcel: Parcel) -> Tray:
        return self._trays.setdefault(parcel[0].spec.user, Tray())

    def senders(self) -> Iterator[Coroutine[None, None, None]]:
        return (self._serve() for _ in range(self._parallel))

    async def _serve(self) -> None:
        """One round after the other."""
        while True:
            parcels, at_once = await self._next()
            count = len(parcels)
            try:
                await self._make(parcels)
                await self._submit(parcels, at_once)
            except LauncherDown:
                for parcel in map(_unsent, parcels):
                    for known in parcel:
                        known.wait(_UNLAUNCHED)
                    self._put_later(parcel, _RELAUNCH)
                self._wake()
            except (OSError, ScdError) as error:
                self._fail(parcels, f"it cannot be submitted: {error}")
            except Exception:  # one attempt's trouble must not hold up all others
                first = parcels[0][0]
                log.exception("job=%s %s cannot be submitted", first.spec.job_hash, first.name)
                self._fail(parcels, "it cannot be submitted; scd's log says why")
            finally:
                self._unsent -= count
                self._free += at_once
                self._stirred.set()
            # The last of many is told at once, others with the next look: a turn of the scheduler for each costs more.
            if self.news and not self._unsent:
                self.news = False
                self._wake()

    async def _next(self) -> tuple[list[Parcel], int]:
        """What goes with one round, of the user whose turn it is, and how often sbatch is called at once for it."""
        while True:
            now = time.monotonic()
            ready = [user for user, tray in self._trays.items() if tray.not_before <= now]
            if ready and self._free:
                tray = self._trays.pop(ready[0])
                at_once = min(self._free, self._most)
                share = -(-len(tray.parcels) * at_once // self._free)  # another round, with what is free, has the rest
                parcels = tray.take(max(at_once, min(share, -(-MOST_SUBMISSIONS * at_once // self._most))))
                if tray.parcels:
                    self._trays[ready[0]] = tray
                for parcel in parcels:
                    self._open.pop(parcel[0].spec.array, None)
                at_once = min(at_once, len(parcels))
                self._free -= at_once
                return parcels, at_once
            self._stirred.clear()
            pause = None if ready else min((tray.not_before - now for tray in self._trays.values()), default=None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stirred.wait(), pause)

    def _fail(self, parcels: list[Parcel], reason: str) -> None:
        for parcel in parcels:
            for known in _unsent(parcel):
                known.end(NodeState.ERROR, reason)
        self._wake()

    async def _submit(self, parcels: list[Parcel], at_once: int) -> None:
        """``parcels`` are those that it is about at the end: without those that were put back."""
        await self._slurm.reachable.wait()
        parcels[:] = [parcel for parcel in map(_wanted, parcels) if parcel]  # the watch ends others
        if not parcels:
            return
        owner = parcels[0][0].owner
        now = self._slurm.submissions(owner, len(parcels))
        if later := parcels[now:]:
            del parcels[now:]
            self._put_back(later, self._slurm.pause(owner))
        if not parcels:
            return
        for parcel in parcels:
            for known in parcel:
                known.stage = Stage.SENDING
        self._hurry()  # it may be in the queue, and over, while sbatch still has not answered
        specs = [[known.spec for known in parcel] for parcel in parcels]
        answers = await self._slurm.do(self._batches.submit, specs, at_once)
        self._take_answers(parcels, [cli.submitted(answer) for answer in answers])
        self.news = True
        self._hurry()

    def _take_answers(self, parcels: list[Parcel], answers: list[tuple[Verdict, str]]) -> None:
        """Those that it did not come to wait for room as the last one does, if that is what it waits for."""
        verdict, text = answers[-1]
        for place, parcel in enumerate(parcels):
            if place < len(answers):
                verdict, text = answers[place]
            elif verdict is not Verdict.LATER:
                for known in parcel:
                    known.wait()
                self._put(parcel)
                continue
            for known in parcel:
                known.take_answer(verdict, text)
            if verdict is Verdict.LATER:
                self._put_off(parcel)

    async def _make(self, parcels: Sequence[Parcel]) -> None:
        """The directories of those that have none yet."""
        if not (fresh := [known for parcel in parcels for known in parcel if known.fresh]):
            return
        made = await self._slurm.do(self._batches.make, [known.spec for known in fresh])
        for known, (new, owner) in zip(fresh, made, strict=True):
            known.owner, known.fresh = owner, False
            if not new:  # an earlier daemon may have submitted it
                known.stage = Stage.SUBMITTED if known.seen.handle else Stage.UNCERTAIN
                self._hurry()

    def _put_off(self, parcel: Parcel) -> None:
        """There was no room for it."""
        size = -(-len(parcel) // _SPLIT)
        for start in range(0, len(parcel), size):
            self._put_later(parcel[start : start + size], _FULL)


def _are_alike(one: Spec, other: Spec) -> bool:
    """Whether they differ in nothing but their nodes, and neither is of an array."""
    return (
        not (one.array or other.array)
        and None not in (one.key, other.key)
        and (one.job_hash, one.placement, one.ancestors) == (other.job_hash, other.placement, other.ancestors)
    )


def _unsent(parcel: Parcel) -> Parcel:
    """Without those that an earlier daemon may have submitted."""
    return [known for known in parcel if known.stage in (Stage.WAITING, Stage.SENDING)]


def _wanted(parcel: Parcel) -> Parcel:
    """Those of which nothing can have been submitted, and that are not to end."""
    return [known for known in parcel if known.stage is Stage.WAITING and not known.ended and known.kill is None]
