"""The launcher of a gateway, as the daemon sees it: a service that is root, asked over a Unix socket.

One connection a request. No answer is no answer: the launcher may be restarting, and what it was asked is asked again.
"""

import asyncio
import logging
import os
import socket
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .. import __version__
from ..archive import remove_tree
from ..config import ACCOUNT, Config, Settings, fingerprint
from ..errors import ConfigError
from ..model import ResourceUsage
from ..procfs import ProcessId, alive, boot_id
from ..spool import JobDirectory, job_usage
from .base import LauncherDown, ShimFailed, TooLarge, Unanswered, Work
from .requests import (
    BUFFER,
    MOST_BYTES,
    MOST_PIDS,
    Adopt,
    Agree,
    Alive,
    Check,
    Empty,
    Ready,
    Request,
    Size,
    Start,
    Usage,
    Version,
    Wipe,
    encode,
    read,
)  # fmt: skip
from .wipe import wipe

# An account's first job waits for its runtimes to be tried; a large tree takes its time to be removed.
_PATIENCE = 600.0
START_PATIENCE = 10.0  # for a launcher that starts together with scd
_RELOAD_PATIENCE = 5.0  # for one that reads a changed configuration at the same time as scd
_RETRY = 0.2
_TELL_IT = "Tell both: systemctl reload scd (or send scd-launcher a SIGHUP, then scd)"
_GREETING = 1.0  # for a look at whether it is there

log = logging.getLogger(__name__)


