"""The closed set of requests that ``scd-launcher`` takes, one JSON object each. What does not fit exactly is refused.

A reply is ``{"value": ...}``, or ``{"error": text}``: it will not be done, and saying it again does not help.
"""

import re
from typing import Any, TypeVar

import msgspec

from ..config import ACCOUNT
from ..model import NodeKey, attempt_name
from ..placement import Placement
from ..states import NodeState

MOST_BYTES = 2**18  # of a message, which a socket must be told to hold: BUFFER
BUFFER = 2 * MOST_BYTES
MOST_PIDS = 256
MOST_BATCHES = 500  # attempts, or ids of Slurm's, in one request
_ATTEMPT = re.compile(r"(0|[1-9][0-9]{0,8})\.[1-9][0-9]{0,8}")
_ID = re.compile(r"[0-9]{1,18}")
_MOST_GENERATION = 10**9
_HASH = re.compile(r"[0-9a-f]{32}")
_STAGED = re.compile(r"[0-9a-f]{16}")
_PATTERNS = {"job_hash": _HASH, "staged": _STAGED, "account": ACCOUNT, "attempt": _ATTEMPT}
_MAX_TEXT = 4096

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="request"):
    def __post_init__(self) -> None:
        """Raises ValueError, of which msgspec makes a ValidationError."""
        for name, value in msgspec.structs.asdict(self).items():
            pattern = _PATTERNS.get(name)
            if pattern is not None and not pattern.fullmatch(value):
                raise ValueError(f"{name} is malformed")
            if isinstance(value, str) and (len(value) > _MAX_TEXT or "\0" in value):
                raise ValueError(f"{name} is too long or holds a NUL")


class Ready(Request, frozen=True, tag="ready"):
    """Whether jobs can run, batch jobs too with ``slurm``: a sentence on what limits they have."""

    slurm: bool = False


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


class MakePlace(Request, frozen=True, tag="make_place"):
    """Make the directory of a batch attempt of a job that was adopted: whether it is new."""

    job_hash: str
    account: str
    attempt: str  # <n>.<attempt>


class Submit(Request, frozen=True, tag="submit"):
    """Submit a batch attempt, whose directory was made, as the account: what sbatch answered, a slurm_cli.Answer.

    It is a preparation without a ``step``. Its name, its paths and its script are the launcher's to say.
    """

    job_hash: str
    account: str
    attempt: str
    design: str
    jobname: str
    runtime: str
    user: str
    placement: Placement
    generation: int = 0
    unpack: bool = False
    rebuilt: bool = False
    step: str = ""
    index: str = ""
    ancestors: tuple[tuple[str, str, str], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.generation <= _MOST_GENERATION:
            raise ValueError("generation is out of range")

    @property
    def name(self) -> str:
        n, _, attempt = self.attempt.partition(".")
        return attempt_name(self.job_hash, int(n), int(attempt))

    @property
    def archive(self) -> str:
        return f"{self.attempt}.tar.gz"

    @property
    def key(self) -> NodeKey | None:
        return NodeKey(self.step, self.index) if self.step else None


class GiveUp(Request, frozen=True, tag="give_up"):
    """End batch attempts of a job, as the account that has it: for each whether it never ran, and now never will."""

    job_hash: str
    attempts: tuple[str, ...]
    state: NodeState
    reason: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _all_fit("attempts", self.attempts, _ATTEMPT)


class Cancel(Request, frozen=True, tag="cancel"):
    """Tell Slurm to end batch jobs of scd's that are the account's: None. How, is scancel's to say: slurm_cli."""

    account: str
    ids: tuple[str, ...]
    pending: bool = False
    gently: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _all_fit("ids", self.ids, _ID)


class Probe(Request, frozen=True, tag="probe"):
    """Submit a batch job that tries the first runtime, in a directory that was staged for it: as Submit."""

    account: str
    staged: str


BatchRequest = MakePlace | Submit | GiveUp | Cancel | Probe
AnyRequest = Ready | Check | Adopt | Start | Empty | Wipe | Size | Alive | Usage | BatchRequest


def _all_fit(name: str, values: tuple[str, ...], pattern: re.Pattern[str]) -> None:
    if len(values) > MOST_BATCHES or not all(map(pattern.fullmatch, values)):
        raise ValueError(f"{name} are too many or malformed")


# Made once: scd-launcher decodes in a fresh child each time.
_DECODER: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)


def decode(message: bytes) -> AnyRequest:
    """Raises msgspec.DecodeError, ValidationError included."""
    return _DECODER.decode(message)


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    value: Any = None
    error: str = ""


def encode(message: Request | Reply) -> bytes:
    return msgspec.json.encode(message)


def read(reply: bytes) -> Reply:
    """Raises msgspec.DecodeError."""
    return msgspec.json.decode(reply, type=Reply)
