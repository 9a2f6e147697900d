"""What an experiment is given, and the list of all experiments."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .tally import Tally
from .world import World


@dataclasses.dataclass
class Bench:
    """One run of one experiment. ``times``: how often the fault is to strike, as far as it can."""

    rng: random.Random
    tally: Tally
    directory: Path
    times: int
    _worlds: int = 0

    def world(self, config: str = "", **options: Any) -> World:
        self._worlds += 1
        return World(self.directory / str(self._worlds), self.rng, self.tally, config, **options)

    def some(self, points: list[Any]) -> list[Any]:
        """At most ``times`` of the points, drawn evenly."""
        return sorted(self.rng.sample(points, min(self.times, len(points))))


Run = Callable[[Bench], None]


@dataclasses.dataclass(frozen=True)
class Experiment:
    row: int
    fault: str
    run: Run
    full: int  # times in ``make faults``
    sample: int  # times in the gate


EXPERIMENTS: list[Experiment] = []


def experiment(row: int, fault: str, full: int, sample: int) -> Callable[[Run], Run]:
    def register(run: Run) -> Run:
        EXPERIMENTS.append(Experiment(row, fault, run, full, sample))
        return run

    return register
