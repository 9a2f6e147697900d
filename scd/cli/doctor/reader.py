"""Who would read Slurm's queue, as scd's account sees it: a program of its own.

``python -m scd.cli.doctor.reader FILE`` prints its findings as JSON.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from ... import slurm_cli as cli
from ...config import Config
from ...executors.slurm_pyslurm import choose
from .apart import findings_of, print_findings
from .finding import Finding, good, note


async def check_reader(config: Config, file: Path | None) -> AsyncIterator[Finding]:
    """The findings of this module's ``main``; none without a cluster."""
    if config.slurm is not None:
        async for finding in findings_of(__name__, "queue", config, file):
            yield finding


async def examine(config: Config, _file: Path) -> list[Finding]:
    assert config.slurm is not None
    choice = await asyncio.to_thread(choose, cli.environment(config.slurm.conf))
    choice.reader.close()
    if choice.fits:
        return [good("queue", choice.why)]
    return [note("queue", choice.why, "nothing has to be done; docs/SLURM.md says which pyslurm fits")]


def main() -> None:
    print_findings(examine)


if __name__ == "__main__":
    main()
