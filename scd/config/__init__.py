"""The configuration: TOML files to frozen values."""

from .reading import DEFAULT_FILE, load
from .render import render
from .sections import (
    Auth,
    Config,
    Duration,
    Limits,
    Local,
    Paths,
    Runtime,
    Server,
    Size,
    User,
    is_loopback,
    split_address,
)

__all__ = [
    "DEFAULT_FILE", "Auth", "Config", "Duration", "Limits", "Local", "Paths", "Runtime", "Server", "Size", "User",
    "is_loopback", "load", "render", "split_address",
]  # fmt: skip
