"""The closed set of requests that ``scd-launcher`` takes, one JSON object each. What does not fit exactly is refused.

A reply is ``{"value": ...}``, or ``{"error": text}``: it will not be done, and saying it again does not help.
"""

import re
from typing import Any, TypeVar

import msgspec

from ..config import ACCOUNT

MOST_BYTES = 2**16  # of a message
MOST_PIDS = 256
_HASH = re.compile(r"[0-9a-f]{32}")
_STAGED = re.compile(r"[0-9a-f]{16}")
_MAX_TEXT = 4096

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="request"):
    def __post_init__(self) -> None:
        """Raises ValueError, of which msgspec makes a ValidationError."""
        for name, value in msgspec.structs.asdict(self).items():
            pattern = {"job_hash": _HASH, "staged": _STAGED, "account": ACCOUNT}.get(name)
            if pattern is not None and not pattern.fullmatch(value):
                raise ValueError(f"{name} is malformed")
            if isinstance(value, str) and (len(value) > _MAX_TEXT or "\0" in value):
                raise ValueError(f"{name} is too long or holds a NUL")


class Limits(Request, frozen=True, tag="limits"):
    """What limits jobs have: a sentence."""


class Check(Request, frozen=True, tag="check"):
    """Whether jobs can run under an account: true."""

    account: str


class Adopt(Request, frozen=True, tag="adopt"):
    """Give an account what it needs of a job's directory: None."""

    job_hash: str
    account: str


class Start(Request, frozen=True, tag="start"):
    """Start the shim of a job that was adopted: None, once it takes orders."""

    job_hash: str
    account: str
    design: str
    jobname: str
    runtime: str


class Empty(Request, frozen=True, tag="empty"):
    """Remove what an account has in a job's directory that was moved to ``staging/<staged>``: None."""

    staged: str


class Wipe(Request, frozen=True, tag="wipe"):
    """Remove the tree of a job that has ended, and its own words from ``control``: None."""

    job_hash: str


class Size(Request, frozen=True, tag="size"):
    """Bytes on the disk of what an account has in a job's directory."""

    job_hash: str


class Alive(Request, frozen=True, tag="alive"):
    """Whether a process of the account runs: a bool."""

    account: str
    pid: int
    ticks: int
    boot: str


class Usage(Request, frozen=True, tag="usage"):
    """Figures of process trees of the account: a ResourceUsage or null for each pid."""

    account: str
    pids: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.pids) > MOST_PIDS:
            raise ValueError("too many pids")


AnyRequest = Limits | Check | Adopt | Start | Empty | Wipe | Size | Alive | Usage


def decode(message: bytes) -> AnyRequest:
    """Raises msgspec.DecodeError, ValidationError included."""
    decoded: AnyRequest = msgspec.json.decode(message, type=AnyRequest)
    return decoded


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    value: Any = None
    error: str = ""


def encode(message: Request | Reply) -> bytes:
    return msgspec.json.encode(message)


def read(reply: bytes) -> Reply:
    """Raises msgspec.DecodeError."""
    return msgspec.json.decode(reply, type=Reply)
