"""What a job's journal says of an attempt, as an observation.

A job, or its account, may have written it: only values that make sense are taken over.
"""

import re
from typing import Any

import msgspec

from ..model import Plan, ResourceUsage
from ..states import NodeState
from .base import Observation

# What a shim may say of its archives: it can be in the hands of the job's account.
_ARCHIVE = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.tar\.gz")
_MOST = 2**53
_SNAPSHOT = re.compile(r"snapshot-[0-9a-f-]{1,64}\.tar\.gz")


def observe(seen: Observation, record: dict[str, Any], boot: str) -> None:
    """Take over a record of an attempt. Raises LookupError, TypeError or ValueError for one that makes no sense."""
    match record["type"]:
        case "started":
            at, pid, mono = figure(record["at"]), record["pid"], figure(record["mono"])
            if record["boot"] == boot:  # else its pid may be anybody's by now
                seen.pid, seen.started_mono = whole(pid), mono
            seen.started = at
        case "ended":
            seen.ended, seen.elapsed = figure(record["at"]), figure(record["elapsed"])
            seen.archive = _named(_ARCHIVE, record["archive"])
            seen.reason, seen.exit_code = _text(record["reason"]), _number(record.get("exit_code"))
            seen.refused, seen.lost = bool(record.get("refused")), bool(record.get("lost"))
            seen.usage = seen.usage.merged(_usage(record.get("usage")))
            seen.unpack_seconds, seen.archive_seconds = (_seconds(record, part) for part in ("unpack", "archive"))
            seen.state = _state(record["state"])
            if plan := record.get("plan"):
                _take_plan(seen, plan)


def figure(value: object) -> float:
    """A time, or a span of time, in seconds. It is calculated with, and goes into the database. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
        raise ValueError(f"{value!r:.40} is no number of seconds")
    return float(value)


def whole(value: object) -> int:
    """Raises ValueError for anything but a number as the kernel counts."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
        raise ValueError(f"{value!r:.40} is no whole number")
    return value


def snapshot_name(name: object) -> str | None:
    """A file name that a snapshot may have, None for any other."""
    return _named(_SNAPSHOT, name)


def _state(word: str) -> NodeState:
    """What a job can write decides its status: anything unknown is an error."""
    try:
        state = NodeState(word)
    except ValueError:
        return NodeState.ERROR
    return state if state.done else NodeState.ERROR


def _named(pattern: re.Pattern[str], name: object) -> str | None:
    return name if isinstance(name, str) and pattern.fullmatch(name) else None


def _text(value: object) -> str:
    """Whatever bytes a tool put into an error: the database takes only what can be written as UTF-8."""
    return str(value).encode(errors="replace").decode()


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and abs(value) < 2**31 else None


def _seconds(record: dict[str, Any], part: str) -> float | None:
    """How long the runner says that a part of an attempt took."""
    timing = record.get("timing")
    value = timing.get(part) if isinstance(timing, dict) else None
    return float(value) if isinstance(value, int | float) and 0 <= value < 2**31 else None


def _usage(figures: object) -> ResourceUsage:
    """The runner's figures are for show; what is charged is the shim's. Nonsense counts as nothing."""
    try:
        usage = msgspec.convert(figures or {}, ResourceUsage)
    except msgspec.ValidationError:
        return ResourceUsage()
    return usage if all(0 <= figure < 2**62 for figure in msgspec.structs.astuple(usage)) else ResourceUsage()


def _take_plan(seen: Observation, plan: object) -> None:
    try:
        seen.plan = msgspec.convert(plan, Plan, strict=False)
        seen.raw_plan = msgspec.json.encode(seen.plan)
    except msgspec.ValidationError as error:
        seen.state, seen.reason = (
            NodeState.ERROR,
            f"SiliconCompiler prepared a plan that scd does not understand: {error}",
        )
