"""Damage to the database, and death in the middle of a migration."""

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from .bench import Bench, experiment
from .inject import CHANGES, eventually, options
from .syscalls import dead, points
from .world import World

_DATA = Path(__file__).resolve().parent.parent / "data"
_FIXTURE = _DATA / "schema-1.db"


def scdctl(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scd.cli.main", "-c", str(world.daemon.file), *arguments], capture_output=True, text=True
    )


@experiment(30, "flipped, zeroed or missing bytes in the database", full=200, sample=6)
def damage(bench: Bench) -> None:
    """scd refuses to start and names the backup, and with that all is well again; or nothing that it says is wrong."""
    with bench.world() as world:
        world.daemon.start()
        for flow in ("chain", "work", "workers", "lint"):
            world.submit(flow)
        world.submit("lint", "true", "failed", "rtl=bad")
        deleted = world.submit("chain")
        world.settle()
        world.daemon.post("/delete_job/", {"job_hash": deleted})
        backup = world.directory / "backup.db"
        bench.tally.expect(scdctl(world, "backup", str(backup)).returncode == 0, "the backup failed")
        world.daemon.stop()
        database = world.daemon.state / "scd.db"
        sound = database.read_bytes()
        for _ in range(bench.times):
            for left in world.daemon.state.glob("scd.db*"):
                left.unlink()
            database.write_bytes(_spoil(sound, bench))
            bench.tally.injected += 1
            world.daemon.spawn()
            try:
                world.daemon.wait_until_ready()
                bench.tally.facts["damage that changes nothing that is told"] += 1
            except RuntimeError:
                bench.tally.facts["starts refused"] += 1
                said = world.daemon.log.read_text().splitlines()[-1]
                bench.tally.expect(f"scdctl restore {backup}" in said, f"it does not name the backup: {said}")
                done = scdctl(world, "restore", str(backup))
                bench.tally.expect(done.returncode == 0, f"the restore failed: {done.stderr}")
                world.daemon.start()
            for job_hash, status in world.promised.items():
                told = world.daemon.progress(job_hash)
                bench.tally.expect((told["code"], told["status"]) == (200, status), f"{job_hash}: {told}")
            world.daemon.stop()


def _spoil(sound: bytes, bench: Bench) -> bytes:
    data = bytearray(sound)
    where = bench.rng.randrange(len(data))
    match bench.rng.randrange(4):
        case 0:
            data[where] ^= 1 << bench.rng.randrange(8)
        case 1:
            for _ in range(20):
                data[bench.rng.randrange(len(data))] ^= 0xFF
        case 2:
            page = where // 4096 * 4096
            data[page : page + 4096] = bytes(4096)
        case _:
            del data[where // 4096 * 4096 :]
    return bytes(data)


@experiment(30, "kill -9 at each file-changing call of a start that migrates", full=10**6, sample=6)
def kill_in_a_migration(bench: Bench) -> None:
    """The old schema or the new one, never between; and the backup that was made before is whole."""
    with bench.world() as world:
        database = world.daemon.state / "scd.db"
        before = rows(_FIXTURE)

        def start(inject: str, calls: tuple[str, ...], log: Path) -> None:
            shutil.rmtree(world.daemon.state, ignore_errors=True)
            world.daemon.state.mkdir()
            shutil.copy(_FIXTURE, database)
            world.daemon.spawn(under=["strace", "-D", *options(calls, inject), "-o", str(log)])

        log = world.directory / "clean.trace"
        start("", CHANGES, log)
        world.daemon.wait_until_ready()
        world.daemon.stop(signal.SIGKILL)
        for call, number in bench.some(points(log.read_text(errors="replace"))):
            start(f"signal=KILL:when={number}", (call,), world.directory / "trace")
            eventually(lambda: dead(world) or _answers(world), 20)
            bench.tally.injected += dead(world)
            world.daemon.stop(signal.SIGKILL)
            for path in world.daemon.state.glob("scd.db.schema-1"):
                bench.tally.expect(rows(path) == before, f"{call} {number}: the backup is not what was")
            world.daemon.start()
            world.daemon.stop()
            bench.tally.expect(rows(database) == before, f"{call} {number}: rows were lost or changed")
            bench.tally.expect(scdctl(world, "jobs").returncode == 0, f"{call} {number}: the schema cannot be read")


def _answers(world: World) -> bool:
    with contextlib.suppress(Exception):
        return world.daemon.post("/check_server/").status_code == 200
    return False


def rows(path: Path) -> dict[str, list[str]]:
    """What no start changes: the hashes of the jobs and of their nodes, the tombstones, the ledger."""
    connection = sqlite3.connect(path)
    found = {
        "jobs": "SELECT job_hash || user || design || created FROM jobs ORDER BY 1",
        "nodes": 'SELECT job_hash || step || "index" || n FROM nodes ORDER BY 1',
        "tombstones": "SELECT job_hash || state || deleted FROM tombstones ORDER BY 1",
        "ledger": "SELECT id || user || job_hash || core_seconds FROM ledger ORDER BY 1",
    }
    try:
        return {table: [row[0] for row in connection.execute(sql)] for table, sql in found.items()}
    finally:
        connection.close()
