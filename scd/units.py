"""Sizes and durations as systemd and Slurm users write them. Standard library only: the runner uses it too."""

import re

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGTP]?)(i?)B?", re.ASCII)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SLURM = re.compile(r"(?:([0-9]+)-)?([0-9]+):([0-5]?[0-9])(?::([0-5]?[0-9]))?", re.ASCII)
_TERM = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|sec|s|min|m|h|d|w)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")

UNLIMITED = "unlimited"


def parse_size(text: str) -> int:
    """Bytes in ``10GiB``, ``1.5 GB``, ``512K`` or ``4096``. Units with ``i`` or without ``B`` are powers of 1024.

    Raises ValueError with a text for the user.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"not a size: {text!r} (write it as 512MiB, 10GiB or a number of bytes)")
    base = 1000 if text.strip().endswith("B") and match[2] and not match[3] else 1024
    return int(float(match[1]) * base ** _POWER[match[2]])


def parse_duration(text: str) -> float:
    """Seconds in ``90``, ``1h30m``, ``30d``, ``HH:MM:SS``, ``H:MM`` or ``D-HH:MM:SS``.

    Raises ValueError with a text for the user.
    """
    stripped = text.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", stripped, re.ASCII):
        return float(stripped)
    if match := _SLURM.fullmatch(stripped):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)
    terms = _TERM.findall(stripped)
    if terms and not _TERM.sub("", stripped).strip():
        return float(sum(float(number) * _SECONDS[unit] for number, unit in terms))
    raise ValueError(f"not a duration: {text!r} (write it as 90s, 1h30m, 30d or 2-00:00:00)")


def format_size(size: int) -> str:
    """``1536`` as ``1.5KiB``: at most one decimal, the largest unit that keeps it at 1 or more."""
    power = min(max(0, abs(size).bit_length() - 1) // 10, len(_BINARY) - 1)
    return f"{size / 1024**power:.1f}".removesuffix(".0") + _BINARY[power]


def format_elapsed(seconds: float) -> str:
    """``H:MM:SS`` with unbounded hours, the one form of a duration that the client can read."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def format_duration(seconds: float) -> str:
    """``[D-]HH:MM:SS`` as squeue and sacct print it."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock
