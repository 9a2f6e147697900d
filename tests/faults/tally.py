"""What an experiment counts, and the table of all of them."""

import dataclasses
from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

_FIGURES = ("injected", "acknowledged", "lost", "doubled", "wrong")


@dataclasses.dataclass
class Tally:
    """What one fault did. ``injected``: how often it really struck."""

    row: int  # of the catalogue of faults
    fault: str
    injected: int = 0
    acknowledged: int = 0  # jobs whose hash the client was told
    lost: int = 0  # of those: unknown, or without an end
    doubled: int = 0  # nodes that ran more than once
    wrong: int = 0  # a status, an answer, an archive or a left-over that is not as it must be
    blame: list[str] = dataclasses.field(default_factory=list)
    facts: Counter[str] = dataclasses.field(default_factory=Counter)  # what else is worth knowing
    seconds: float = 0.0

    def lose(self, what: str) -> None:
        self.lost += 1
        self.blame.append(f"lost: {what}")

    def double(self, what: str) -> None:
        self.doubled += 1
        self.blame.append(f"doubled: {what}")

    def expect(self, condition: object, what: str) -> None:
        """Wrong unless it holds."""
        if not condition:
            self.wrong += 1
            self.blame.append(f"wrong: {what}")

    @property
    def clean(self) -> bool:
        return self.injected > 0 and not self.blame


def print_table(tallies: Iterable[Tally]) -> None:
    table = Table(title="Faults")
    table.add_column("row", justify="right")
    table.add_column("fault", overflow="fold")
    for name in (*_FIGURES, "seconds"):
        table.add_column(name, justify="right")
    tallies = list(tallies)
    for tally in tallies:
        figures = [str(getattr(tally, name)) for name in _FIGURES]
        style = "" if tally.clean else "red"
        table.add_row(str(tally.row), tally.fault, *figures, f"{tally.seconds:.0f}", style=style)
    console = Console(width=120)
    console.print(table)
    for tally in tallies:
        for what, count in tally.facts.items():
            console.print(f"{tally.row}: {what}: {count}", markup=False, highlight=False)
    for tally in tallies:
        if not tally.injected:
            console.print(f"{tally.row}: {tally.fault}: it never struck", markup=False, highlight=False)
        for what in tally.blame:
            console.print(f"{tally.row}: {what}", markup=False, highlight=False)
