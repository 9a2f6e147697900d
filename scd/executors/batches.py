"""What is done about batch jobs as the account that has them: scd's own, or, by way of scd-launcher, that of a user.

All of it blocks. Of a launcher LauncherDown may come: it is asked again. Again is no harm, and of what became of sbatch
there always is an answer, if only that nobody knows.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from .. import slurm_cli as cli
from ..config import Slurm
from ..launcher import claims, sbatch
from ..launcher.base import TooLarge, Unanswered, Work
from ..launcher.gateway import Gateway
from ..launcher.requests import MOST_BATCHES, Cancel, GiveUp, MakePlaces, Member, Probe, Submit
from ..launcher.spec import PROBE, PROBE_COMMENT, BatchScripts
from ..model import attempt_number
from ..placement import Placement
from ..slurm_calls import Command, call, calls
from ..slurm_cli import Answer
from ..spool import JobDirectory, Spool
from ..states import NodeState
from .base import Spec

_MOST_REASON = 1000


class Made(NamedTuple):
    """An attempt's directory: whether it is new, and the uid that its batch job has in Slurm."""

    new: bool
    owner: int


class Batches(Protocol):
    looks: int  # requests to Slurm that a cancel takes beside its own

    def make(self, specs: Sequence[Spec]) -> list[Made]:
        """Make the directories of attempts of one job. Raises OSError, and ShimFailed if that will never be."""

    def submit(self, parcels: Sequence[Sequence[Spec]], at_once: int) -> list[Answer]:
        """What sbatch answers for each, MOST_SUBMISSIONS at most, which differ in nothing but their nodes.

        It is called for so many at once. Fewer answers if it did not come to the last. Several in one parcel are
        elements of an array, which goes alone. Raises ShimFailed if sbatch is never asked.
        """

    def give_up(self, job_hash: str, names: Sequence[str], state: NodeState, reason: str) -> list[bool]:
        """End attempts of a job; for each whether it never ran, and now never will. Raises OSError, ShimFailed."""

    def cancel(self, user: str, ids: Sequence[str], *, pending: bool = False, gently: bool = False) -> None:
        """Tell Slurm to end a user's. Its answer does not matter: whether a job ended is seen in the queue."""

    def probe(self, user: str, staged: JobDirectory, placement: Placement) -> Answer:
        """What sbatch answers for a batch job that tries the first runtime. Raises OSError, ShimFailed."""


def place(spool: Spool, name: str) -> Path:
    """The directory of an attempt."""
    job_hash = name.removeprefix("scd-").partition("-")[0]
    return spool.job(job_hash).control / claims.SLURM / attempt_number(name)


class OwnBatches:
    """All of them are scd's own account's."""

    looks = 0

    def __init__(self, config: Slurm, spool: Spool, scripts: BatchScripts):
        self._env = cli.environment(config.conf)
        self._spool = spool
        self._scripts = scripts

    def make(self, specs: Sequence[Spec]) -> list[Made]:
        return [Made(claims.make(place(self._spool, spec.name)), os.geteuid()) for spec in specs]

    def submit(self, parcels: Sequence[Sequence[Spec]], at_once: int) -> list[Answer]:
        return calls(map(self._command, parcels), self._env, cli.SUBMIT_DEADLINE, at_once)

    def _command(self, specs: Sequence[Spec]) -> Command:
        spec = specs[0]
        directory = self._spool.job(spec.job_hash)
        work = Work(directory, spec.job_hash, spec.design, spec.jobname, spec.runtime, spec.user)
        if spec.array:
            return sbatch.array(self._scripts, work, spec.placement, spec.array, specs)
        return sbatch.alone(self._scripts, work, spec.placement, spec)

    def give_up(self, job_hash: str, names: Sequence[str], state: NodeState, reason: str) -> list[bool]:  # noqa: ARG002
        return [claims.give_up(place(self._spool, name), state, reason) for name in names]

    def cancel(self, user: str, ids: Sequence[str], *, pending: bool = False, gently: bool = False) -> None:  # noqa: ARG002
        for part in _parts(ids):
            call(cli.scancel(part, pending=pending, gently=gently), self._env, cli.QUERY_DEADLINE)

    def probe(self, user: str, staged: JobDirectory, placement: Placement) -> Answer:  # noqa: ARG002
        name, there = cli.probe_name(staged.path.name), staged.control / claims.SLURM / PROBE
        claims.make(there)
        script = self._scripts.probe(Work(staged, "", "", "", "", ""))
        argv = cli.sbatch(name, PROBE_COMMENT, str(there), placement)
        return call(argv, self._env, cli.SUBMIT_DEADLINE, script)


