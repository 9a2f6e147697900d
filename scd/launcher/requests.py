"""The closed set of requests that ``scd-launcher`` takes, one JSON object each. What does not fit exactly is refused.

A reply is ``{"value": ...}``, or ``{"error": text}``: it will not be done, and saying it again does not help.
"""

import re
from typing import Any, TypeVar

import msgspec

from ..config import ACCOUNT
from ..model import NodeKey, attempt_name
from ..placement import Placement
from ..slurm_cli import JOB_ID
from ..states import NodeState

MOST_BYTES = 2**18  # of a message, which a socket must be told to hold: BUFFER
BUFFER = 2 * MOST_BYTES
MOST_PIDS = 256
MOST_BATCHES = 500  # attempts, or ids of Slurm's, in one request
MOST_SUBMISSIONS = 100  # by one request: sbatch is called that often
_ATTEMPT = re.compile(r"(0|[1-9][0-9]{0,8})\.[1-9][0-9]{0,8}")
_MOST_GENERATION = 10**9
_MOST_ELEMENT = 10**6
_HASH = re.compile(r"[0-9a-f]{32}")
_STAGED = re.compile(r"[0-9a-f]{16}")
_PATTERNS = {"job_hash": _HASH, "staged": _STAGED, "account": ACCOUNT}
_MAX_TEXT = 4096

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="request"):
    def __post_init__(self) -> None:
        """Raises ValueError, of which msgspec makes a ValidationError."""
        for name, value in msgspec.structs.asdict(self).items():
            pattern = _PATTERNS.get(name)
            if pattern is not None and not pattern.fullmatch(value):
                raise ValueError(f"{name} is malformed")
            if isinstance(value, str) and _is_odd(value):
                raise ValueError(f"{name} is too long or holds a NUL")


class Version(Request, frozen=True, tag="version"):
    """The launcher's version. Other requests are only sure to be understood by one of scd's own."""


class Agree(Request, frozen=True, tag="agree"):
    """Whether the launcher's configuration has this fingerprint: a bool."""

    fingerprint: str


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


class MakePlaces(Request, frozen=True, tag="make_places"):
    """Make the directories of batch attempts of a job that was adopted: for each whether it is new."""

    job_hash: str
    account: str
    attempts: tuple[str, ...]  # <n>.<attempt>

    def __post_init__(self) -> None:
        super().__post_init__()
        _all_fit("attempts", self.attempts, _ATTEMPT)


class Member(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An attempt among those of a Submit. A preparation has no ``step``, and is alone."""

    attempt: str
    step: str = ""
    index: str = ""
    element: int = 0  # its number in their array

    @property
    def key(self) -> NodeKey | None:
        return NodeKey(self.step, self.index) if self.step else None


class Submit(Request, frozen=True, tag="submit"):
    """Submit batch attempts, whose directories were made, as the account: what sbatch answered, slurm_cli.Answers.

    Fewer answers if it did not come to the last; or all as one job array, with one answer.
    Names, paths and scripts are the launcher's to say.
    """

    job_hash: str
    account: str
    members: tuple[Member, ...]
    design: str
    jobname: str
    runtime: str
    user: str
    placement: Placement
    generation: int = 0
    unpack: bool = False
    rebuilt: bool = False
    ancestors: tuple[tuple[str, str, str], ...] = ()
    array: str = ""  # the attempt that the array is called after
    at_once: int = 1  # sbatch; never more than the launcher's own configuration says

    def __post_init__(self) -> None:
        super().__post_init__()
        _all_fit("members", tuple(member.attempt for member in self.members), _ATTEMPT)
        if not 0 <= self.generation <= _MOST_GENERATION or self.at_once < 1:
            raise ValueError("generation or at_once is out of range")
        if self.array and not _ATTEMPT.fullmatch(self.array):
            raise ValueError("array is malformed")
        elements = {member.element for member in self.members}
        fits = (
            len(elements) == len(self.members) and all(0 < element <= _MOST_ELEMENT for element in elements)
            if self.array
            else len(self.members) <= MOST_SUBMISSIONS
        )  # fmt: skip
        if not self.members or not fits:
            raise ValueError("members are too many, or are not elements of one array")
        if len(self.members) > 1 and not all(member.step for member in self.members):
            raise ValueError("a preparation is alone")
        if any(_is_odd(text) for member in self.members for text in (member.step, member.index)):
            raise ValueError("a node's name is too long or holds a NUL")

    def name(self, attempt: str) -> str:
        n, _, number = attempt.partition(".")
        return attempt_name(self.job_hash, int(n), int(number))


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
        _all_fit("ids", self.ids, JOB_ID)


class Probe(Request, frozen=True, tag="probe"):
    """Submit a batch job that tries the first runtime, in a directory that was staged for it: an Answer."""

    account: str
    staged: str


BatchRequest = MakePlaces | Submit | GiveUp | Cancel | Probe
AnyRequest = Version | Agree | Ready | Check | Adopt | Start | Empty | Wipe | Size | Alive | Usage | BatchRequest


def _is_odd(text: str) -> bool:
    return len(text) > _MAX_TEXT or "\0" in text


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
