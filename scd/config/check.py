"""Whether a configuration can be used: all rules in their order."""

from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from .rules import machine, server, slurm, users
from .sections import Config

Origin = Callable[[str], Path]  # the file that a key was read from

_RULES = (
    machine.paths,
    server.addresses,
    server.proxies,
    server.tls,
    server.values,
    server.at_least_one,
    users.users,
    users.directory,
    machine.numbers,
    machine.isolation,
    users.account_names,
    users.own_accounts,
    users.accounts,
    slurm.slurm,
    slurm.licenses,
    machine.runtimes,
)


def check(config: Config, origin: Origin) -> None:
    """Raise ConfigError for the first thing that is wrong."""
    for rule in _RULES:
        for key, reason in rule(config):
            raise ConfigError(f"{origin(key)}: {key}: {reason}")
