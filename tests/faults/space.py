"""Disks that are full, and uploads that break off."""

import json
import os
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import httpx2

from ..integration.submission import import_archive
from .bench import Bench, experiment
from .inject import eventually, fill, small_disk
from .world import World

_DISK = 12 * 2**20


def _upload(world: World) -> None:
    """An import that does not fit, or of which the tree does not."""
    size = world.rng.randrange(5, 24) * 2**20
    answer = world.daemon.submit(world.manifest("chain"), import_archive({"big": random.Random(size).randbytes(size)}))
    if world.note(answer, "") is None:
        world.tally.expect(answer.status_code in (503, 507), f"a full disk gave {answer.status_code}: {answer.text}")


def _unpack(world: World) -> None:
    """Small as it comes, too large as it unpacks."""
    size = world.rng.randrange(13, 60) * 2**20
    job_hash = world.note(world.daemon.submit(world.manifest("chain"), import_archive({"big": bytes(size)})), "")
    eventually(lambda: not world.unfinished(), 60)
    if job_hash is not None:
        (row,) = world.daemon.rows("SELECT state, reason FROM jobs WHERE job_hash = ?", job_hash)
        honest = row["state"] in ("rejected", "failed") and "space" in row["reason"]
        world.tally.expect(honest, f"an import that does not fit, unpacked: {row}")


def _run(world: World) -> None:
    """A node that writes until nothing is left, so that its archive has no room either."""
    size = world.rng.randrange(3, 16) * 2**20
    world.submit("work", f"head -c {size} /dev/urandom >outputs/big", "")


def _commit(world: World) -> None:
    """Not a byte is left, while a job runs and another comes."""
    running = world.submit("work", f"sleep {world.rng.uniform(0.2, 1.5):.1f}", "")
    eventually(world.live_nodes, 10)
    filler = world.daemon.state / "filler"
    fill(filler)
    answer = world.daemon.submit(world.manifest("chain"), import_archive())
    if world.note(answer) is None:
        world.tally.expect(answer.status_code in (503, 507), f"a full disk gave {answer.status_code}: {answer.text}")
    if running is not None:
        world.tally.expect(world.daemon.progress(running)["code"] == 200, "a poll was not answered on a full disk")
    time.sleep(world.rng.uniform(0, 2))
    filler.unlink(missing_ok=True)


_CASES: list[Callable[[World], None]] = [_upload, _unpack, _run, _commit]


@experiment(6, "a full disk: in uploads, unpacking, running, archiving, commits", full=80, sample=4)
def full_disk(bench: Bench) -> None:
    with small_disk(bench.directory / "disk", _DISK) as disk, bench.world(state=disk / "state") as world:
        world.daemon.start()
        for number in range(bench.times):
            case = _CASES[number % len(_CASES)]
            case(world)
            bench.tally.injected += 1
            bench.tally.facts[f"full in {case.__name__.strip('_')}"] += 1
            bench.tally.expect(eventually(lambda: not world.unfinished(), 60), f"stuck in {case.__name__}")
            if number % 8 == 7:
                world.daemon.stop()
                world.daemon.start()
            world.settle()
            for job_hash in world.jobs():
                answer = world.daemon.post("/delete_job/", {"job_hash": job_hash})
                bench.tally.expect(answer.status_code == 200, f"a job could not be deleted: {answer.text}")
            after = world.submit("chain")
            bench.tally.expect(after, "no job is taken although there is space again")
            world.settle()
        held = eventually((world.daemon.state / "reserve").exists, 25)
        bench.tally.expect(held, "the reserve was not taken back")
        world.expect_tidy()
        world.daemon.end_everything()


@experiment(7, "uploads that break off", full=100, sample=20)
def aborted_uploads(bench: Bench) -> None:
    with bench.world() as world:
        world.daemon.start()
        files = len(os.listdir(f"/proc/{world.daemon.pid}/fd"))
        for _ in range(bench.times):
            body, kind = _multipart(world)
            cut = bench.rng.randrange(len(body))
            with socket.create_connection(("127.0.0.1", world.daemon.port)) as client, suppress(OSError):
                client.sendall(
                    f"POST /remote_run/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body[:cut]
                )
                time.sleep(bench.rng.uniform(0, 0.05))
            bench.tally.injected += 1
        world.settle()
        world.expect_tidy()
        bench.tally.expect(not world.jobs(), f"jobs came of uploads that broke off: {world.jobs()}")
        closed = eventually(lambda: len(os.listdir(f"/proc/{world.daemon.pid}/fd")) <= files + 2, 10)
        bench.tally.expect(closed, "descriptors are left open")


def _multipart(world: World) -> tuple[bytes, str]:
    files: dict[str, tuple[str, str | bytes]] = {
        "params": ("params", json.dumps({"cfg": world.manifest("chain"), "params": {}})),
        "import": ("import", import_archive({"a": os.urandom(world.rng.randrange(2 * 2**20))})),
    }
    request = httpx2.Request("POST", "http://localhost", files=files)
    return request.read(), request.headers["content-type"]
