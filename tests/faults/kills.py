"""Deaths at random instants: of the daemon, of shim and daemon together; restarts; forged pids."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import httpx2

from ..harness import start_client
from .bench import Bench, experiment
from .inject import alive, eventually, kill
from .world import PROOF, Canaries, World

_FLOWS = ("workers", "workers", "work", "fan", "lint", "chain")


@experiment(1, "kill -9 of the daemon at a random instant of real flows", full=500, sample=12)
def kill_the_daemon(bench: Bench) -> None:
    with Canaries(bench.tally), bench.world('[local]\ncores = 4\n[limits]\nretention = "1000d"\n') as world:
        world.daemon.start()
        for _ in range(bench.times):
            if len(world.unfinished()) < 4:
                world.submit_aside(bench.rng.choice(_FLOWS), f"sleep 0.{bench.rng.randrange(10)}")
            time.sleep(bench.rng.uniform(0, 0.9))
            live = world.live_nodes()
            world.daemon.stop(signal.SIGKILL)
            bench.tally.injected += 1
            world.join()
            world.daemon.start()
            world.expect_adopted(live)
        world.settle()
        world.expect_tidy()


@experiment(2, "restart beside a live node, the listening socket handed in", full=60, sample=4)
def restart_with_a_held_socket(bench: Bench) -> None:
    """Who polls notices a pause. Only a request in flight at a SIGKILL is cut off."""
    with (
        bench.world("[local]\ncores = 4\n") as world,
        socket.create_server(("127.0.0.1", world.daemon.port), backlog=256) as held,
    ):
        world.daemon.spawn(held=held)
        world.daemon.wait_until_ready()
        pollers = Pollers(world)
        for number in range(bench.times):
            if len(world.unfinished()) < 2:
                world.submit("work", "sleep 2")
            time.sleep(bench.rng.uniform(0, 0.8))
            pollers.cut_allowed = number % 2 == 1
            live = world.live_nodes()
            world.daemon.stop(signal.SIGKILL if pollers.cut_allowed else signal.SIGTERM)
            bench.tally.injected += 1
            world.daemon.spawn(held=held)
            world.daemon.wait_until_ready()
            world.expect_adopted(live)
            pollers.cut_allowed = False
        outcomes = pollers.stop()
        bench.tally.facts.update({f"polls {what}": count for what, count in outcomes.items()})
        told = {what for what in outcomes if what not in ("answered", "timed out", "cut off by SIGKILL")}
        bench.tally.expect(not told, f"clients were told otherwise: {told}")
        world.settle()
        world.expect_tidy()


class Pollers:
    """Four clients that each poll with a new connection each time, as the real one does: half of them a job."""

    def __init__(self, world: World):
        self.cut_allowed = False
        self._world = world
        self._outcomes: Counter[str] = Counter()
        self._stopping = False
        self._threads = [threading.Thread(target=self._poll, args=(number,)) for number in range(4)]
        for thread in self._threads:
            thread.start()

    def _poll(self, number: int) -> None:
        while not self._stopping:
            job_hash = next(reversed(self._world.promised), None) if number % 2 else None
            path, body = ("check_progress", {"job_hash": job_hash}) if job_hash else ("check_server", {})
            try:
                answer = httpx2.post(f"{self._world.daemon.url}/{path}/", content=json.dumps(body), timeout=10)
                self._outcomes["answered" if answer.status_code == 200 else f"answered {answer.status_code}"] += 1
            except httpx2.ConnectError:
                self._outcomes["refused"] += 1
            except httpx2.TimeoutException:
                self._outcomes["timed out"] += 1  # the client tries these again
            except httpx2.TransportError:
                self._outcomes["cut off by SIGKILL" if self.cut_allowed else "cut off by SIGTERM"] += 1
            time.sleep(0.02)

    def stop(self) -> Counter[str]:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        return self._outcomes


@experiment(2, "restart beside a live node, binding the port anew", full=20, sample=2)
def restart_and_bind(bench: Bench) -> None:
    with bench.world("[local]\ncores = 4\n") as world:
        world.daemon.start()
        for _ in range(bench.times):
            world.submit("work", "sleep 2")
            eventually(world.live_nodes, 10)
            live = world.live_nodes()
            world.daemon.stop(bench.rng.choice((signal.SIGKILL, signal.SIGTERM)))
            bench.tally.injected += 1
            bench.tally.expect(live, "no node was live at the kill")
            try:
                world.daemon.start()
            except RuntimeError as error:
                bench.tally.expect(False, str(error))
                return
            world.expect_adopted(live)
        world.settle()


@experiment(2, "orderly restarts under the real client", full=10, sample=1)
def restart_under_the_client(bench: Bench) -> None:
    """The unmodified client's run goes through as if nothing had been."""
    with (
        bench.world("[local]\ncores = 4\n") as world,
        socket.create_server(("127.0.0.1", world.daemon.port), backlog=256) as held,
    ):
        world.daemon.spawn(held=held)
        world.daemon.wait_until_ready()
        for number in range(bench.times):
            directory = bench.directory / f"client{number}"
            client = start_client(directory, "work", world.daemon, f"script={PROOF.format(then='sleep 3')}")
            eventually(world.live_nodes, 30)
            for _ in range(2):
                time.sleep(bench.rng.uniform(0, 0.5))
                world.daemon.stop(signal.SIGTERM)
                bench.tally.injected += 1
                world.daemon.spawn(held=held)
            out, _ = client.communicate(timeout=120)
            report = json.loads((directory / "report.json").read_text())
            good = not report["error"] and set(report["statuses"].values()) == {"success"}
            bench.tally.expect(good, f"the client's run: {report}\n{out}")
            bench.tally.acknowledged += 1
        world.settle()


