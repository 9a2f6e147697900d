"""Death and failure at single system calls, which a trace of a clean round lists; the order in which data last."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..harness import Json
from .bench import Bench, experiment
from .inject import CHANGES, Strace, alive, count, eventually, finished, kill, options
from .kills import keepers
from .world import World

_ALL = 10**6
_ROUND = 60.0  # seconds that a job may take
Point = tuple[str, int]  # a system call, and which of its kind in one thread


def points(seen: str) -> list[Point]:
    return [(call, number) for call, most in sorted(count(seen).items()) for number in range(1, most + 1)]


def one_job(world: World) -> None:
    """A round: a submission, and the run of its three nodes."""
    world.submit("work", "sleep 0.2", "")
    eventually(lambda: dead(world) or not world.unfinished(), _ROUND)


def dead(world: World) -> bool:
    assert world.daemon.process is not None
    return world.daemon.process.poll() is not None


def clean_round(world: World, pid: int, calls: tuple[str, ...] = CHANGES) -> list[Point]:
    trace = Strace(pid, world.directory / "clean.trace", calls)
    one_job(world)
    return points(trace.stop())


# -- the daemon


@experiment(3, "kill -9 at each file-changing call of the daemon, while it takes and runs a job", full=_ALL, sample=8)
def kill_at_each_call(bench: Bench) -> None:
    with bench.world() as world:
        world.daemon.start()
        for call, number in bench.some(clean_round(world, world.daemon.pid)):
            trace = Strace(world.daemon.pid, world.directory / "trace", [call], f"signal=KILL:when={number}")
            one_job(world)
            trace.stop()
            if dead(world):
                bench.tally.injected += 1
                world.daemon.stop(signal.SIGKILL)
                world.daemon.start()
                eventually(lambda: not world.unfinished(), _ROUND)
        world.settle()
        world.expect_tidy()


@experiment(3, "kill -9 at each file-changing call of a start that finds live nodes", full=_ALL, sample=5)
def kill_at_each_call_of_a_start(bench: Bench) -> None:
    with bench.world() as world:

        def start(inject: str, calls: tuple[str, ...], log: Path) -> None:
            """Under a tracer from its first call on, beside a live node and what a crash left."""
            world.submit("work", "sleep 1")
            eventually(world.live_nodes, 15)
            world.daemon.stop(signal.SIGKILL)
            staged = world.daemon.state / "spool" / "staging" / "left"
            (staged / "upload").mkdir(parents=True, exist_ok=True)
            world.daemon.spawn(under=["strace", "-D", *options(calls, inject), "-o", str(log)])

        world.daemon.start()
        log = world.directory / "clean.trace"
        start("", CHANGES, log)
        world.daemon.wait_until_ready()
        eventually(lambda: not world.unfinished(), _ROUND)
        world.daemon.stop(signal.SIGKILL)
        found = points(log.read_text(errors="replace"))
        world.daemon.start()
        for call, number in bench.some(found):
            start(f"signal=KILL:when={number}", (call,), world.directory / "trace")
            eventually(lambda: dead(world) or not world.unfinished(), _ROUND)
            bench.tally.injected += dead(world)
            world.daemon.stop(signal.SIGKILL)
            world.daemon.start()
            eventually(lambda: not world.unfinished(), _ROUND)
        world.settle()
        world.expect_tidy()


def _failing(bench: Bench, errors: tuple[str, ...], when: str, seconds: float) -> None:
    with bench.world() as world:
        world.failing = True
        world.daemon.start()
        found = [(call, number, error) for call, number in clean_round(world, world.daemon.pid) for error in errors]
        for call, number, error in bench.some(found):
            trace = Strace(world.daemon.pid, world.directory / "trace", [call], f"error={error}:when={number}{when}")
            world.submit("work", "sleep 0.2", "")
            time.sleep(seconds)
            bench.tally.injected += trace.struck() > 0
            if dead(world):
                bench.tally.expect(False, f"the daemon ended at {error} of {call} {number}")
                world.daemon.start()
            bench.tally.expect(
                eventually(lambda: not world.unfinished(), _ROUND), f"stuck after {error} of {call} {number}"
            )
        world.settle()
        world.expect_tidy()


@experiment(4, "EIO or ENOSPC, once, at each file-changing call of the daemon", full=_ALL, sample=8)
def fail_each_call(bench: Bench) -> None:
    _failing(bench, ("EIO", "ENOSPC"), "", 1.2)


@experiment(4, "EIO or ENOSPC from some call of the daemon on, for two seconds", full=60, sample=3)
def fail_for_a_while(bench: Bench) -> None:
    _failing(bench, ("EIO", "ENOSPC"), "+", 2.0)


_BEFORE_THE_ANSWER = {("fdatasync", 1)}  # of an idle daemon: the commit; later ones are its turns


@experiment(39, "a failing fsync or fdatasync in a submission: it is not acknowledged", full=_ALL, sample=5)
def fail_each_fsync(bench: Bench) -> None:
    with bench.world() as world:
        world.failing = True
        world.daemon.start()
        for call, number in bench.some(clean_round(world, world.daemon.pid, ("fsync", "fdatasync"))):
            known = set(world.jobs())
            trace = Strace(world.daemon.pid, world.directory / "trace", [call], f"error=EIO:when={number}")
            job_hash = world.submit("chain")
            struck = trace.struck()
            bench.tally.injected += struck > 0
            early = (call, number) in _BEFORE_THE_ANSWER or call == "fsync"
            bench.tally.expect(not (struck and job_hash and early), f"acknowledged although {call} {number} had failed")
            bench.tally.expect(job_hash or set(world.jobs()) == known, "a job was kept that was not acknowledged")
            eventually(lambda: not world.unfinished(), _ROUND)
        world.settle()
        world.expect_tidy()


# -- the shim


def shim_of(world: World, job_hash: str) -> int:
    """The pid of a job's shim as soon as there is one."""

    def journal() -> list[Json]:
        path = world.daemon.job_directory(job_hash) / "control" / "events.jsonl"
        return world.daemon.journal(job_hash) if path.exists() else []

    eventually(lambda: keepers(journal(), ["shim"]), 15)
    return keepers(journal(), ["shim"])[0]