class Gateway:
    def __init__(self, settings: Settings, patience: float = START_PATIENCE):
        """``patience`` in seconds with a launcher that does not answer the first time."""
        self._settings = settings
        self._patience = patience

    def check(self) -> None:
        """Raises ConfigError if the launcher is not there, or takes not every account that is configured."""
        deadline = time.monotonic() + self._patience
        config = self._settings.config
        self._until(
            Version(), __version__, deadline, f"scd-launcher is another version than scd, which is {__version__}: one "
            "still runs from before an upgrade. Restart both: systemctl restart scd-launcher scd",
        )  # fmt: skip
        log.info("scd-launcher: %s", self._insist(Ready(config.slurm is not None), deadline))
        for account in sorted(config.accounts):
            self._insist(Check(account), deadline)
        if not self._insist(Agree(fingerprint(config)), deadline):
            log.warning("scd-launcher has not read the configuration that scd has: %s", _TELL_IT)

    def check_new(self, config: Config) -> None:
        """Before scd takes a changed configuration. Raises ConfigError if the launcher does not have it, or refuses it.

        Only what they must agree on matters: other changes need no launcher.
        """
        wanted, old = fingerprint(config), self._settings.config
        if wanted == fingerprint(old):
            return
        deadline = time.monotonic() + _RELOAD_PATIENCE
        self._until(
            Agree(wanted), True, deadline, "scd-launcher has not taken this configuration; if it was told, its log "
            f"says why. {_TELL_IT}",
        )  # fmt: skip
        for account in sorted(config.accounts - old.accounts):
            self._insist(Check(account), deadline)

    def _until(self, request: Request, wanted: object, deadline: float, wrong: str) -> None:
        """Ask one that may be about to be restarted, or to read its configuration. Raises ConfigError."""
        while self._insist(request, deadline) != wanted:
            if time.monotonic() > deadline:
                raise ConfigError(wrong)
            time.sleep(_RETRY)

    def _insist(self, request: Request, deadline: float) -> Any:
        """Ask a launcher that may be about to start. Raises ConfigError."""
        while True:
            try:
                return self.ask(request)
            except ShimFailed as refusal:
                raise ConfigError(f"scd-launcher: {refusal.message}") from None
            except LauncherDown as error:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"jobs have accounts of their own, and scd-launcher cannot be asked ({error.message}). "
                        "Start it: systemctl enable --now scd-launcher (or run scd-launcher as root), with "
                        "this configuration; [local] launcher names its socket. It answers only scd's account"
                    ) from None
                time.sleep(_RETRY)

    def trouble(self) -> str:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
                channel.settimeout(_GREETING)
                channel.connect(self._settings.config.local.launcher)
        except OSError:
            return "scd-launcher does not answer"
        return ""

    def adopt(self, job_hash: str, user: str) -> None:
        self.ask(Adopt(job_hash, self.account_of(user)))

    async def start(self, work: Work) -> None:
        request = Start(work.job_hash, self.account_of(work.user), work.design, work.jobname, work.runtime)
        await asyncio.to_thread(self.ask, request)

    def is_alive(self, process: ProcessId, user: str) -> bool:
        """Nothing lives on from another boot. Who has no account any more cannot be asked about, but seen perhaps."""
        if process.boot != boot_id():
            return False
        try:
            return self.ask(Alive(self.account_of(user), *process)) is True
        except ShimFailed:
            return alive(process)

    def sample(self, pids: Mapping[str, tuple[str, int]]) -> dict[str, ResourceUsage]:
        found: dict[str, ResourceUsage] = {}
        by_user: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for name, (user, pid) in pids.items():
            by_user[user].append((name, pid))
        for user, processes in by_user.items():
            for start in range(0, len(processes), MOST_PIDS):
                batch = processes[start : start + MOST_PIDS]
                try:
                    answer = self.ask(Usage(self.account_of(user), tuple(pid for _, pid in batch)))
                    figures = msgspec.convert(answer, list[ResourceUsage | None])
                except (LauncherDown, ShimFailed, msgspec.ValidationError):  # there is another sample in a second
                    continue
                found |= {name: usage for (name, _), usage in zip(batch, figures, strict=False) if usage is not None}
        return found

    def remove(self, directory: Path) -> None:
        """First what the account has in it, by its own hand; then the frame, which is scd's."""
        if _has_foreign(directory):
            self._ask_for_files(Empty(directory.name))
        for child in directory.iterdir():
            try:
                child.rmdir()
            except OSError:
                if child.is_dir():
                    remove_tree(child)
                else:
                    child.unlink()
        directory.rmdir()

    def tidy(self) -> None:
        """The launcher does that by itself."""

    def wipe(self, directory: JobDirectory) -> None:
        """By the account's own hand; a job that never began has none yet."""
        if _has_foreign(directory.path):
            self._ask_for_files(Wipe(directory.path.name))
        else:
            wipe(directory)

    def size(self, directory: Path) -> int:
        own = job_usage(directory)  # of what scd cannot look into it counts nothing
        return own + int(self._ask_for_files(Size(directory.name))) if _has_foreign(directory) else own

    def account_of(self, user: str) -> str:
        """Raises ShimFailed."""
        account = self._settings.config.account_of(user)
        if not account:
            raise ShimFailed(f"The user {user!r} is not in the configuration any more, and has no account.")
        if not ACCOUNT.fullmatch(account):  # one of the site's directory may be called anything
            raise ShimFailed(f"The user {user!r} has no account: that is not the name of a Unix account.")
        return account

    def _ask_for_files(self, request: Request) -> Any:
        """Raises OSError: to those who ask, the launcher is a disk that is slow or failing."""
        try:
            return self.ask(request)
        except (LauncherDown, ShimFailed) as error:
            raise OSError(error.message) from None

    def ask(self, request: Request) -> Any:
        """Raises LauncherDown, Unanswered among it, and ShimFailed for what it refuses."""
        place = self._settings.config.local.launcher
        message, sent = encode(request), False
        if len(message) > MOST_BYTES:
            raise TooLarge("It is more than scd-launcher takes: too many nodes come before this one.")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
                channel.settimeout(_PATIENCE)
                channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
                channel.connect(place)
                channel.sendall(message)
                sent = True
                data = channel.recv(MOST_BYTES)
            if not data:
                raise Unanswered("scd-launcher hung up")
            reply = read(data)
        except (OSError, msgspec.DecodeError) as error:
            raise (Unanswered if sent else LauncherDown)(f"{place}: {error}") from None
        if reply.error:
            raise ShimFailed(reply.error)
        return reply.value


def _has_foreign(directory: Path) -> bool:
    """Whether an account has anything in a job's directory."""
    job = JobDirectory(directory)
    for path in (job.work, job.temporary, job.control, job.archives):
        try:
            if path.lstat().st_uid != os.geteuid():
                return True
        except FileNotFoundError:
            continue
    return False
