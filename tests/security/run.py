"""All of it, long: ``make security``. Every archive, and 100,000 requests, with a table of what came back.

``python -m tests.security.run --requests 100000 --archives 30 --seed 1``
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..harness import Daemon, wait_until
from .archives import Outcome, daemon_config, one_of_each, shapes, submit_all, unpack_all
from .batteries import BATTERIES
from .described import schemathesis
from .hypotheses import HYPOTHESES
from .judge import Count, Judge
from .send import Holdings, known_jobs, run_battery, settled

# Parts of all requests. Names cost most: half of them are accepted, and each of those is synced to the disk.
SHARES = {
    "JSON bodies": 0.26,
    "multipart bodies": 0.16,
    "names": 0.08,
    "headers": 0.14,
    "no HTTP": 0.07,
    "broken off": 0.07,
}
HYPOTHESIS_SHARE = 0.09  # each
SCHEMATHESIS_SHARE = 0.06
_WARM_UP = 4000
_MOST_GROWTH = 256 * 2**20  # bytes of memory, after the warm-up


def batteries(daemon: Daemon, requests: int, seed: int, directory: Path) -> Iterator[Callable[[], Count]]:
    """One call a battery; together they send ``requests`` and a few more."""
    judge, known = Judge(), known_jobs(daemon)
    for name, share in SHARES.items():
        yield lambda name=name, share=share: run_battery(daemon, name, seed, round(requests * share), known, judge)  # type: ignore[misc]
    for battery in HYPOTHESES:
        yield lambda battery=battery: battery(  # type: ignore[misc]
            daemon.port, round(requests * HYPOTHESIS_SHARE), seed, judge, known
        )
    operations = sum(len(methods) for methods in judge.description["paths"].values())
    examples = max(1, round(requests * SCHEMATHESIS_SHARE) // operations)
    yield lambda: schemathesis(daemon.port, directory / "schemathesis", seed, examples, known)


def attack(directory: Path, requests: int, seed: int, tell: Callable[[Count], None]) -> tuple[list[Count], list[str]]:
    """The counts, and what leaked."""
    # What is broken off is sent faster than it is cleared away: its sender must wait then, not be refused.
    daemon = Daemon(directory / "scd", server="max_connections_per_address = 2000")
    try:
        daemon.start()
        if requests > _WARM_UP:
            run_battery(daemon, "broken off", seed + 1, _WARM_UP // 2, known_jobs(daemon), Judge())
        wait_until(lambda: not Holdings.of(daemon).staged, "what was broken off stays in staging")
        before = Holdings.of(daemon)
        counts = []
        for battery in batteries(daemon, requests, seed, directory):
            counts.append(battery())
            tell(counts[-1])
        after = settled(daemon, before)
        leaks = after.leaks_since(before)
        if requests > _WARM_UP and after.memory > before.memory + _MOST_GROWTH:
            leaks.append(f"{after.memory >> 20} MiB of memory are used, and there were {before.memory >> 20}")
        leaks += strange_lines(daemon)
        print(f"before: {before}\nafter:  {after}")
        return counts, leaks
    finally:
        daemon.end_everything()


def strange_lines(daemon: Daemon) -> list[str]:
    """What strangers' requests made scd log beyond what it does with its jobs."""
    lines = daemon.log.read_text().splitlines()
    strange = [line for line in lines if not re.match(r"[0-9TZ:-]{20} (WARNING scd runs as root|INFO )", line)]
    return [f"the log says: {line[:500]}" for line in strange[:5]]


def table_of_archives(outcomes: list[Outcome]) -> Table:
    table = Table("archives", "in all", "refused", "taken", "findings", title=f"Archives of {shapes()} hostile shapes")
    for outcome in outcomes:
        figures = (outcome.archives, outcome.refused, outcome.taken, len(outcome.findings))
        table.add_row(outcome.kind, *map(str, figures), style="red" if outcome.findings else "")
    return table


def table_of_requests(counts: list[Count]) -> Table:
    statuses = sorted({status for count in counts for status in count.answers})
    table = Table("battery", "sent", *map(str, statuses), "broken off", "findings", title="Requests, answers by status")
    total = Count("in all", sum(count.sent for count in counts), left=sum(count.left for count in counts))
    for count in counts:
        total.answers += count.answers
        total.findings += count.findings
    for count in (*counts, total):
        answers = (str(count.answers[status] or "") for status in statuses)
        style = "red" if count.findings else ""
        table.add_row(count.battery, str(count.sent), *answers, str(count.left), str(len(count.findings)), style=style)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--archives", type=int, default=30, metavar="N", help="of each shape")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    assert set(SHARES) == set(BATTERIES)
    console = Console()
    begin = time.monotonic()

    def tell(count: Count) -> None:
        console.print(
            f"{time.monotonic() - begin:6.0f} s  {count.battery}: {count.sent}, {len(count.findings)} findings"
        )

    with tempfile.TemporaryDirectory(prefix="scd-security-") as name:
        directory = Path(name)
        outcomes = unpack_all(arguments.seed, arguments.archives, directory / "direct")
        daemon = Daemon(directory / "archives", server=daemon_config())
        try:
            outcomes.append(submit_all(daemon.start(), one_of_each(arguments.seed, directory / "escaped")))
        finally:
            daemon.end_everything()
        console.print(table_of_archives(outcomes))
        counts, leaks = attack(directory, arguments.requests, arguments.seed, tell)
        console.print(table_of_requests(counts))
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    findings += [finding for count in counts for finding in count.findings] + leaks
    for finding in findings:
        console.print(finding, markup=False, highlight=False)
    console.print(f"{len(findings)} findings in {time.monotonic() - begin:.0f} s")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