def _shim_rounds(bench: Bench, calls: tuple[str, ...], inject: Callable[[int], str]) -> Iterator[World]:
    """The world after each round in which a call of a shim was struck, its job not over yet."""
    with bench.world() as world:
        world.daemon.start()
        job_hash = world.submit("work", "sleep 0.2", "")
        assert job_hash is not None
        trace = Strace(shim_of(world, job_hash), world.directory / "clean.trace", calls)
        eventually(lambda: not world.unfinished(), _ROUND)
        for call, number in bench.some(points(trace.stop())):
            job_hash = world.submit("work", "sleep 0.2", "")
            assert job_hash is not None
            shim = shim_of(world, job_hash)
            try:
                trace = Strace(shim, world.directory / "trace", [call], inject(number))
            except ProcessLookupError:
                continue
            eventually(lambda: not alive(shim) or not world.unfinished(), _ROUND)  # noqa: B023 - called in this round
            seen = trace.stop()
            if "(INJECTED)" in seen or (not alive(shim) and "killed by SIGKILL" in seen):
                bench.tally.injected += 1
                yield world
            eventually(lambda: not world.unfinished(), _ROUND)
        world.settle()
        world.expect_tidy()


@experiment(3, "kill -9 at each file-changing call of a shim", full=_ALL, sample=6)
def kill_a_shim_at_each_call(bench: Bench) -> None:
    for _ in _shim_rounds(bench, CHANGES, lambda number: f"signal=KILL:when={number}"):
        pass


