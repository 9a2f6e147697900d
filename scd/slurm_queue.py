"""What Slurm's queue says of scd's jobs, by ``squeue``. Pure, but for ``ask_queue``."""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from .slurm_calls import call
from .slurm_cli import ARRAY, JOB_ID, NAME, QUERY_DEADLINE, Answer, element_name

_FIELDS = "%i|%U|%T|%S|%e|%N|%j|%r"  # the reason last: it may hold anything
_WAITING = re.compile(r"([0-9]{1,18})_\[([0-9,:-]+)(?:%[0-9]+)?\]")  # elements: 12_[1-5,8%2], 12_[0-12:4]
_SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?")

PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
ENDED = frozenset({
    "COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "CANCELLED", "BOOT_FAIL", "DEADLINE",
    "REVOKED",
})  # fmt: skip
_REFUSED_REASON = "BadConstraints"  # what a refused submission leaves behind


class QueueRow(msgspec.Struct, frozen=True):
    """One of our jobs as Slurm has it. Times are seconds since 1970."""

    id: str
    state: str
    started: float | None
    ended: float | None  # of a job that runs: when it must have
    nodes: str
    name: str
    reason: str
    user: int = -1  # whose it is: a number

    @property
    def array(self) -> str:
        """The array's id, of an element, and of what is left of an array when all of it ended; "" of other jobs."""
        base, _, element = self.id.partition("_")
        return base if element or self.name.endswith(ARRAY) else ""

    @property
    def pending(self) -> bool:
        return self.state in PENDING

    @property
    def has_ended(self) -> bool:
        """A state that is not known has not ended."""
        return self.state in ENDED

    @property
    def never_ran(self) -> bool:
        """Taken out of the queue. Slurm then says that it began when it ended, on no node."""
        return self.has_ended and not self.nodes

    @property
    def elapsed(self) -> float:
        if not self.has_ended or self.started is None or self.ended is None:
            return 0.0
        return max(0.0, self.ended - self.started)


def squeue() -> list[str]:
    """All jobs, those that ended lately too, and those in hidden partitions: the server sends all of them anyway."""
    return ["squeue", "--noheader", "--all", "--states=all"]


def queue(answer: Answer, mark: str) -> dict[str, list[QueueRow]] | None:
    """What squeue says, None if that is nothing. ``mark``: of its lines; others come from names of people's jobs."""
    if answer.code != 0:
        return None
    return rows(line.split("|", 8)[1:] for line in answer.out.splitlines() if line.startswith(f"{mark}|"))


def ask_queue(env: Mapping[str, str]) -> tuple[dict[str, list[QueueRow]] | None, str]:
    """What squeue says, and its complaint. Blocks."""
    mark = secrets.token_hex(8)  # in the environment nobody else sees it
    answer = call(squeue(), {**env, "SQUEUE_FORMAT": f"{mark}|{_FIELDS}"}, QUERY_DEADLINE)
    return queue(answer, mark), answer.words


def rows(jobs: Iterable[Sequence[str]]) -> dict[str, list[QueueRow]]:
    """Jobs with a name of scd's. Anybody may have called his so: see ``user``.

    Each element of an array has a name of its own; under the array's there is something of each array of that name.
    """
    found: dict[str, list[QueueRow]] = {}
    for fields in jobs:
        if len(fields) != 8 or not fields[1].isdigit() or not NAME.fullmatch(fields[6]):
            continue
        which, user, state, started, ended, nodes, name, reason = fields
        if state == "FAILED" and reason == _REFUSED_REASON:
            continue
        for job in _each(which):
            row = QueueRow(job, state, _time(started), _time(ended), nodes, name, reason, int(user))
            _, _, element = job.partition("_")
            if not name.endswith(ARRAY) or row.array not in {other.array for other in found.get(name, ())}:
                found.setdefault(name, []).append(row)
            if element and name.endswith(ARRAY):
                found.setdefault(element_name(name, int(element)), []).append(row)
    return found


def _each(job: str) -> list[str]:
    """The elements of an array that wait are one job still. squeue's own ``--array`` leaves some out (22.05)."""
    if JOB_ID.fullmatch(job):
        return [job]
    if not (found := _WAITING.fullmatch(job)):
        return []
    numbers: list[int] = []
    for part in found[2].split(","):
        if not (span := _SPAN.fullmatch(part)):
            return []
        first, last, step = (int(text) if text else None for text in span.groups())
        assert first is not None
        numbers += range(first, (first if last is None else last) + 1, step or 1)
    return [f"{found[1]}_{number}" for number in numbers]


def best(rows: Iterable[QueueRow]) -> QueueRow | None:
    """Of several jobs of one name the one that may still do something: others find its claim and end at once."""
    return max(rows, key=lambda row: (not row.has_ended, not row.pending, int(row.id.partition("_")[0])), default=None)


def _time(text: str) -> float | None:
    return float(text) if text.isdigit() else None
