"""``python -m tests.faults [--row N] [--times N | --sample] [--seed N]``: inject, count, and print the table.

Exit status 0 if nothing was lost, doubled or wrong. The seed that is printed repeats the choices of a run.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from . import answers, clock, database, kills, space, syscalls
from .bench import EXPERIMENTS, Bench, Experiment
from .inject import missing
from .tally import Tally, print_table

assert all((answers, clock, database, kills, space, syscalls))  # importing them lists their experiments


def main() -> None:
    rows = sorted({experiment.row for experiment in EXPERIMENTS})
    parser = argparse.ArgumentParser(prog="tests.faults", description="Inject faults into scd, and count.")
    parser.add_argument("--row", type=int, action="append", choices=rows, help="only this row of the catalogue")
    parser.add_argument("--only", default="", metavar="WORD", help="only experiments with this word in their title")
    parser.add_argument("--times", type=int, metavar="N", help="strike so often instead of as often as listed")
    parser.add_argument("--sample", action="store_true", help="the small number of times that the gate affords")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of all choices")
    parser.add_argument("--list", action="store_true", help="list the experiments, and exit")
    wanted = parser.parse_args()
    chosen = [
        one for one in EXPERIMENTS
        if (not wanted.row or one.row in wanted.row) and wanted.only.lower() in one.fault.lower()
    ]  # fmt: skip
    chosen.sort(key=lambda one: one.row)
    if wanted.list:
        for one in chosen:
            print(f"{one.row:3} {one.fault} ({one.full} times, {one.sample} in the sample)")
        return
    if lacking := missing():
        print(f"faults: skipped, this machine lacks {lacking}")
        return
    print(f"seed {wanted.seed}", flush=True)
    tallies = []
    for one in chosen:
        times = wanted.times or (one.sample if wanted.sample else one.full)
        tallies.append(_run(one, times, wanted.seed))
    print_table(tallies)
    sys.exit(0 if all(tally.clean for tally in tallies) else 1)


def _run(one: Experiment, times: int, seed: int) -> Tally:
    tally = Tally(one.row, one.fault)
    directory = Path(tempfile.mkdtemp(prefix="scd-faults-"))
    print(f"{one.row:3} {one.fault} ...", flush=True)
    begin = time.monotonic()
    try:
        one.run(Bench(random.Random(f"{seed}-{one.fault}"), tally, directory, times))
    except Exception:
        tally.expect(False, traceback.format_exc())
    tally.seconds = time.monotonic() - begin
    print(f"    struck {tally.injected} times in {tally.seconds:.0f} s", flush=True)
    if tally.blame:
        print(f"    {len(tally.blame)} to blame, first: {tally.blame[0]}\n    left for a look: {directory}", flush=True)
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return tally


if __name__ == "__main__":
    main()
