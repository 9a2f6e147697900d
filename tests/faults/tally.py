"""What an experiment counts, and the table of all of them."""

import dataclasses
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table


@dataclasses.dataclass
class Tally:
    """``injected``: faults that really struck. The other four are of jobs, or of nodes where it says so."""

    fault: str
    injected: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0  # nodes that ran more than once
    wrong: int = 0  # a final status, an answer or an archive that is not true
    notes: list[str] = dataclasses.field(default_factory=list)

    def blame(self, kind: str, what: str) -> None:
        """Count something that must not be: ``lost``, ``doubled`` or ``wrong``."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.notes.append(f"{kind}: {what}")

    def expect(self, condition: object, what: str) -> None:
        """``wrong`` unless it holds."""
        if not condition:
            self.blame("wrong", what)

    @property
    def clean(self) -> bool:
        return self.lost == self.doubled == self.wrong == 0


def print_table(tallies: Iterable[Tally]) -> None:
    table = Table(title="Faults")
    table.add_column("fault")
    for name in ("injected", "acknowledged", "lost", "doubled", "wrong"):
        table.add_column(name, justify="right")
    tallies = list(tallies)
    for tally in tallies:
        figures = (tally.injected, tally.acknowledged, tally.lost, tally.doubled, tally.wrong)
        table.add_row(tally.fault, *map(str, figures), style="" if tally.clean else "red")
    console = Console()
    console.print(table)
    for tally in tallies:
        for note in tally.notes:
            console.print(f"{tally.fault}: {note}", markup=False, highlight=False)
