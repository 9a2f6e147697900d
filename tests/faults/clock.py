"""A wall clock that leaps."""

import time

from .bench import Bench, experiment
from .inject import Clock, eventually

_DAY = 86400
_SWEEP = 12.0  # longer than the janitor's interval


@experiment(27, "the clock leaps by a day, forth or back, under scd or while it is down", full=16, sample=2)
def leaps(bench: Bench) -> None:
    """Durations are the monotonic clock's; nothing that was to be kept for half a day is gone."""
    clock = Clock(bench.directory / "clock")
    with bench.world('[local]\ncores = 4\n[limits]\nretention = "12h"\ncompute_time = "1h"\n') as world:
        world.daemon.spawn(env=clock.env)
        world.daemon.wait_until_ready()
        world.submit("chain")
        world.settle()
        leap = 0
        for number in range(bench.times):
            begin = time.monotonic()
            world.submit("work", "sleep 1", "completed", "timeout=60")
            eventually(lambda: any(".1" in name for _, name in world.live_nodes().values()), 15)
            leap = bench.rng.choice((_DAY, -_DAY)) if leap == 0 else 0
            if number % 2:
                world.daemon.stop()
                clock.set(leap)
                world.daemon.spawn(env=clock.env)
                world.daemon.wait_until_ready()
            else:
                clock.set(leap)
            bench.tally.injected += 1
            asked = time.monotonic()
            world.daemon.post("/check_server/")
            bench.tally.expect(time.monotonic() - asked < 2, "an answer took long")
            world.settle()
            bench.tally.expect(time.monotonic() - begin < 60, "the job took long")
            time.sleep(_SWEEP)
        world.settle()
        for row in world.daemon.rows("SELECT name, elapsed FROM attempts"):
            bench.tally.expect(0 <= row["elapsed"] < 60, f"{row['name']} took {row['elapsed']} s")
        (row,) = world.daemon.rows("SELECT sum(core_seconds) AS used FROM ledger")
        bench.tally.expect(0 < row["used"] < 60 * bench.times, f"{row['used']} core-seconds were charged")
        kept = set(world.jobs())
        bench.tally.expect(kept >= set(world.promised), f"expired: {set(world.promised) - kept}")
