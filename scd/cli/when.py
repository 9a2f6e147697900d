"""Points in time as Slurm's commands take them for ``-S`` and ``-E``."""

import re
import time
from datetime import UTC, datetime, timedelta

_NOW = re.compile(r"now(?:([+-])([0-9]{1,9})(seconds?|minutes?|hours?|days?|weeks?)?)?", re.ASCII)
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))? ?(am|pm)?", re.ASCII)
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:t([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)?", re.ASCII)
_SHORT_DATE = re.compile(r"([0-9]{1,2})[/.]([0-9]{1,2})(?:[/.]([0-9]{2}))?(?:-(.+))?", re.ASCII)
_COMPACT_DATE = re.compile(r"([0-9]{2})([0-9]{2})([0-9]{2})?", re.ASCII)
_RFC3339 = re.compile(r".*[0-9]t[0-9:.]+(z|[+-][0-9]{2}:[0-9]{2})", re.ASCII)
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_HOURS = {"midnight": 0, "today": 0, "noon": 12, "teatime": 16}

HELP = "write it as now-1hour, 14:30, today, 11/24, 2026-11-24 or 2026-11-24T14:30"


def parse_when(text: str) -> float:
    """Seconds since 1970 of a local time. Raises ValueError with a text for the user."""
    word = text.strip().lower()
    try:
        found = _relative(word) or _day(word) or _rfc3339(word)
    except (ValueError, OverflowError):  # a 30th of February
        found = None
    if found is None:
        raise ValueError(f"not a time: {text!r} ({HELP})")
    return found


def _relative(word: str) -> float | None:
    if match := _NOW.fullmatch(word):
        sign, count, unit = match.groups()
        seconds = int(count or 0) * _UNITS[(unit or "second").removesuffix("s")]
        return time.time() - seconds if sign == "-" else time.time() + seconds
    clock = _clock(word)
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    if word in ("yesterday", "tomorrow"):
        return _local(midnight + timedelta(days=1 if word == "tomorrow" else -1))
    return None if clock is None else _local(midnight.replace(hour=clock[0], minute=clock[1], second=clock[2]))


def _clock(word: str) -> tuple[int, int, int] | None:
    if word in _HOURS:
        return _HOURS[word], 0, 0
    match = _CLOCK.fullmatch(word)
    if match is None:
        return None
    hour = int(match[1])
    if match[4]:
        if not 1 <= hour <= 12:
            raise ValueError
        hour = hour % 12 + (12 if match[4] == "pm" else 0)
    return hour, int(match[2]), int(match[3] or 0)


def _day(word: str) -> float | None:
    if match := _DATE.fullmatch(word):
        return _local(datetime(*(int(part or 0) for part in match.groups())))  # type: ignore[arg-type]  # noqa: DTZ001
    match = _SHORT_DATE.fullmatch(word) or _COMPACT_DATE.fullmatch(word)
    if match is None:
        return None
    month, day, year, *rest = match.groups()
    clock = _clock(rest[0]) if rest and rest[0] else (0, 0, 0)
    if clock is None:
        return None
    whole = 2000 + int(year) if year else datetime.now().astimezone().year
    return _local(datetime(whole, int(month), int(day), *clock))  # noqa: DTZ001 - local, as Slurm has it


def _rfc3339(word: str) -> float | None:
    """As scdctl itself prints it in JSON."""
    return datetime.fromisoformat(word.upper()).astimezone(UTC).timestamp() if _RFC3339.fullmatch(word) else None


def _local(at: datetime) -> float:
    """Of a wall clock's time: the offset is that of its own day, not of today."""
    return at.replace(tzinfo=None).timestamp()
