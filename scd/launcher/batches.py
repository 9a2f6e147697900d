"""What ``scd-launcher`` does about batch jobs in Slurm, each in a child that has become the job's account for good.

Slurm takes a job's owner from the process that submits it; ``sbatch --uid`` would leave it root's group. Everything
that sbatch is given is the launcher's own: names and paths follow from the job's hash and the attempt's number, and the
placement must be one that the launcher's configuration could have led to.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .. import slurm_cli as cli
from ..config import Slurm
from ..model import NodeKey
from ..placement import preparation
from ..slurm_calls import Command, call, calls
from ..slurm_cli import Answer
from ..slurm_queue import ask_queue
from ..spool import JobDirectory, Spool
from . import claims, frame, sbatch, trial
from .accounts import Account, Refused, become
from .base import Work
from .ground import Ground
from .requests import BatchRequest, Cancel, GiveUp, MakePlaces, Probe, Submit
from .spec import PROBE, PROBE_COMMENT, BatchScripts

# Files of a batch attempt are the account's, and scd's group reads them.
_UMASK = 0o027
MOST_OUT, MOST_ERR = 100, 300  # characters of what a command says: a hundred answers fit into one reply


def carry_out(ground: Ground, request: BatchRequest) -> Any:
    """The reply's value. Raises Refused and OSError. This process is another account's afterwards."""
    match request:
        case MakePlaces():
            return _make(ground, request)
        case Submit():
            return _submit(ground, request)
        case GiveUp():
            return _give_up(ground, request)
        case Cancel():
            return _cancel(ground, request)
        case Probe():
            return _probe(ground, request)


def check(ground: Ground) -> None:
    """Raises Refused if nothing can be submitted."""
    slurm = _slurm(ground)
    if shutil.which("sbatch", path=cli.environment(slurm.conf)["PATH"]) is None:
        raise Refused("sbatch is not installed where scd-launcher runs. Install Slurm's commands: docs/SLURM.md")


def _make(ground: Ground, request: MakePlaces) -> list[bool]:
    account = ground.account(request.account)
    with frame.opened(ground.spool, frame.steps_to(request.job_hash), ground.scd) as fd:
        ground.check_owner(fd, request.job_hash, account)
        become(account)
        os.umask(_UMASK)
        with _control(fd, request.job_hash):
            return [claims.make(Path(claims.SLURM) / attempt) for attempt in request.attempts]


class _Desk(NamedTuple):
    """What an account submits with."""

    scripts: BatchScripts
    inodes: dict[str, int]  # of control, archives and work
    env: dict[str, str]

    def submit(self, commands: Iterable[Command], at_once: int = 1) -> list[Answer]:
        answers = calls(commands, self.env, cli.SUBMIT_DEADLINE, at_once)
        return [Answer(answer.code, answer.out[:MOST_OUT], answer.err[-MOST_ERR:]) for answer in answers]


class _Attempt(NamedTuple):
    """As ``sbatch.Batched``."""

    name: str
    element: int
    archive: str
    key: NodeKey | None
    generation: int
    unpack: bool
    rebuilt: bool
    ancestors: tuple[tuple[str, str, str], ...]


def _submit(ground: Ground, request: Submit) -> list[Answer]:
    account, slurm = ground.account(request.account), _slurm(ground)
    ground.vouch(request.placement, account.name)
    desk = _take_on(ground, slurm, account, frame.steps_to(request.job_hash))
    directory = Spool(ground.spool).job(request.job_hash)
    work = Work(directory, request.job_hash, request.design, request.jobname, request.runtime, request.user)

    attempts = [
        _Attempt(
            request.name(member.attempt), member.element, f"{member.attempt}.tar.gz", member.key, request.generation,
            request.unpack, request.rebuilt, request.ancestors,
        )
        for member in request.members
    ]  # fmt: skip
    if request.array:
        name = cli.array_name(request.name(request.array))
        return desk.submit([sbatch.array(desk.scripts, work, request.placement, name, attempts, desk.inodes)])
    commands = (sbatch.alone(desk.scripts, work, request.placement, attempt, desk.inodes) for attempt in attempts)
    return desk.submit(commands, min(request.at_once, slurm.parallel))


def _probe(ground: Ground, request: Probe) -> Answer:
    account, slurm = ground.account(request.account), _slurm(ground)
    steps = ("staging", request.staged)
    frame.give(ground.spool, steps, account, ground.scd)
    directory = JobDirectory(ground.spool / "staging" / request.staged)
    argv = cli.sbatch(cli.probe_name(request.staged), PROBE_COMMENT, None, preparation(ground.config, "slurm", ""))
    desk = _take_on(ground, slurm, account, steps, fresh=PROBE)
    script = desk.scripts.probe(Work(directory, request.staged, "", "", "", ""), desk.inodes)
    return desk.submit([Command(argv, script)])[0]


def _take_on(ground: Ground, slurm: Slurm, account: Account, steps: tuple[str, ...], fresh: str = "") -> _Desk:
    """Become the account that submits. ``fresh``: an attempt whose directory is made first."""
    with frame.opened(ground.spool, steps, ground.scd) as fd:
        ground.check_owner(fd, steps[-1], account)
        found = trial.known(account, ground.config, ground.file, ground.place)
        env = _environment(slurm, account)
        become(account)
        os.umask(_UMASK)
        if fresh:
            with _control(fd, steps[-1]):
                claims.make(Path(claims.SLURM) / fresh)
        inodes = {}
        for name in (frame.CONTROL, frame.ARCHIVES, frame.WORK):
            if frame.owner_of(fd, name) != account.uid:
                raise Refused(f"{name} of job {steps[-1]} changed meanwhile")
            _, inodes[name] = frame.identity(fd, name)
    return _Desk(BatchScripts(ground.config, found.runtimes(ground.config), found.sandboxes), inodes, env)


def _give_up(ground: Ground, request: GiveUp) -> list[bool]:
    """As whoever has the job, also if he is not in the configuration any more."""
    with frame.opened(ground.spool, frame.steps_to(request.job_hash), ground.scd) as fd:
        if not ground.become_owner(fd):  # it never was given to one, so nothing of it was submitted
            return [True] * len(request.attempts)
        os.umask(_UMASK)
        with _control(fd, request.job_hash):
            slurm = Path(claims.SLURM)
            return [claims.give_up(slurm / name, request.state, request.reason) for name in request.attempts]


def _cancel(ground: Ground, request: Cancel) -> None:
    """Only what is scd's: an id may have come to be another job's of the account."""
    account, slurm = ground.account(request.account), _slurm(ground)
    env = _environment(slurm, account)
    become(account)
    queue, _ = ask_queue(env)
    own = {row.id for rows in (queue or {}).values() for row in rows if row.user == account.uid}
    if ids := sorted(own & set(request.ids)):
        call(cli.scancel(ids, pending=request.pending, gently=request.gently), env, cli.QUERY_DEADLINE)


@contextlib.contextmanager
def _control(fd: int, job: str) -> Iterator[None]:
    """Stand in a frame's ``control``, as its owner. Raises Refused."""
    with frame.inside(fd, frame.CONTROL) as there:
        if not there:
            raise Refused(f"control of job {job} is not there, or not its account's")
        yield


def _slurm(ground: Ground) -> Slurm:
    if ground.config.slurm is None:
        raise Refused("the configuration that scd-launcher has read has no [slurm]. Restart it if that was added since")
    return ground.config.slurm


def _environment(slurm: Slurm, account: Account) -> dict[str, str]:
    """All that a command of Slurm's gets. Before the launcher's own environment is gone."""
    return {**cli.environment(slurm.conf), "HOME": account.home}
