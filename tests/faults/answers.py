"""What clients are told: of failures, of strangers' hashes, of repeated submissions, while scd stops."""

import json
import os
import secrets
import signal
import time

from ..harness import run_client
from ..integration.submission import import_archive
from .bench import Bench, experiment
from .inject import Strace, alive, eventually
from .world import PROOF


@experiment(8, "jobs that fail beside jobs that succeed", full=20, sample=2)
def failures(bench: Bench) -> None:
    """Told apart at the end, after a restart, after their deletion."""
    with bench.world() as world:
        world.daemon.start()
        for _ in range(bench.times):
            world.submit("lint", "true", "failed", "rtl=bad")
            world.submit("lint")
            world.submit("work", "exit 3", "failed")
            bench.tally.injected += 2
            world.settle()
        world.daemon.stop(signal.SIGKILL)
        world.daemon.start()
        world.settle()
        for job_hash in world.jobs():
            world.daemon.post("/delete_job/", {"job_hash": job_hash})
        world.settle()
        world.daemon.stop()
        world.daemon.start()
        world.settle()


@experiment(9, "polls for jobs that never were", full=200, sample=20)
def unknown_hashes(bench: Bench) -> None:
    with bench.world() as world:
        world.daemon.start()
        world.submit("chain")
        for number in range(bench.times):
            for path in ("check_progress", "cancel_job", "delete_job", f"get_results/{secrets.token_hex(16)}.tar.gz"):
                answer = world.daemon.post(f"/{path}/", {"job_hash": secrets.token_hex(16)})
                bench.tally.expect(answer.status_code == 404, f"{path} of an unknown job: {answer.status_code}")
            bench.tally.injected += 1
            if number == bench.times // 2:
                world.daemon.stop(signal.SIGKILL)
                world.daemon.start()
        world.settle()


@experiment(18, "an answer that comes after the client has given it up", full=6, sample=1)
def late_answers(bench: Bench) -> None:
    """The real client posts again, without a file: it is given the job of its first request."""
    with bench.world() as world:
        world.daemon.start()
        for number in range(bench.times):
            call = ("fdatasync", "rename")[number % 2]
            before = set(world.jobs())
            trace = Strace(world.daemon.pid, world.directory / "trace", [call], "delay_enter=12000000:when=1")
            script = PROOF.format(then=f"true {number}")
            report = run_client(world.directory / f"client{number}", "work", world.daemon, f"script={script}")
            bench.tally.injected += "(DELAYED)" in trace.stop()
            bench.tally.acknowledged += 1
            made = set(world.jobs()) - before
            bench.tally.expect(len(made) == 1, f"one run of the client made {len(made)} jobs")
            good = not report["error"] and set(report["statuses"].values()) == {"success"}
            bench.tally.expect(good, f"the client's run: {report}")
            bench.tally.facts["seconds of the client's runs"] += round(report["wall"])
        world.settle()


@experiment(18, "the same params with other RTL", full=20, sample=2)
def edited_rtl(bench: Bench) -> None:
    with bench.world() as world:
        world.daemon.start()
        for number in range(bench.times):
            cfg = world.manifest("chain")
            first = world.note(world.daemon.submit(cfg, import_archive({"top.v": b"// %d" % number})))
            second = world.note(world.daemon.submit(cfg, import_archive({"top.v": b"// %d edited" % number})))
            bench.tally.injected += 1
            bench.tally.expect(first and second and first != second, f"an edited design gave {first}, {second}")
        world.settle()


@experiment(25, "stops, hang-ups and cancels at random instants", full=60, sample=4)
def stops(bench: Bench) -> None:
    for config, number in (("keep", bench.times - bench.times // 2), ("cancel", bench.times // 2)):
        with bench.world(f'[local]\ncores = 4\non_stop = "{config}"\n') as world:
            world.daemon.start()
            for _ in range(number):
                world.submit("workers", "sleep 1", "completed" if config == "keep" else "")
                time.sleep(bench.rng.uniform(0, 1.5))
                os.kill(world.daemon.pid, signal.SIGHUP)
                time.sleep(bench.rng.uniform(0, 0.1))
                bench.tally.expect(alive(world.daemon.pid), "scd ended at a SIGHUP")
                live = world.live_nodes()
                begin = time.monotonic()
                status = world.daemon.stop(signal.SIGTERM)
                bench.tally.injected += 1
                took = time.monotonic() - begin
                bench.tally.expect(status == 0 and took < 15, f"SIGTERM: exit status {status} after {took:.1f} s")
                if config == "cancel":
                    gone = eventually(lambda: not any(map(alive, live)), 1)  # noqa: B023 - called in this round
                    bench.tally.expect(gone, "a node runs on although stops cancel")
                world.daemon.start()
                if config == "keep":
                    world.expect_adopted(live)
            world.settle()
            for job_hash, state in world.jobs().items():
                bench.tally.facts[f"{config}: {state}"] += 1
                right = ("completed",) if config == "keep" else ("completed", "canceled")
                bench.tally.expect(state in right, f"{job_hash} is {state} although stops {config}")
                told = world.daemon.progress(job_hash)
                bench.tally.expect(told["status"] == state, f"{job_hash} is {state}: {json.dumps(told)}")
            world.expect_tidy()
