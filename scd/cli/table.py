"""Tables as squeue prints them: aligned for people, ``|`` for programs. No text of a job reaches a terminal raw."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from ..errors import ScdError
from ..units import format_duration, format_size
from .words import meant

Record = Mapping[str, Any]

# As SiliconCompiler's own dashboard has them.
_COLOURS = {
    "queued": "blue", "preparing": "blue", "pending": "blue", "submitted": "blue", "running": "dark_orange",
    "completed": "green", "success": "green", "failed": "red", "error": "red", "timeout": "red", "rejected": "red",
    "canceled": "bright_black", "skipped": "bright_black", "good": "green", "note": "blue", "bad": "red",
}  # fmt: skip
_SHORT = 8
NOTHING = "-"


class BadFormat(ScdError):
    """Unknown column."""

    exit_code = 2


class Table:
    """Columns by name: what each prints of a record, and whether hashes are whole. ``aliases`` are Slurm's names."""

    def __init__(
        self, columns: Mapping[str, Callable[[Record], str]], default: Sequence[str], aliases: Mapping[str, str]
    ):
        self.columns, self.default, self._aliases = columns, default, aliases

    def pick(self, chosen: str | None) -> list[str]:
        """The columns that a user names. Raises BadFormat."""
        if chosen is None:
            return list(self.default)
        wanted = [name.strip().lower() for name in chosen.split(",")]
        wanted = [self._aliases.get(name, name) for name in wanted]
        for name in wanted:
            if name not in self.columns:
                hint = meant(name, self.columns)
                raise BadFormat(f"Unknown column {name!r}.{hint} There are: {', '.join(self.columns)}.")
        return wanted

    def print(self, records: Iterable[Record], *, header: bool, parsable: bool, chosen: str | None) -> None:
        names = self.pick(chosen)
        rows = [[self._cell(name, record, whole=parsable) for name in names] for record in records]
        print_table(names, rows, header=header, parsable=parsable)

    def _cell(self, name: str, record: Record, *, whole: bool) -> str:
        text = self.columns[name](record)
        if name in ("job_hash", "node") and not whole:
            job_hash = record["job_hash"]
            text = text.replace(job_hash, job_hash[:_SHORT], 1)
        return text


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, header: bool = True, parsable: bool = False
) -> None:
    heads = [column.upper() for column in columns]
    lines = [[clean(cell) for cell in row] for row in rows]
    if parsable:
        for line in [heads, *lines] if header else lines:
            print("|".join(cell.replace("|", "\\|") for cell in line))
        return
    console = Console(highlight=False, soft_wrap=True)
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    for number, line in enumerate([heads, *lines] if header else lines):
        text = Text()
        for cell, width, head in zip(line, widths, heads, strict=True):
            style = _COLOURS.get(cell, "") if head == "STATUS" and (number or not header) else ""
            text.append(cell.ljust(width), style)
            text.append("  ")
        text.rstrip()
        console.print(text)


def coloured(status: str) -> str:
    """A status as a terminal shows it in its colour; plain if that is none, or NO_COLOR is set."""
    console = Console(highlight=False)
    if not console.is_terminal or console.no_color:
        return status
    with console.capture() as capture:
        console.print(Text(status, _COLOURS.get(status, "")), end="")
    return capture.get()


def print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def clean(text: str) -> str:
    """Control characters written out, so that a job's text cannot steer a terminal or break a line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def local_time(at: str | None) -> str:
    """A record's time in the reader's own zone, to the second, as Slurm prints it."""
    return NOTHING if at is None else short_time(datetime.fromisoformat(at).timestamp())


def short_time(at: float | None) -> str:
    """Local time, to the second."""
    return NOTHING if at is None else datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%dT%H:%M:%S")


def duration(seconds: float | None) -> str:
    return NOTHING if seconds is None else format_duration(seconds)


def fine(seconds: float | None) -> str:
    """Where milliseconds matter: ``0.031s``, ``12.3s``, and as a duration from a minute on."""
    if seconds is None:
        return NOTHING
    if seconds >= 60:
        return format_duration(seconds)
    return f"{seconds:.3f}s" if seconds < 1 else f"{seconds:.1f}s"


def size(count: int | None) -> str:
    return NOTHING if count is None else format_size(count)


def number(value: object) -> str:
    return NOTHING if value is None else str(value)


def first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def plain(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={clean(str(value))}" for key, value in values.items() if value not in (None, "")]