@experiment(4, "EIO or ENOSPC, once, at each file-changing call of a shim", full=_ALL, sample=6)
def fail_each_call_of_a_shim(bench: Bench) -> None:
    for _ in _shim_rounds(bench, CHANGES, lambda number: f"error={bench.rng.choice(('EIO', 'ENOSPC'))}:when={number}"):
        pass


@experiment(38, "shim, then daemon, killed while an archive is published", full=_ALL, sample=4)
def kill_while_publishing(bench: Bench) -> None:
    for world in _shim_rounds(bench, ("fsync", "rename"), lambda number: f"signal=KILL:when={number}"):
        world.daemon.stop(signal.SIGKILL)
        world.daemon.start()


@experiment(38, "a node, its runner or its shim killed while the archive is made", full=40, sample=3)
def kill_while_packing(bench: Bench) -> None:
    with bench.world() as world:
        world.daemon.start()
        for _ in range(bench.times):
            job_hash = world.submit("work", "head -c 40000000 /dev/urandom >outputs/big", "")
            assert job_hash is not None
            archives = world.daemon.job_directory(job_hash) / "archives"
            if not eventually(lambda: any(path.stat().st_size > 2**20 for path in archives.glob(".*")), 30):  # noqa: B023
                continue
            victim = bench.rng.choice(("node", "runner", "shim"))
            pids = list(world.live_nodes()) if victim == "node" else keepers(world.daemon.journal(job_hash), [victim])
            kill(pids)
            bench.tally.injected += 1
            bench.tally.facts[f"{victim}s killed"] += 1
            if bench.rng.random() < 0.5:
                world.daemon.stop(signal.SIGKILL)
                world.daemon.start()
            eventually(lambda: not world.unfinished(), _ROUND)  # and with it every archive
            left = [path.name for path in archives.glob(".*")]
            bench.tally.expect(not left, f"unfinished archives are left: {left}")
        world.settle()
        world.expect_logs()
        world.expect_tidy()


# -- the order


# What must be over before the next begins, in the words of a trace. The answer is the last of it.
_ORDER = (
    ("the import's fsync", r"fsync\([0-9]+</.*/upload/import\.tar\.gz>\) += 0"),
    ("the manifest's fsync", r"fsync\([0-9]+</.*/upload/manifest-1\.json>\) += 0"),
    ("the upload directory's fsync", r"fsync\([0-9]+</.*/staging/[0-9a-f]+/upload>\) += 0"),
    ("the job directory's fsync", r"fsync\([0-9]+</.*/staging/[0-9a-f]+>\) += 0"),
    ("the rename", r'rename\(".*/staging/[0-9a-f]+", ".*/jobs/../[0-9a-f]{32}"\) += 0'),
    ("the fsync of the directory it went to", r"fsync\([0-9]+</.*/jobs/[0-9a-f]{2}>\) += 0"),
    ("the write of the commit", r"pwrite64\([0-9]+</.*/scd\.db-wal>.* = [0-9]+"),
    ("the fdatasync of the commit", r"fdatasync\([0-9]+</.*/scd\.db-wal>\) += 0"),
    ("the answer", r'sendto\([0-9]+<[^>]*>, "(HTTP/1\.1 200 OK|\{\\"message\\":\\"Job )'),
)


@experiment(5, "power loss: nothing is acknowledged before it is durable", full=40, sample=4)
def order_of_durability(bench: Bench) -> None:
    """No kill shows this: what was written survives a kill without any fsync. So the order of the calls counts."""
    with bench.world() as world:
        world.daemon.start()
        for _ in range(bench.times):
            calls = (*CHANGES, "sendto")
            trace = Strace(world.daemon.pid, world.directory / "trace", calls)
            job_hash = world.submit(bench.rng.choice(("chain", "lint", "work")))
            bench.tally.injected += 1
            begin, seen = 0, finished(trace.stop())
            for what, pattern in _ORDER:
                match = re.compile(pattern).search(seen, begin)
                bench.tally.expect(match, f"{job_hash}: {what} is missing, or comes too late")
                if match is None:
                    break
                begin = match.end()
        world.settle()
