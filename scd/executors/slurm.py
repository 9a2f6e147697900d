"""Attempts as Slurm batch jobs, one each.

What an attempt did stands in its own directory (``places``), written by its batch job (``launcher/batch.py``); Slurm's
word only explains what is missing there. So it does not matter that Slurm can lose an id, run one twice or be away:

- nothing of a name runs twice, since a batch job first claims the attempt's directory;
- a submission whose end is not known is looked for by its name before it is made again;
- whoever wants an attempt to end that did not begin claims it himself: it never will.

One task looks at the queue for all of them (``controller``), some submit; what follows from a look is decided by
``submission``.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..config import Slurm
from ..model import NodeKey
from ..placement import Partition
from ..procfs import boot_id
from ..spool import Spool
from ..states import NodeState
from . import places
from .base import Observation, Spec
from .batches import Batches, place
from .controller import TICK, Controller
from .endings import Endings
from .local import LocalExecutor
from .outbox import Outbox
from .places import Look
from .readers import Queue
from .submission import MARGIN, Stage, Submission

log = logging.getLogger(__name__)

_MOST_SUBMISSIONS = 5  # of one attempt
_MOST_QUESTIONS = 10  # about single jobs, at a time
_IDLE = 300.0
_DOWN = "waiting for Slurm: its controller does not answer"


class SlurmExecutor:
    name = "slurm"

    def __init__(self, config: Slurm, spool: Spool, batches: Batches, here: LocalExecutor, wake: Callable[[], None]):
        """``here`` looks at the files of nodes that run: in the job's sandbox, on this machine."""
        self._config = config
        self._spool = spool
        self._here = here
        self._wake = wake
        self._boot = boot_id()
        self._slurm = Controller(config)
        self._outbox = Outbox(self._slurm, batches, config.parallel, self._hurry, wake)
        self._endings = Endings(self._slurm, batches, wake)
        self._known: dict[str, Submission] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stir = asyncio.Event()
        self._next_turn = 0.0

    @property
    def partitions(self) -> Mapping[str, Partition]:
        """What the partitions give, empty until Slurm has told."""
        return self._slurm.partitions

    @property
    def largest_array(self) -> int:
        """How many nodes of one job go with one submission, where several are ready; 0: each alone."""
        return self._slurm.largest_array

    async def start(self) -> None:
        """Ask Slurm once, and go on asking."""
        await self._slurm.read_site()
        if not self.partitions:
            log.warning("Slurm does not answer; what is to run there waits for it")
        log.info("%s", (await self._slurm.choose_reader()).why)
        self._tasks = [asyncio.create_task(duty) for duty in (self._watch(), *self._outbox.senders())]

    async def close(self) -> None:
        """Leave all batch jobs alone; they go on without the daemon."""
        for task in self._tasks:
            task.cancel()
        self._slurm.close()

    # -- the scheduler's side

    async def submit(self, spec: Spec) -> str:
        if spec.name not in self._known:
            there = place(self._spool, spec.name)
            known = self._known[spec.name] = Submission(spec, there, self._config.record_timeout, self._boot)
            self._outbox.put(known)
        return spec.name

    async def trouble(self) -> str:
        return "" if self._slurm.reachable.is_set() else "Slurm's controller does not answer"

    async def poll(self, handles: Iterable[str]) -> dict[str, Observation]:
        return {name: self._known[name].seen for name in handles if name in self._known}

    async def cancel(self, handles: Iterable[str], state: NodeState, reason: str) -> None:
        for name in handles:
            known = self._known.get(name)
            if known is not None and known.kill is None and not known.ended:
                known.kill, known.killed = (state, reason), time.monotonic()
                self._next_turn = 0.0
        self._hurry()

    async def snapshot(self, job_hash: str, key: NodeKey) -> str | None:
        if (spec := self._running(job_hash, key)) is None:
            return None
        self._here.open(spec)
        return await self._here.snapshot(job_hash, key)

    async def tail(self, job_hash: str, key: NodeKey, offset: int) -> dict[str, Any] | None:
        if (spec := self._running(job_hash, key)) is None:
            return None
        self._here.open(spec)
        return await self._here.tail(job_hash, key, offset)

    def _running(self, job_hash: str, key: NodeKey) -> Spec | None:
        for known in self._known.values():
            if known.spec.job_hash == job_hash and known.spec.key == key and known.seen.started is not None:
                return None if known.ended else known.spec
        return None

    async def release(self, job_hash: str) -> None:
        for name in [name for name, known in self._known.items() if known.spec.job_hash == job_hash]:
            known = self._known.pop(name)
            if not known.ended:  # scd cannot go on with the job: what there is of it ends
                known.kill = known.kill or (NodeState.ERROR, "the job has ended")
                self._endings.leaving[name] = known

    # -- watching

    def _hurry(self) -> None:
        self._slurm.hurry()
        self._stir.set()

    async def _watch(self) -> None:
        while True:
            while (pause := min(self._slurm.due, self._next_turn) - time.monotonic()) > 0:
                self._stir.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stir.wait(), pause)
            try:
                await self._turn()
            except Exception:  # a queue that cannot be understood is one that did not answer
                log.exception("a look at Slurm's queue failed")
                self._slurm.due = self._next_turn = time.monotonic() + self._config.poll_interval

    async def _turn(self) -> None:
        """What was killed is given up; then one look at the queue and at the disk for all, and what follows."""
        now = time.monotonic()
        await self._endings.give_up_killed(self._known.values())
        queue: Queue | None = None
        if not (self._known or self._endings.leaving):
            self._slurm.due = now + _IDLE
        elif now >= self._slurm.due:
            queue = await self._slurm.queue()
        live = [known for known in self._known.values() if known.stage is not Stage.WAITING and not known.ended]
        await self._judge(live, queue)
        if queue is not None:
            await self._ask_again(live)
            self._endings.see_off(queue)
        await self._endings.tell_slurm(self._known.values())
        runs = any(known.seen.started is not None and not known.ended for known in live)
        owed = any(known.kill is not None and not known.given_up for known in self._known.values())
        # Records are looked for between two queries, and a launcher that was away is asked again.
        self._next_turn = now + TICK if runs or owed else self._slurm.due
        await self._slurm.read_site()

    async def _judge(self, live: Sequence[Submission], queue: Queue | None) -> None:
        rows = {known.name: None if queue is None else known.own(queue) for known in live}
        looked = await self._slurm.do(_look_at, [known for known in live if known.worth_a_look(rows[known.name])])
        now = time.monotonic()
        news, self._outbox.news = self._outbox.news, False
        for known in live:
            before = known.news
            try:
                known.judge(rows[known.name], looked.get(known.name), now)
                if known.doom is not None and not known.ended:
                    await self._endings.tell_doomed(known)
            except Exception:  # one attempt's trouble must not hold up all others
                log.exception("job=%s %s cannot be judged", known.spec.job_hash, known.name)
                known.kill = known.kill or (NodeState.ERROR, "scd cannot make sense of it; its log says why")
            news |= before != known.news
            if known.awaits_word:
                self._slurm.hurry()
        for known in self._known.values():
            if not self._slurm.reachable.is_set() and known.seen.waiting != _DOWN and not known.ended:
                known.seen.waiting, news = _DOWN, True
            elif self._slurm.reachable.is_set() and known.seen.waiting == _DOWN:
                known.seen.waiting, news = "", True
        if news:
            self._slurm.hurry()
            self._wake()

    async def _ask_again(self, live: Sequence[Submission]) -> None:
        """Submit again what Slurm, having answered for a while, does not have, and nobody has claimed."""
        there: dict[str, bool | None] = {}  # what Slurm says of single jobs, and of arrays
        again = []
        for known in live:
            now = time.monotonic()
            if known.missing is None or now - known.missing < MARGIN or known.ended or known.kill is not None:
                continue
            if known.doom is not None or (await self._slurm.do(_look_at, [known]))[known.name].claimed:
                continue
            if known.seen.handle:  # asked for alone, since squeue leaves out what it is told to hide
                job = known.seen.handle.partition("_")[0]
                if job not in there:
                    if len(there) == _MOST_QUESTIONS:
                        break
                    there[job] = await self._slurm.has(job, known.spec.array or known.name)
                if there[job] is not False:
                    known.missing = now
                    continue
            if known.submissions < _MOST_SUBMISSIONS:
                again.append(known)
            elif await self._endings.give_up([known], NodeState.ERROR, "") == [True]:
                known.end(NodeState.ERROR, "Slurm takes it again and again, and then does not know it", lost=True)
                self._wake()
        for known in again:
            if known.missing is not None:  # still
                known.send_again()
                self._outbox.put(known)


def _look_at(submissions: Sequence[Submission]) -> dict[str, Look]:
    return {known.name: places.look(known.place, known_started=known.seen.started is not None) for known in submissions}
