"""What ``scd-launcher`` stands on when it carries out a request."""

from pathlib import Path
from typing import NamedTuple

from ..config import Config
from ..placement import Misplaced, Placement, vouch
from . import frame
from .accounts import Account, Refused, become, find, owner
from .cgroup import Cgroups


class Ground(NamedTuple):
    """The launcher's configuration, the file that it is from, scd's account, root's directory, the cgroups of jobs."""

    config: Config
    file: Path
    scd: Account
    place: Path
    cgroups: Cgroups | None = None
    limits: str = ""  # on the cgroups, in words
    formers: tuple[Config, ...] = ()  # which the configuration has replaced since the start, the last one first

    @property
    def spool(self) -> Path:
        return Path(self.config.paths.spool)

    def account(self, name: str) -> Account:
        return find(name, self.config, self.scd)

    def vouch(self, placement: Placement, account: str) -> None:
        """Raises Refused for what no configuration since the start gives a job of an account.

        By any of them scd may have placed it: it waits with what it has placed for as long as Slurm is away or full.
        """
        refusals = []
        for config in (self.config, *self.formers):
            try:
                vouch(config, placement, account)
            except Misplaced as refusal:
                refusals.append(refusal)
            else:
                return
        raise Refused(f"{refusals[0]} That is by the configuration that scd-launcher has read")

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
