"""What is to be submitted to Slurm. Each parcel goes by one sbatch: one attempt, or as a job array some of one job."""

import asyncio
import logging
import time
from collections.abc import Callable

from .. import slurm_cli as cli
from ..errors import ScdError
from ..launcher.base import LauncherDown
from ..states import NodeState
from .batches import Batches, Made
from .controller import Controller
from .submission import Stage, Submission

log = logging.getLogger(__name__)

_FULL = 15.0  # before the next try to get into a full queue
_SPLIT = 4  # into so many goes an array for which there is no room: its parts may find some
_RELAUNCH = 2.0  # before scd-launcher is asked again
_UNLAUNCHED = "waiting for scd-launcher: it does not answer"

Parcel = list[Submission]


class Outbox:
    def __init__(
        self, slurm: Controller, batches: Batches, hurry: Callable[[], None], wake: Callable[[], None]
    ) -> None:
        """``hurry`` is called when something is about to change in Slurm's queue, ``wake`` when something is known."""
        self._slurm = slurm
        self._batches = batches
        self._hurry = hurry
        self._wake = wake
        self._parcels: asyncio.Queue[Parcel] = asyncio.Queue()
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

    def _put(self, parcel: Parcel, after: float = 0.0) -> None:
        for known in parcel:
            known.not_before = time.monotonic() + after
        self._unsent += 1
        self._parcels.put_nowait(parcel)

    async def serve(self) -> None:
        """One submission after the other. Some may do this at once."""
        while True:
            parcel = await self._parcels.get()
            if self._open.get(parcel[0].spec.array) is parcel:
                del self._open[parcel[0].spec.array]
            try:
                await self._submit(parcel)
            except LauncherDown:
                unsent = _unsent(parcel)
                for known in unsent:
                    known.stage, known.seen.waiting = Stage.WAITING, _UNLAUNCHED
                self._put(unsent, _RELAUNCH)
                self._wake()
            except (OSError, ScdError) as error:
                self._fail(parcel, f"it cannot be submitted: {error}")
            except Exception:  # one attempt's trouble must not hold up all others
                log.exception("job=%s %s cannot be submitted", parcel[0].spec.job_hash, parcel[0].name)
                self._fail(parcel, "it cannot be submitted; scd's log says why")
            finally:
                self._unsent -= 1
            # The last of many is told at once, others with the next look: a turn of the scheduler for each costs more.
            if self.news and not self._unsent:
                self.news = False
                self._wake()

    def _fail(self, parcel: Parcel, reason: str) -> None:
        for known in _unsent(parcel):
            known.end(NodeState.ERROR, reason)
        self._wake()

    async def _submit(self, parcel: Parcel) -> None:
        new = await self._make(parcel)
        await asyncio.sleep(max(0.0, max((known.not_before for known in new), default=0.0) - time.monotonic()))
        await self._slurm.reachable.wait()
        if wanted := _wanted(new):
            await self._slurm.wait_to_submit(wanted[0].owner)
        if not (wanted := _wanted(new)):
            return  # the watch ends them
        for known in wanted:
            known.stage = Stage.SENDING
        self._hurry()  # it may be in the queue, and over, while sbatch still has not answered
        verdict, text = cli.submitted(await self._slurm.do(self._batches.submit, [known.spec for known in wanted]))
        for known in wanted:
            known.take_answer(verdict, text)
        self.news = True
        if later := [known for known in wanted if known.stage is Stage.WAITING and not known.ended]:
            self._put_off(later)
        self._hurry()

    async def _make(self, parcel: Parcel) -> Parcel:
        """Those of which nothing can have been submitted."""
        fresh = [known for known in parcel if known.fresh]
        for known, made in zip(fresh, await self._slurm.do(self._made, fresh), strict=True):
            known.owner, known.fresh = made.owner, False
            if not made.new:  # an earlier daemon may have submitted it
                known.stage = Stage.SUBMITTED if known.seen.handle else Stage.UNCERTAIN
                self._hurry()
        return [known for known in parcel if known.stage is Stage.WAITING]

    def _made(self, parcel: Parcel) -> list[Made]:
        return [self._batches.make(known.spec) for known in parcel]

    def _put_off(self, parcel: Parcel) -> None:
        """There was no room for it."""
        size = -(-len(parcel) // _SPLIT)
        for start in range(0, len(parcel), size):
            self._put(parcel[start : start + size], _FULL)


def _unsent(parcel: Parcel) -> Parcel:
    """Without those that an earlier daemon may have submitted."""
    return [known for known in parcel if known.stage in (Stage.WAITING, Stage.SENDING)]


def _wanted(parcel: Parcel) -> Parcel:
    return [known for known in parcel if not known.ended and known.kill is None]
