"""Tables as squeue prints them: aligned for people, ``|`` for programs. No text of a job reaches a terminal raw."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from ..errors import ScdError

# As SiliconCompiler's own dashboard has them.
_COLOURS = {
    "queued": "blue", "preparing": "blue", "pending": "blue", "submitted": "blue", "running": "dark_orange",
    "completed": "green", "success": "green", "failed": "red", "error": "red", "timeout": "red", "rejected": "red",
    "canceled": "bright_black", "skipped": "bright_black",
}  # fmt: skip


class BadFormat(ScdError):
    """Unknown column."""

    exit_code = 2


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, header: bool, parsable: bool, chosen: str | None
) -> None:
    picked = _pick(columns, chosen)
    lines = [[clean(row[index]) for index in picked] for row in rows]
    heads = [columns[index].upper() for index in picked]
    if parsable:
        for line in [heads, *lines] if header else lines:
            print("|".join(cell.replace("|", "\\|") for cell in line))
        return
    console = Console(highlight=False, soft_wrap=True)
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)] if lines else [len(h) for h in heads]
    for number, line in enumerate([heads, *lines] if header else lines):
        text = Text()
        for cell, width, head in zip(line, widths, heads, strict=True):
            style = _COLOURS.get(cell, "") if head == "STATUS" and (number or not header) else ""
            text.append(cell.ljust(width), style)
            text.append("  ")
        text.rstrip()
        console.print(text)


def print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def clean(text: str) -> str:
    """Control characters written out, so that a job's text cannot steer a terminal or break a line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def rfc3339(at: float | None) -> str | None:
    return (
        None
        if at is None
        else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def short_time(at: float | None) -> str:
    """Local time, to the second."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%dT%H:%M:%S")


def _pick(columns: Sequence[str], chosen: str | None) -> list[int]:
    if chosen is None:
        return list(range(len(columns)))
    wanted = [name.strip().lower() for name in chosen.split(",")]
    if unknown := [name for name in wanted if name not in columns]:
        raise BadFormat(f"Unknown column {unknown[0]!r}. There are: {', '.join(columns)}.")
    return [columns.index(name) for name in wanted]


def plain(values: dict[str, Any]) -> list[str]:
    return [f"{key}={clean(str(value))}" for key, value in values.items() if value not in (None, "")]
