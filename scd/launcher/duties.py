"""What ``scd-launcher`` does for each request, in a child of its own that is still root when it begins.

Nothing that the daemon says is believed: accounts, runtimes and paths come from the launcher's own configuration, and
whose a directory is, from the file system.
"""

import contextlib
import json
import os
import subprocess
from typing import Any

import psutil

from .. import __version__
from ..config import fingerprint
from ..procfs import ProcessId, alive
from ..spool import Spool
from . import accounting, batches, frame, trial
from .accounts import Account, Refused, become
from .base import START_DEADLINE, Work
from .cage import Cage
from .ground import Ground
from .requests import Adopt, Agree, Alive, AnyRequest, Check, Empty, Ready, Size, Start, Usage, Version, Wipe
from .sandbox import TEMPORARY
from .shim import SPEC
from .spec import SHIM, SHIM_ENVIRONMENT, shim_argv, shim_spec


def carry_out(ground: Ground, request: AnyRequest) -> Any:
    """The reply's value. Raises Refused, Gone and OSError. This process may be another account's afterwards."""
    match request:
        case Version() | Agree() | Ready():
            return _of_itself(ground, request)
        case Check():
            ground.account(request.account)
            return True
        case Adopt():
            frame.give(ground.spool, frame.steps_to(request.job_hash), ground.account(request.account), ground.scd)
        case Start():
            _start(ground, request, ground.account(request.account))
        case Empty():
            with frame.opened(ground.spool, ("staging", request.staged), ground.scd) as fd:
                if ground.become_owner(fd):
                    frame.empty(fd)
        case Wipe():
            with frame.opened(ground.spool, frame.steps_to(request.job_hash), ground.scd) as fd:
                if ground.become_owner(fd):
                    frame.wipe(fd)
        case Size():
            with frame.opened(ground.spool, frame.steps_to(request.job_hash), ground.scd) as fd:
                return frame.size(fd) if ground.become_owner(fd) else 0
        case Alive():
            become(ground.account(request.account))
            return alive(ProcessId(request.pid, request.ticks, request.boot))
        case Usage():
            account = ground.account(request.account)
            become(account)
            return _usage(request.pids, account)
        case _:
            return batches.carry_out(ground, request)
    return None


def _of_itself(ground: Ground, request: Version | Agree | Ready) -> str | bool:
    match request:
        case Version():
            return __version__
        case Agree():
            return request.fingerprint == fingerprint(ground.config)
        case Ready():
            if request.slurm:
                batches.check(ground)
            return ground.limits


def _start(ground: Ground, request: Start, account: Account) -> None:
    with frame.opened(ground.spool, frame.steps_to(request.job_hash), ground.scd) as fd:
        ground.check_owner(fd, request.job_hash, account)
        found = trial.known(account, ground.config, ground.file, ground.place)
        runtimes = found.runtimes(ground.config)
        chosen, _ = runtimes.get(request.runtime)
        directory = Spool(ground.spool).job(request.job_hash)
        work = Work(directory, request.job_hash, request.design, request.jobname, request.runtime, "")
        control, archives = (os.open(name, frame.STEP, dir_fd=fd) for name in (frame.CONTROL, frame.ARCHIVES))
        places = {str(directory.work): frame.identity(fd, frame.WORK), TEMPORARY: frame.identity(fd, frame.TMP)}
        cgroup = ground.cgroups.make(request.job_hash) if ground.cgroups is not None else None
        spec = shim_spec(
            ground.config, runtimes, found.sandboxes[chosen.name], work,
            daemon_uid=ground.scd.uid, cgroup=cgroup, places=places,
        )  # fmt: skip
        Cage(spec["cgroup"]).enter()  # the account could not
        become(account)
    for place in (control, archives):
        if os.fstat(place).st_uid != account.uid:
            raise Refused(f"the directory of job {request.job_hash} changed meanwhile")
    with open(_create(SPEC, os.O_TRUNC, control), "w") as file:
        json.dump(spec, file)
    with open(_create("shim.log", os.O_APPEND, control), "ab") as log:
        try:
            done = subprocess.run(
                [*shim_argv(work), str(control), str(archives)], pass_fds=(control, archives), cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=SHIM_ENVIRONMENT,
                start_new_session=True, timeout=START_DEADLINE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Refused(f"The shim of job {request.job_hash} did not start in {START_DEADLINE:.0f} s.") from None
    if not done.stdout.strip():
        raise Refused(f"The shim of job {request.job_hash} did not start; see {directory.control}/shim.log.")


def _create(name: str, flag: int, directory: int) -> int:
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flag, 0o600, dir_fd=directory)


def _usage(pids: tuple[int, ...], account: Account) -> list[dict[str, Any] | None]:
    """A journal may name any pid: figures are given of the account's jobs alone."""
    figures = accounting.sample({str(pid): pid for pid in pids if pid > 1 and _is_own(pid, account)})
    return [figures.get(str(pid)) for pid in pids]  # type: ignore[misc]


def _is_own(pid: int, account: Account) -> bool:
    """Whether it is the account's, and descends from one of its shims: what it runs besides is its own business."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.uids().real == account.uid:
            return any(_is_shim(ancestor, account) for ancestor in process.parents())
    return False


def _is_shim(process: psutil.Process, account: Account) -> bool:
    return process.uids().real == account.uid and process.cmdline()[: len(SHIM)] == SHIM
