"""Slurm's commands: their arguments, and what their answers say. Pure: ``slurm_calls`` runs them.

The facts were measured on Slurm 22.05 and 24.11. Only what both have is used: no JSON, whose layout changes between
releases, and no accounting.
"""

import math
import os
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from .placement import Placement

SUBMIT_DEADLINE = 150.0  # sbatch itself tries for 120 s to get into a full queue
QUERY_DEADLINE = 30.0

ARRAY = "-array"  # how the name of a job array ends
NAME = re.compile(rf"scd-[0-9a-f]{{32}}-[0-9]{{1,9}}\.[0-9]{{1,9}}({ARRAY})?")
JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?")  # of an array's element: 12_7

_LICENSE = re.compile(r"^LicenseName=(\S+)", re.MULTILINE)
_RELEASE = re.compile(r"(?<![0-9.])([0-9]{1,4})\.([0-9]{1,4})(?![0-9])")
_UNTOLD = re.compile(r"[^A-Za-z0-9_./=@+-]+")
_MEGABYTE = 2**20
_MOST_WORDS = 300

# sbatch: what says that the request itself is at fault, and that it may go later.
_REFUSALS = (
    "invalid partition", "requested node configuration is not available", "invalid feature specification",
    "invalid account", "invalid qos", "group not permitted", "pathname of a file", "access denied",
    "more processors requested than permitted", "node count specification invalid", "invalid generic resource",
    "requested time limit is invalid", "memory required by task is not available", "invalid job credential",
    "invalid constraint", "job violates accounting/qos policy", "user's group not permitted", "invalid license",
    "partition is in an inactive state", "requested partition configuration not available", "invalid reservation",
    "invalid job array specification",
)  # fmt: skip
_LATER = ("resource temporarily unavailable", "assocmaxsubmitjoblimit", "qosmaxsubmitjobperuserlimit",
          "slurm temporarily unable to accept job", "assocgrpsubmitjobslimit", "qosgrpsubmitjobslimit")  # fmt: skip


class Answer(NamedTuple):
    """What a command said. ``code`` is None for one that did not come back in time, and was ended."""

    code: int | None
    out: str
    err: str

    @property
    def words(self) -> str:
        """Its last complaint, for people."""
        if self.code is None:
            return "no answer in time"
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        text = lines[-1] if lines else f"exit status {self.code}, and it said nothing"
        return re.sub(r"^\w+: (error|fatal): ", "", text)[:_MOST_WORDS]


class Verdict(Enum):
    """What became of a submission."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    LATER = "later"  # not submitted, and it may be when there is room
    UNCERTAIN = "uncertain"  # it may have been submitted


def environment(conf: str) -> dict[str, str]:
    """All that a command gets. SBATCH_* variables are options: none of the daemon's are passed on."""
    found = {
        "PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s",
        "SLURM_BITSTR_LEN": "0",  # else the list of an array's elements is cut at 64 characters
    }  # fmt: skip
    if conf := conf or os.environ.get("SLURM_CONF", ""):
        found["SLURM_CONF"] = conf
    return found


def comment(job_hash: str, node: object, user: str) -> str:
    """What a batch job is, for people who look at Slurm's queue. ``node`` is None for a preparation."""
    return f"job={job_hash} node={node or 'prepare'} user={user or '-'}"


def probe_name(staged: str) -> str:
    """Of a batch job that is no attempt's, after the directory that was staged for it: 16 hexadecimal digits."""
    return f"scd-{staged}{staged}-0.1"


def array_name(first: str) -> str:
    """Of the job array that an attempt is the first of."""
    return first + ARRAY


def first_of(array: str) -> str:
    """The attempt that a job array is called after."""
    return array.removesuffix(ARRAY)


def element_name(array: str, element: int) -> str:
    """What ``queue`` calls an element."""
    return f"{array}_{element}"


