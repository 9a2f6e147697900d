"""Unix accounts: which of them jobs may have, and how a process becomes one, for good."""

import contextlib
import ctypes
import grp
import os
import pwd
from collections.abc import Collection, Iterator
from typing import NamedTuple

from ..config import Config, Local
from ..runtimes import PATH

_PR_SET_NO_NEW_PRIVS = 38
_NOBODY = _NOGROUP = 65534


class Refused(Exception):
    """What was asked for is not done. The text is for the daemon, and for the user."""


class Account(NamedTuple):
    """``name`` is empty for an owner of files that is looked up by nothing but his number."""

    name: str
    uid: int
    gid: int
    home: str = "/"


def find(name: str, config: Config, scd: Account) -> Account:
    """The account that a job may run under. Raises Refused."""
    named = name in config.accounts
    if not named and not config.local.own_accounts:
        raise Refused(
            f"no user has the account {name!r} in the configuration that scd-launcher has read. "
            "Reload scd-launcher if it was added since; its log says why if that is refused"
        )
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise Refused(f"there is no Unix account {name!r} (useradd {name})") from None
    groups = os.getgrouplist(name, found.pw_gid)
    if found.pw_uid == 0 or 0 in groups:
        raise Refused(f"the account {name!r} is root, or of its group: no job runs as that")
    if found.pw_uid == scd.uid or scd.gid in groups:
        raise Refused(f"the account {name!r} is scd's own, or of its group: it could read what all jobs made")
    if not named:
        _check_is_a_persons(name, found, groups, config.local)
    return Account(name, found.pw_uid, found.pw_gid, found.pw_dir)


def _check_is_a_persons(name: str, found: pwd.struct_passwd, groups: Collection[int], local: Local) -> None:
    """What an account must be that is nowhere named, but is a user's by its name. Raises Refused."""
    if found.pw_name != name:  # some directories know more than one spelling
        raise Refused(f"the account {name!r} is {found.pw_name!r} by its own name")
    if found.pw_uid < local.min_uid or found.pw_uid == _NOBODY:
        raise Refused(
            f"the account {name!r} has the uid {found.pw_uid}, which is no person's: [local] min_uid is "
            f"{local.min_uid}. Where it is meant, name it: account in [users.NAME]"
        )
    if local.account_groups and not any(gid_of(group) in groups for group in local.account_groups):
        raise Refused(
            f"the account {name!r} is in none of the groups whose members may run jobs: "
            f"{', '.join(local.account_groups)} ([local] account_groups)"
        )


def gid_of(group: str) -> int | None:
    """None if there is no such group."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def owner(uid: int, scd: Account) -> Account:
    """Whoever has a job's files, also if he is not in the configuration any more. Raises Refused."""
    if uid in (0, scd.uid):
        raise Refused("these files are not an account's")
    return Account("", uid, _NOGROUP)


def become(account: Account) -> None:
    """This process is the account's from now on, and can never be another's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if account.name:
        os.initgroups(account.name, account.gid)
    else:
        os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getresuid() != (account.uid,) * 3 or os.getresgid() != (account.gid,) * 3 or account.uid == 0:
        raise Refused("the account could not be taken on")
    os.environ.clear()
    os.environ.update(PATH=PATH, LANG="C.UTF-8", HOME=account.home)
    os.umask(0o077)


@contextlib.contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """For a while with this account's rights, and with no others; root can still be taken back."""
    os.setgroups([])
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
