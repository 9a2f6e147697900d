"""What Slurm's partitions give, by ``sinfo``. Pure."""

import msgspec

from .placement import Partition
from .slurm_cli import Answer

_MEGABYTE = 2**20


def sinfo() -> list[str]:
    return ["sinfo", "--noheader", "--all", "--exact", "--format=%P|%l|%c|%m"]


def partitions(answer: Answer) -> dict[str, Partition] | None:
    """What the partitions give, None if the answer says nothing."""
    if answer.code != 0:
        return None
    found: dict[str, Partition] = {}
    for line in answer.out.splitlines():
        fields = line.split("|")
        if len(fields) != 4:
            continue
        name, limit, cores, memory = fields
        own = Partition(
            name.removesuffix("*"), _duration(limit), _number(cores), _number(memory, _MEGABYTE), name.endswith("*")
        )
        if (other := found.get(own.name)) is not None:  # a line for each kind of node
            own = msgspec.structs.replace(
                own, cores=_larger(own.cores, other.cores), memory=_larger(own.memory, other.memory)
            )
        found[own.name] = own
    return found


def _number(text: str, unit: int = 1) -> int | None:
    digits = text.rstrip("+")
    return int(digits) * unit if digits.isdigit() and int(digits) else None


def _larger(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)


def _duration(text: str) -> float | None:
    """``1-00:00:00``, ``2:00:00``, ``30:00``; anything else is no limit."""
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (*parts, *([days] if dash else []))) or len(parts) > 3:
        return None
    seconds = 0
    for part in parts if not dash else [*parts, *["0"] * (3 - len(parts))]:
        seconds = seconds * 60 + int(part)
    return float(seconds + (int(days) * 86400 if dash else 0)) or None
