"""The configuration: TOML files to frozen values."""

from .check import ACCOUNT
from .reading import DEFAULT_FILE, files_of, load
from .render import render
from .sections import (
    Auth,
    Config,
    Duration,
    Ldap,
    Limits,
    Local,
    Pam,
    Paths,
    Runtime,
    Server,
    Size,
    User,
    is_loopback,
    split_address,
)

__all__ = [
    "ACCOUNT", "DEFAULT_FILE", "Auth", "Config", "Duration", "Ldap", "Limits", "Local", "Pam", "Paths", "Runtime",
    "Server", "Size", "User", "files_of", "is_loopback", "load", "render", "split_address",
]  # fmt: skip
