"""One attempt on its way through Slurm: what is known of it, and what follows from that. No I/O of its own.

The record that its batch job writes decides how it ended. Without one Slurm's word does, but only after Slurm has
answered and no sign of life was seen for long enough. Times are of the daemon's monotonic clock.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

from .. import slurm_cli as cli
from ..slurm_cli import Verdict
from ..slurm_queue import QueueRow, best
from ..states import NodeState
from ..units import format_duration
from .base import Observation, Spec
from .places import Look, Record
from .records import observe
from .slurm_words import CANCELLED, Ending, ending, explains, waiting

log = logging.getLogger(__name__)

MARGIN = 10.0  # Slurm may carry out late what it did not acknowledge
_KILLED = -9


class Stage(Enum):
    WAITING = "waiting"  # to be submitted
    SENDING = "sending"  # sbatch runs
    UNCERTAIN = "uncertain"  # it may be in the queue
    SUBMITTED = "submitted"  # Slurm gave it an id, or has it under its name


class Submission:
    def __init__(self, spec: Spec, place: Path, record_timeout: float, boot: str):
        """``record_timeout``: seconds without a sign of life after which no record is expected any more."""
        self.spec = spec
        self.place = place
        self.seen = Observation(handle=spec.handle)
        self.stage = Stage.WAITING
        self.fresh = True  # its directory is not known to be there
        self.owner: int | None = None  # the uid that its jobs have in Slurm, known with its directory
        self.submissions = 0
        self.row: QueueRow | None = None
        self.missing: float | None = None  # since when Slurm, having answered, did not know it
        self.kill: tuple[NodeState, str] | None = None
        self.killed = 0.0
        self.told = 0.0  # when Slurm was last told to end it
        self.given_up = False
        self.doom: tuple[NodeState, str, bool] | None = None  # how it ends once it has been told so: without a record
        self._timeout = record_timeout
        self._boot = boot
        self._over: float | None = None  # since when Slurm says that it ended
        self._senseless = False  # a record of it, which was told
        self._failed: float | None = None  # since when its record says that it failed
        self._beat: float | None = None  # the last sign of life, and when it was seen to be new
        self._beat_seen = 0.0
        self._others = False  # Slurm has its array, without it

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def queue_name(self) -> str:
        """What it is called in Slurm's queue."""
        spec = self.spec
        return cli.element_name(spec.array, spec.element) if spec.array else spec.name

    @property
    def ended(self) -> bool:
        return self.seen.state is not None

    @property
    def is_over(self) -> bool:
        """Slurm's word for it, whatever its record says."""
        return self.row is not None and self.row.has_ended

    @property
    def awaits_word(self) -> bool:
        """It failed, and Slurm may know better why."""
        return self._failed is not None and not self.ended

    @property
    def news(self) -> tuple[object, ...]:
        """What differs after anything that the scheduler should hear of."""
        return self.seen.handle, self.seen.started, self.seen.state, self.seen.waiting

    def worth_a_look(self, rows: Sequence[QueueRow] | None) -> bool:
        """What Slurm says is pending has nothing to tell: thousands of those cost no look at the disk."""
        row = best(rows) if rows else self.row
        return row is None or not row.pending or self.kill is not None

    # -- what sbatch answers

    def take_answer(self, verdict: Verdict, text: str) -> None:
        self.missing = None
        self.submissions += verdict is not Verdict.LATER
        match verdict:
            case Verdict.ACCEPTED:
                handle = cli.element_name(text, self.spec.element) if self.spec.array else text
                self.stage, self.seen.handle, self.seen.waiting = Stage.SUBMITTED, handle, ""
            case Verdict.REFUSED:
                self.end(NodeState.ERROR, f"Slurm refused it: {text}")
            case Verdict.LATER:
                self.wait(f"Slurm takes no more at the moment: {text}")
            case Verdict.UNCERTAIN:
                log.warning("job=%s %s may or may not be in Slurm: %s", self.spec.job_hash, self.name, text)
                self.stage = Stage.UNCERTAIN

    def wait(self, why: str = "") -> None:
        """It is not in Slurm, and is to be submitted. Nobody misses it there meanwhile."""
        self.stage, self.missing, self.seen.waiting = Stage.WAITING, None, why

    def send_again(self) -> None:
        """Slurm never got it, or has forgotten it before it ran."""
        log.warning("job=%s %s is not in Slurm: it is submitted again", self.spec.job_hash, self.name)
        self.seen.handle = ""
        self.wait()

    # -- what is seen of it

    def own(self, queue: Mapping[str, Sequence[QueueRow]]) -> list[QueueRow]:
        """What is its own of what has its name in Slurm: anybody can call his job so."""
        rows = [row for row in queue.get(self.queue_name, ()) if row.user == self.owner]
        base, _, element = self.seen.handle.partition("_")
        self._others = bool(element) and not rows and any(
            row.user == self.owner and row.array == base for row in queue.get(self.spec.array, ())
        )  # fmt: skip
        return rows

    def judge(self, rows: Sequence[QueueRow] | None, found: Look | None, now: float) -> None:
        """``rows`` that Slurm has under its name, None if Slurm was not asked or did not answer."""
        if found is not None:
            if found.beat is not None and found.beat != self._beat:
                self._beat, self._beat_seen = found.beat, now
            if found.started is not None and self.seen.started is None:
                self._take(found.started)
        if rows:
            self._take_rows(rows, now)
        elif rows is not None and self.stage in (Stage.UNCERTAIN, Stage.SUBMITTED):
            self.row = None
            self.missing = now if self.missing is None else self.missing
        if found is not None and found.ended is not None:
            self._take_end(found.ended, now)
        elif rows is not None and found is not None and not self.ended:
            self._judge_silence(found, now)

    def _take_rows(self, rows: Sequence[QueueRow], now: float) -> None:
        row = best(rows)
        assert row is not None
        self.row, self.missing = row, None
        if self.stage is not Stage.SENDING:  # else sbatch is about to say so itself
            self.stage, self.seen.handle = Stage.SUBMITTED, row.id
        if not row.has_ended:
            self._over = None
        elif self._over is None:
            self._over = now
        self.seen.waiting = "" if row.has_ended else waiting(row, self.spec.placement.license)

    def _take(self, record: Record) -> bool:
        """Whether the record made sense."""
        try:
            observe(self.seen, record, self._boot)
        except (LookupError, TypeError, ValueError) as error:
            if not self._senseless:
                log.error("job=%s a record of %s makes no sense: %r", self.spec.job_hash, self.name, error)
            self._senseless = True
            return False
        if self.seen.started is not None and self.seen.started_mono is None:  # by another machine's clock
            self.seen.started_mono = time.monotonic() - max(0.0, time.time() - self.seen.started)
        return True

    def _take_end(self, record: Record, now: float) -> None:
        """Why a node failed Slurm may know better: that is waited for a little, longer if it was ended from outside.

        A node whose tool was killed for its memory says no more than that the tool failed.
        """
        failed = record.get("state") not in ("success", "skipped")
        outside = failed and self.kill is None and (record.get("signalled") or record.get("exit_code") == _KILLED)
        if failed and self.kill is None and not self.is_over:
            self._failed = now if self._failed is None else self._failed
            since = self.missing if outside else self._failed
            if since is None or now - since < MARGIN:
                return
        if not self._take(record):
            self.end(NodeState.ERROR, "its record makes no sense", lost=True)
        elif failed and self.kill is not None:
            self.seen.state, self.seen.reason = self.kill
            self.seen.lost = False
        elif failed and self.row is not None and explains(self.row, outside=bool(outside)):
            word = self._word(self.row)
            self.seen.state, self.seen.reason = word.state, word.reason
            self.seen.lost, self.seen.out_of_memory = word.lost, word.out_of_memory

    def _judge_silence(self, found: Look, now: float) -> None:
        """There is no record, and Slurm has answered."""
        if self._over is not None and self.row is not None:
            never = self.row.state == "CANCELLED" and self.row.never_ran and not found.claimed
            if never or now - max(self._over, self._beat_seen) >= self._timeout:
                self._doom_by_word(self.row, found)
        elif self.missing is not None and not found.claimed and self._others and now - self.missing >= MARGIN:
            # Slurm keeps nothing of an element that was cancelled before it began, and loses arrays only as a whole.
            self.doom = NodeState.ERROR, CANCELLED, False
        elif self.missing is not None and found.claimed and now - max(self.missing, self._beat_seen) >= self._timeout:
            self.doom = NodeState.ERROR, "Slurm does not know it any more, and it left no record", True

    # -- its end

    def _doom_by_word(self, row: QueueRow, found: Look) -> None:
        word = self._word(row)
        reason = word.reason
        if word.lost and found.said:
            reason += f"; it said: {found.said}"
        elif row.state == "FAILED" and not found.claimed:
            reason += "; it never began: is the spool there, under the same path as on the server?"
        self.seen.elapsed, self.seen.out_of_memory = row.elapsed, word.out_of_memory
        self.doom = word.state, reason, word.lost

    def _word(self, row: QueueRow) -> Ending:
        placement = self.spec.placement
        return ending(row, placement.memory, format_duration(placement.time) if placement.time else "")

    def end(self, state: NodeState, reason: str, lost: bool = False) -> None:
        """Without a record. Whoever wanted it to end had the last word."""
        if self.ended:
            return
        if self.kill is not None:
            state, reason, lost = *self.kill, False
        self.seen.state, self.seen.reason, self.seen.lost, self.seen.waiting = state, reason, lost, ""