@experiment(37, "shim and daemon killed together", full=60, sample=3)
def kill_shim_and_daemon(bench: Bench) -> None:
    """What was live is lost, and says so; it is never started a second time beside what may live on."""
    with Canaries(bench.tally), bench.world("[local]\ncores = 4\n") as world:
        world.daemon.start()
        for _ in range(bench.times):
            world.submit(bench.rng.choice(("workers", "work")), "sleep 2", "")
            time.sleep(bench.rng.uniform(0, 2))
            live = world.live_nodes()
            victims = ["shim"] if bench.rng.random() < 0.5 else ["shim", "runner"]
            kill(pid for _, records in world.journals() for pid in keepers(records, victims))
            world.daemon.stop(signal.SIGKILL)
            bench.tally.injected += 1
            world.daemon.start()
            bench.tally.facts["live nodes at a kill"] += len(live)
            gone = eventually(lambda: not any(map(alive, live)), 15)  # noqa: B023 - called in this round
            bench.tally.expect(gone, f"a lost node runs on: {live}")
        world.settle()
        world.expect_logs()
        for row in world.daemon.rows("SELECT reason FROM attempts WHERE lost = 1"):
            bench.tally.facts[f"attempts lost: {row['reason']}"] += 1
        world.expect_tidy()


@experiment(37, "runner, shim or daemon killed, with retries, and resumes in between", full=60, sample=4)
def kill_with_retries(bench: Bench) -> None:
    """What was lost starts again, once nothing of it runs; a job that ended is resumed, whole or in part."""
    with bench.world("[local]\ncores = 4\n[dispatch]\nretries = 9\n") as world:
        world.retries = 9
        world.daemon.start()
        for _ in range(bench.times):
            job_hash = world.submit("work", "sleep 0.5")
            assert job_hash is not None
            time.sleep(bench.rng.uniform(0, 1.5))
            victim = bench.rng.choice(("runner", "shim", "daemon"))
            if victim == "daemon":
                world.daemon.stop(signal.SIGKILL)
                world.daemon.start()
            else:
                kill(pid for _, records in world.journals() for pid in keepers(records, [victim]))
            bench.tally.injected += 1
            bench.tally.facts[f"{victim}s killed"] += 1
            eventually(lambda: not world.unfinished(), 60)
            for to in bench.rng.choice(((), ("get", ""), ("",))):
                answer = world.daemon.submit(world.again(job_hash, to), None, job_hash=job_hash)
                bench.tally.expect(answer.status_code == 200, f"a resume was refused: {answer.text}")
                bench.tally.facts["resumes"] += 1
                eventually(lambda: not world.unfinished(), 60)
        world.settle()
        for row in world.daemon.rows("SELECT name FROM attempts WHERE state <> 'success' AND lost = 0"):
            bench.tally.expect(False, f"{row['name']} failed, and nothing of it was lost")
        world.expect_tidy()


