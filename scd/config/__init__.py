"""The configuration: TOML files to frozen values."""

from .addresses import is_loopback, split_address
from .reading import DEFAULT_FILE, files_of, load
from .render import render
from .rules.users import ACCOUNT
from .sections import (
    Auth,
    Budget,
    Config,
    Duration,
    Group,
    Ldap,
    License,
    Limits,
    Local,
    Pam,
    Paths,
    Route,
    Runtime,
    Server,
    SharedLimits,
    Size,
    Slurm,
    User,
)
from .settings import Settings, fingerprint, read_again

__all__ = [
    "ACCOUNT", "DEFAULT_FILE", "Auth", "Budget", "Config", "Duration", "Group", "Ldap", "License", "Limits", "Local",
    "Pam", "Paths", "Route", "Runtime", "Server", "Settings", "SharedLimits", "Size", "Slurm", "User", "files_of",
    "fingerprint", "is_loopback", "load", "read_again", "render", "split_address",
]  # fmt: skip
