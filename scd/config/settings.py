"""The configuration in force, and taking a new one while scd runs."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import ConfigError
from .check import check
from .reading import DEFAULT_FILE, load
from .sections import Budget, Config

# What can change at run time; "limits" is the whole section. All else is built into what was made at start.
_SHARED = (
    "local.account", "local.account_groups", "local.min_uid", "slurm.partition", "slurm.account", "slurm.queues",
    "slurm.allow_options", "slurm.cores", "slurm.max_cores", "slurm.memory", "slurm.max_memory", "slurm.memory_on_oom",
    "slurm.time", "slurm.max_time", "licenses",
)  # fmt: skip
_LIVE = (
    *_SHARED, "server.terms", "server.terms_file", "server.drain", "server.pre_upload", "server.progress_interval",
    "server.max_upload", "server.max_manifest", "paths.min_free", "auth", "dispatch.retries", "local.cores",
    "local.on_stop", "limits", "groups", "users",
)  # fmt: skip


class Reading(NamedTuple):
    """A configuration that was read and is good, and the keys whose new values wait for a restart."""

    config: Config
    terms: str
    waiting: tuple[str, ...]


class Settings:
    """Whoever needs a value that can change asks here each time, and keeps no copy."""

    def __init__(self, config: Config, file: Path | None = None):
        self.config = config
        self.terms = config.terms
        self._file = None if file is None else file.absolute()
        self._budgets: dict[str, tuple[Budget, ...]] = {}

    def read(self) -> Reading:
        """Nothing is changed yet. Blocks. Raises ConfigError."""
        config, waiting = read_again(self.config, self._file)
        try:
            return Reading(config, config.terms, waiting)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"server.terms_file: {error}") from None

    def take(self, reading: Reading) -> None:
        self.config, self.terms = reading.config, reading.terms
        self._budgets = {}

    def budgets_of(self, user: str) -> tuple[Budget, ...]:
        """As Config's, remembered: it is asked in each turn of the scheduler."""
        if user not in self._budgets:
            self._budgets[user] = self.config.budgets_of(user)
        return self._budgets[user]


def read_again(old: Config, file: Path | None) -> tuple[Config, tuple[str, ...]]:
    """What is in the files now, as far as it can take the place of ``old``, and the keys that wait for a restart.

    Blocks. Raises ConfigError.
    """
    new = load(file)
    config = _merged(old, new)
    # Once more with what stays: an address that listens is not closed by a file that names it no more.
    check(config, lambda _: file or DEFAULT_FILE)
    if config.has_accounts != old.has_accounts:
        raise ConfigError("users.*.account: whether jobs have Unix accounts is decided at start; restart scd")
    return config, tuple(_different(config, new))


def fingerprint(config: Config) -> str:
    """Of what scd and scd-launcher must agree on: whose jobs run as whom, and what they are given in Slurm."""
    sections = {section: getattr(config, section) for section in ("local", "slurm", "licenses")}
    shared = [
        getattr(sections[section], name) if name else sections[section]
        for section, _, name in (key.partition(".") for key in _SHARED)
        if sections[section] is not None
    ]
    accounts = sorted({(config.account_of(user), config.slurm_account_of(user)) for user in config.users})
    # float: of sizes and durations
    encoded = msgspec.json.encode([shared, accounts], enc_hook=float, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()


def _merged(old: Config, new: Config) -> Config:
    """``old`` with the values of ``new`` that can change."""
    for key in _LIVE:
        section, _, name = key.partition(".")
        mine, value = getattr(old, section), getattr(new, section)
        if mine is None or value is None:  # whether there is a [slurm] is decided at start
            continue
        if name:
            value = msgspec.structs.replace(mine, **{name: getattr(value, name)})
        old = msgspec.structs.replace(old, **{section: value})
    return old


def _different(one: Config, other: Config) -> Iterator[str]:
    for section in one.__struct_fields__:
        mine, its = getattr(one, section), getattr(other, section)
        if mine == its:
            continue
        if not (isinstance(mine, msgspec.Struct) and isinstance(its, msgspec.Struct)):
            yield section
            continue
        for key in mine.__struct_fields__:
            if getattr(mine, key) != getattr(its, key):
                yield f"{section}.{key}"
