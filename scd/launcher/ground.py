"""What ``scd-launcher`` stands on when it carries out a request."""

import time
from pathlib import Path
from typing import NamedTuple

from ..config import Config
from ..placement import Misplaced, Placement, vouch
from . import frame
from .accounts import Account, Refused, become, find, owner
from .cgroup import Cgroups

_OVERLAP = 30.0  # seconds after a reload in which scd may submit what it has placed by the former configuration


class Ground(NamedTuple):
    """The launcher's configuration, the file that it is from, scd's account, root's directory, the cgroups of jobs."""

    config: Config
    file: Path
    scd: Account
    place: Path
    cgroups: Cgroups | None = None
    limits: str = ""  # on the cgroups, in words
    former: Config | None = None  # which the configuration has replaced
    changed: float = 0.0  # when, on the monotonic clock

    @property
    def spool(self) -> Path:
        return Path(self.config.paths.spool)

    def account(self, name: str) -> Account:
        return find(name, self.config, self.scd)

    def vouch(self, placement: Placement, account: str) -> None:
        """Raises Refused for what the configuration gives no job of an account."""
        try:
            vouch(self.config, placement, account)
        except Misplaced as refusal:
            if not self._was_given(placement, account):
                raise Refused(f"{refusal} That is by the configuration that scd-launcher has read") from None

    def _was_given(self, placement: Placement, account: str) -> bool:
        """Whether the former configuration gave it, and just now."""
        if self.former is None or time.monotonic() > self.changed + _OVERLAP:
            return False
        try:
            vouch(self.former, placement, account)
        except Misplaced:
            return False
        return True

    def check_owner(self, fd: int, job: str, account: Account) -> None:
        """Raises Refused for a frame whose directories are not the account's."""
        for name in frame.OWN:
            if frame.owner_of(fd, name) != account.uid:
                raise Refused(f"{name} of job {job} is not {account.name}'s")

    def become_owner(self, fd: int) -> bool:
        """Become the account whose job a frame holds; whether there is one."""
        uids = (frame.owner_of(fd, name) for name in frame.OWN)
        uid = next((uid for uid in uids if uid not in (None, self.scd.uid)), None)
        if uid is None:
            return False
        become(owner(uid, self.scd))
        return True
