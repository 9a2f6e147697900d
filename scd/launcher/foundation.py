"""What ``scd-launcher`` reads and checks before it obeys a configuration: at its start, and again when it is told to.

Of a changed configuration it takes what scd itself takes without a restart, and no more: so no reload changes what the
trials of runtimes were made with (``trial``). What is replaced is kept: scd may be behind, and ask by the old values.
"""

import os
import pwd
import stat
import sys
from pathlib import Path

import msgspec

from ..config import Config, files_of, load, read_again
from ..errors import ConfigError
from . import trial
from .accounts import Account, Refused, find, gid_of
from .cgroup import look
from .ground import Ground

_OTHERS_WRITE = 0o022
_MOST_FORMERS = 16


def make_ready(file: Path) -> Ground:
    """Read the configuration and check what it stands on. Raises ConfigError."""
    if os.geteuid() != 0:
        raise ConfigError("scd-launcher starts jobs under several accounts, which only root can")
    _check_files(file)
    config = load(file)
    if not config.has_accounts:
        raise ConfigError(f"{file}: no user has an account, so there is nothing to do: see local.account")
    scd = _find_scd(config, file)
    place = Path(config.local.launcher).parent
    try:
        if not place.is_dir():
            place.mkdir()
            place.chmod(0o755)
        _check_is_roots(place)
        trial.prepare(place)
    except OSError as error:
        raise ConfigError(f"{file}: local.launcher: {error}") from None
    _warn_of_accounts(config, scd)
    cgroups, limits = look(config.local.memory, config.local.processes)
    say(limits)
    return Ground(_without_hashes(config), file, scd, place, cgroups, limits)


def renew(ground: Ground) -> tuple[Ground, tuple[str, ...]]:
    """With what is in the files now, and the keys whose new values wait for a restart. Raises ConfigError."""
    _check_files(ground.file)
    config, waiting = read_again(ground.config, ground.file)
    _warn_of_accounts(config, ground.scd)
    config = _without_hashes(config)
    if config != ground.config:
        formers = (ground.config, *(former for former in ground.formers if former != config))
        ground = ground._replace(config=config, formers=formers[:_MOST_FORMERS])
    return ground, waiting


def say(text: str) -> None:
    """One line for the log."""
    print(f"scd-launcher: {' '.join(text.split())}", file=sys.stderr, flush=True)


def _check_files(file: Path) -> None:
    """Whoever writes the configuration says which accounts there are. Raises ConfigError."""
    try:
        for path in files_of(file):
            _check_is_roots(path)
            _check_is_roots(path.parent)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _check_is_roots(path: Path) -> None:
    status = path.stat()
    if status.st_uid != 0 or (status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX):
        raise ConfigError(f"{path} can be written by others than root, and scd-launcher would obey it")


def _find_scd(config: Config, file: Path) -> Account:
    name = config.server.user or "scd"
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"{file}: server.user: there is no account {name!r}") from None
    if found.pw_uid == 0:
        raise ConfigError(f"{file}: server.user: scd must not be root")
    return Account(name, found.pw_uid, found.pw_gid)


def _warn_of_accounts(config: Config, scd: Account) -> None:
    """Of accounts and groups that no job can have; the others' jobs run."""
    for account in sorted(config.accounts):
        try:
            find(account, config, scd)
        except Refused as refusal:
            say(str(refusal))
    for group in config.local.account_groups:
        if gid_of(group) is None:
            say(f"local.account_groups: there is no group {group!r}")


def _without_hashes(config: Config) -> Config:
    users = {name: msgspec.structs.replace(user, password_hash="") for name, user in config.users.items()}
    return msgspec.structs.replace(config, users=users)