def sbatch(
    name: str, comment: str, directory: str | None, placement: Placement, elements: Sequence[int] = ()
) -> list[str]:
    """The script comes as input. What people may choose comes first: of an option given twice the last one counts.

    Without a ``directory`` Slurm opens no file: the batch job keeps its output itself. ``elements`` of a job array.
    """
    options = [
        *placement.options,
        "--parsable", "--no-requeue", "--export=NIL", "--open-mode=append", "--propagate=NONE", "--input=/dev/null",
        "--nodes=1", "--ntasks=1", f"--cpus-per-task={placement.cores}", f"--job-name={name}",
        f"--comment={_UNTOLD.sub(' ', comment)[:200]}", f"--chdir={directory or '/'}",
        f"--output={_literal(directory)}/output" if directory else "--output=/dev/null",
    ]  # fmt: skip
    if placement.partition:
        options.append(f"--partition={placement.partition}")
    if placement.account:
        options.append(f"--account={placement.account}")
    if placement.memory:
        options.append(f"--mem={math.ceil(placement.memory / _MEGABYTE)}M")
    if placement.time:
        options.append(f"--time={math.ceil(placement.time / 60)}")
    if placement.begin:
        options.append(f"--begin={placement.begin}")
    if placement.license:
        options.append(f"--licenses={placement.license}:1")
    if elements:
        options.append(f"--array={_ranges(elements)}")
    return ["sbatch", *options]


def submitted(answer: Answer) -> tuple[Verdict, str]:
    """What sbatch's answer means, and the job's id, or why there is none."""
    if answer.code == 0:
        job, _, _ = answer.out.strip().partition(";")  # a cluster's name may follow
        return (Verdict.ACCEPTED, job) if JOB_ID.fullmatch(job) else (Verdict.UNCERTAIN, answer.words)
    said = answer.err.lower()
    if answer.code == 127:
        return Verdict.LATER, answer.words
    if any(text in said for text in _LATER):
        return Verdict.LATER, answer.words
    if answer.code == 255 or (answer.code is not None and any(text in said for text in _REFUSALS)):
        return Verdict.REFUSED, answer.words
    return Verdict.UNCERTAIN, answer.words


def scancel(ids: Iterable[str], *, pending: bool = False, gently: bool = False) -> list[str]:
    """``pending``: only those that have not begun. ``gently``: TERM to the batch script alone, which passes it on.

    Not both ``pending`` and elements of arrays: Slurm 22.05 then ends all of an array of which none has begun.
    """
    how = ["--state=PENDING"] if pending else ["--batch", "--signal=TERM"] if gently else []
    return ["scancel", *how, *(ids if how else _folded(ids))]


def requests(argv: Sequence[str]) -> int:
    """How many requests a command sends to the controller, at most, as counted on 22.05 and 24.11."""
    if argv[0] != "scancel":
        return 1 if argv[0] == "sbatch" else 2
    options = [word for word in argv[1:] if word.startswith("--")]
    return len(argv) - 1 - len(options) + (3 if options else 0)


def _folded(ids: Iterable[str]) -> list[str]:
    """Elements of one array in one word, for which Slurm needs one request."""
    found: dict[str, list[int]] = {}
    for job in ids:
        base, _, element = job.partition("_")
        found.setdefault(base, []).extend([int(element)] if element else [])
    return [f"{base}_[{_ranges(elements)}]" if elements else base for base, elements in found.items()]


def _ranges(numbers: Iterable[int]) -> str:
    """``1-3,7``"""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def show_job(job: str) -> list[str]:
    return ["scontrol", "--oneliner", "show", "job", job]


def is_known(answer: Answer, name: str) -> bool | None:
    """Whether the job of this name is there, None if the answer says nothing."""
    if answer.code == 0:
        return f" JobName={name} " in answer.out
    said = answer.err + answer.out
    return False if answer.code == 1 and ("Invalid job id specified" in said or " not found" in said) else None


def version() -> list[str]:
    return ["scontrol", "--version"]


def release(text: str) -> tuple[int, int] | None:
    """``(22, 5)`` of ``slurm-wlm 22.05.8`` and of pyslurm's ``22.5.3``; None if it names no version."""
    found = _RELEASE.search(text)
    return (int(found[1]), int(found[2])) if found else None


def ping() -> list[str]:
    return ["scontrol", "ping"]


def show_licenses() -> list[str]:
    return ["scontrol", "--oneliner", "show", "licenses"]


def licenses(answer: Answer) -> frozenset[str] | None:
    """The licences that Slurm knows, None if the answer says nothing. There may be none: it says so in a sentence."""
    return frozenset(_LICENSE.findall(answer.out)) if answer.code == 0 else None


def _literal(path: str) -> str:
    """sbatch puts something in place of ``%j`` and the like."""
    return path.replace("%", "%%")