class AccountBatches:
    """Each is its user's account's, and scd-launcher acts as that."""

    looks = 2

    def __init__(self, gateway: Gateway, spool: Spool):
        self._gateway = gateway
        self._spool = spool

    def make(self, specs: Sequence[Spec]) -> list[Made]:
        first = specs[0]
        if first.key is None:
            self._gateway.adopt(first.job_hash, first.user)
        account, control = self._gateway.account_of(first.user), self._spool.job(first.job_hash).control
        new: list[bool] = []
        for part in _parts([attempt_number(spec.name) for spec in specs]):
            found = self._gateway.ask(MakePlaces(first.job_hash, account, tuple(part)))
            new += msgspec.convert(found, list[bool])
        owner = control.lstat().st_uid
        return [Made(one, owner) for one in new]

    def submit(self, parcels: Sequence[Sequence[Spec]], at_once: int) -> list[Answer]:
        specs = [spec for parcel in parcels for spec in parcel]
        first = specs[0]
        request = Submit(
            job_hash=first.job_hash, account=self._gateway.account_of(first.user),
            members=tuple(self._member(spec) for spec in specs), design=first.design, jobname=first.jobname,
            runtime=first.runtime, user=first.user, placement=first.placement, generation=first.generation,
            unpack=first.unpack, rebuilt=first.rebuilt, ancestors=first.ancestors,
            array=attempt_number(cli.first_of(first.array)), at_once=at_once,
        )  # fmt: skip
        try:
            return msgspec.convert(self._gateway.ask(request), list[Answer])
        except TooLarge:
            if len(parcels) == 1:
                raise
        except Unanswered as error:  # as of an sbatch that was killed
            return [Answer(None, "", error.message)] * len(parcels)
        return self.submit(parcels[: len(parcels) // 2], at_once)  # the rest with another

    def _member(self, spec: Spec) -> Member:
        step, index = (spec.key.step, spec.key.index) if spec.key else ("", "")
        return Member(attempt_number(spec.name), step, index, spec.element)

    def give_up(self, job_hash: str, names: Sequence[str], state: NodeState, reason: str) -> list[bool]:
        found: list[bool] = []
        # The launcher takes no more, and a reason may hold what a tool, or a person, said.
        reason = reason.replace("\0", " ")[:_MOST_REASON]
        for part in _parts(names):
            attempts = tuple(map(attempt_number, part))
            found += msgspec.convert(self._gateway.ask(GiveUp(job_hash, attempts, state, reason)), list[bool])
        return found

    def cancel(self, user: str, ids: Sequence[str], *, pending: bool = False, gently: bool = False) -> None:
        for part in _parts(ids):
            self._gateway.ask(Cancel(self._gateway.account_of(user), tuple(part), pending=pending, gently=gently))

    def probe(self, user: str, staged: JobDirectory, placement: Placement) -> Answer:  # noqa: ARG002 - it has its own
        request = Probe(self._gateway.account_of(user), staged.path.name)
        return msgspec.convert(self._gateway.ask(request), Answer)


def _parts(words: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(words), MOST_BATCHES):
        yield words[start : start + MOST_BATCHES]