def keepers(records: list[dict[str, object]], kinds: list[str]) -> list[int]:
    """The newest processes of these kinds that a journal names."""
    found = []
    for kind in kinds:
        pids = [int(str(record["pid"])) for record in records if record["type"] == kind]
        found += [pid for pid in pids[-1:] if b"scd." in command_line(pid)]
    return found


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@experiment(26, "pids in the journal that are foreign processes'", full=60, sample=4)
def forge_pids(bench: Bench) -> None:
    """After a crash or a reboot a pid may be anybody's: boot and start time must agree before a signal is sent."""
    with Canaries(bench.tally, 12) as foreign, bench.world("[local]\ncores = 4\n") as world:
        world.daemon.start()
        for _ in range(bench.times):
            job_hash = world.submit("work", "sleep 300", "failed")
            if job_hash is None or not eventually(lambda: any("." in n for _, n in world.live_nodes().values()), 15):
                continue
            eventually(lambda: any(job_hash in place for place in world.proofs()), 15)  # noqa: B023
            world.daemon.stop(signal.SIGKILL)
            kill(keepers(world.daemon.journal(job_hash), ["shim", "runner"]))
            file = world.daemon.job_directory(job_hash) / "control" / "events.jsonl"
            file.write_text("".join(_forge(line, foreign, bench) for line in file.read_text().splitlines()))
            bench.tally.injected += 1
            world.daemon.start()
            if bench.rng.random() < 0.5:
                world.daemon.post("/cancel_job/", {"job_hash": job_hash})
                world.promised[job_hash] = ""
            eventually(lambda: not world.unfinished(), 30)
        world.settle()


def _forge(line: str, foreign: list[int], bench: Bench) -> str:
    record = json.loads(line)
    if "pid" in record:
        record["pid"] = bench.rng.choice(foreign)
        if "ticks" in record and bench.rng.random() < 0.5:  # of that very process, but in another boot
            record["ticks"] = int(Path(f"/proc/{record['pid']}/stat").read_text().rpartition(")")[2].split()[19])
            record["boot"] = "00000000-0000-4000-8000-000000000000"
    return json.dumps(record) + "\n"


@experiment(31, "a second daemon on the same state directory", full=20, sample=2)
def start_twice(bench: Bench) -> None:
    with bench.world() as world:
        first = world.daemon
        first.start()
        for number in range(1, bench.times + 1):
            world.submit("chain")
            holder = first.process
            first.spawn()
            second = first.process
            bench.tally.injected += 1
            assert second is not None
            assert holder is not None
            code = second.wait(30)
            said = [line for line in first.log.read_text().splitlines() if line.startswith("scd: ")]
            named = len(said) == number and f"is in use by another scd (pid {holder.pid})" in said[-1]
            bench.tally.expect(code == 1 and named, f"the second daemon ended with {code}: {said[-1:]}")
            first.process = holder
        world.settle()
    with bench.world() as world:  # both at the same instant: one of them, whichever
        for _ in range(bench.times):
            world.daemon.spawn()
            one = world.daemon.process
            world.daemon.spawn()
            two = world.daemon.process
            assert one is not None
            assert two is not None
            bench.tally.injected += 1
            eventually(lambda: one.poll() is not None or two.poll() is not None, 20)  # noqa: B023
            left = [process for process in (one, two) if process.poll() is None]
            bench.tally.expect(len(left) == 1, f"{len(left)} of two daemons started at once are left")
            for process in left:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
        world.daemon.process = None
