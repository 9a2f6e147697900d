"""What a poll takes while the daemon is full: slow connections, pollers, a large upload and large manifests at once.

``python -m tests.bench.load [--help]``, or ``make load``. Every poll is a connection of its own, as the client makes
them, and each poller has an address of its own. Two shapes:

- ``asked``: every poller asks of an ended job once a second. The server answers at once; what is measured is the time
  from the connection's beginning to the answer's end.
- ``held``: every poller asks of an unfinished job and at once again, as clients do. The server holds these answers back
  for some seconds; what is measured is how much later than that they come, and what an ``asked`` poll takes meanwhile.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import random
import resource
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from scd.units import format_size, parse_size
from scd.web.progress import HOLD

from ..harness import Daemon, Json, wait_until
from ..integration.submission import collected, import_archive, manifest

_PATIENCE = 10.0  # seconds, the client's own
_HELD_JOBS = 20
_PROBES_PER_SECOND = 10
_BETWEEN_MANIFESTS = 2.0
_HALF_HEAD = b"POST /check_server/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
_PADDING = "x" * 400


@dataclasses.dataclass
class Plan:
    pollers: int = 500
    slow: int = 500
    upload: int = 2 * 2**30  # bytes
    manifest: int = 11_000_000  # bytes
    seconds: float = 30.0
    shape: str = "asked"


@dataclasses.dataclass
class Report:
    """Times in seconds. An error is any answer but 200, or none in time."""

    latencies: list[float] = dataclasses.field(default_factory=list)
    overdue: list[float] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)
    lags: list[float] = dataclasses.field(default_factory=list)  # of the generator itself
    uploads: list[float] = dataclasses.field(default_factory=list)
    manifests: list[float] = dataclasses.field(default_factory=list)
    slow_ended: int = 0
    descriptors: list[int] = dataclasses.field(default_factory=list)  # each second
    memory: list[int] = dataclasses.field(default_factory=list)  # bytes, each second


class Load:
    def __init__(self, daemon: Daemon, plan: Plan):
        self._daemon = daemon
        self._plan = plan
        self._target = ("127.0.0.1", daemon.port)
        self._addresses = (f"127.1.{number // 250}.{number % 250 + 1}" for number in itertools.count())
        self._ends = 0.0
        self.report = Report()

    async def run(self, asked: str, held: list[str]) -> Report:
        """Poll the ended job ``asked`` and the unfinished jobs ``held``, beside all the rest."""
        plan = self._plan
        self._ends = time.monotonic() + plan.seconds
        tasks = [self._slow() for _ in range(plan.slow)]
        if plan.shape == "held":
            tasks += [self._poll_held(held[number % len(held)]) for number in range(plan.pollers)]
            tasks += [self._poll(asked, 1 / _PROBES_PER_SECOND)]
        else:
            tasks += [self._poll(asked, 1.0) for _ in range(plan.pollers)]
        tasks += [self._watch(), self._lag()]
        if plan.upload:
            tasks.append(self._upload())
        if plan.manifest:
            tasks.append(self._manifests())
        await asyncio.gather(*tasks)
        return self.report

    @property
    def _over(self) -> bool:
        return time.monotonic() >= self._ends

    # -- polls

    async def _poll(self, job_hash: str, interval: float) -> None:
        address, request = next(self._addresses), _request(job_hash)
        due = time.monotonic() + random.random() * interval
        while not self._over:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            begin = time.monotonic()
            if await self._ask(address, request):
                self.report.latencies.append(time.monotonic() - begin)
            due = max(due + interval, time.monotonic())

    async def _poll_held(self, job_hash: str) -> None:
        address, request = next(self._addresses), _request(job_hash)
        await asyncio.sleep(random.random() * HOLD)
        while not self._over:
            begin = time.monotonic()
            if await self._ask(address, request):
                self.report.overdue.append(max(0.0, time.monotonic() - begin - HOLD))

    async def _ask(self, address: str, request: bytes) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE), self._connection(address) as one:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(one, request)
                answer = b""
                while data := await loop.sock_recv(one, 65536):
                    answer += data
        except (OSError, TimeoutError) as error:
            self.report.errors.append(f"{type(error).__name__}: {error}")
            return False
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.report.errors.append(answer[:60].decode(errors="replace"))
            return False
        return True

    @contextlib.asynccontextmanager
    async def _connection(self, address: str) -> AsyncIterator[socket.socket]:
        with socket.socket() as one:
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            one.bind((address, 0))
            await asyncio.get_running_loop().sock_connect(one, self._target)
            yield one

    # -- what makes it hard

    async def _slow(self) -> None:
        """A header a letter a second, from a new connection whenever the server has ended one."""
        address = next(self._addresses)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(random.random())
        while not self._over:
            with contextlib.suppress(OSError):
                async with self._connection(address) as one:
                    await loop.sock_sendall(one, _HALF_HEAD)
                    while not self._over:
                        await asyncio.sleep(1)
                        await loop.sock_sendall(one, b"x")
            self.report.slow_ended += not self._over

    async def _upload(self) -> None:
        """A large import, as fast as it is taken, again and again."""
        while not self._over:
            begin = time.monotonic()
            await asyncio.to_thread(self._send_upload)
            self.report.uploads.append(time.monotonic() - begin)

    def _send_upload(self) -> None:
        with tempfile.TemporaryFile() as file:
            file.truncate(self._plan.upload)
            self._submit(json.dumps({"cfg": manifest("chain")}).encode(), file.fileno(), self._plan.upload)

    async def _manifests(self) -> None:
        padded = await asyncio.to_thread(_padded, self._plan.manifest)
        while not self._over:
            begin = time.monotonic()
            await asyncio.to_thread(self._submit, padded, None, 0)
            self.report.manifests.append(time.monotonic() - begin)
            await asyncio.sleep(_BETWEEN_MANIFESTS)

    def _submit(self, params: bytes, file: int | None, size: int) -> None:
        """remote_run on a plain socket; the import is a file's content, or a few bytes. Blocks."""
        head, small = _part(b"params") + params + b"\r\n" + _part(b"import"), b"" if file is not None else b"no archive"
        end = b"\r\n--b--\r\n"
        length = len(head) + len(small) + size + len(end)
        with socket.create_connection(self._target, 60) as one:
            one.sendall(
                b"POST /remote_run/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n" % length
            )
            one.sendall(head + small)
            if file is not None:
                with open(os.dup(file), "rb") as content:
                    one.sendfile(content)
            one.sendall(end)
            answer = one.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.report.errors.append(answer[:60].decode(errors="replace"))

    # -- watching

    async def _watch(self) -> None:
        while not self._over:
            self.report.descriptors.append(len(os.listdir(f"/proc/{self._daemon.pid}/fd")))
            self.report.memory.append(memory(self._daemon.pid))
            await asyncio.sleep(1)

    async def _lag(self) -> None:
        while not self._over:
            begin = time.monotonic()
            await asyncio.sleep(0.05)
            self.report.lags.append(time.monotonic() - begin - 0.05)


_BIND_ADDRESS_NO_PORT = 24  # the kernel chooses the port by both ends: there are enough of them then


def _request(job_hash: str) -> bytes:
    body = json.dumps({"job_hash": job_hash, "job_id": "job0"}).encode()
    head = b"POST /check_progress/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def _part(name: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n' % (name, name)


def _padded(size: int) -> bytes:
    """A manifest of that many bytes: of many small values, as real ones are."""
    cfg = manifest("chain")
    cfg["padding"] = {f"{number:06}": {"node": {"*": {"*": {"value": _PADDING}}}} for number in range(size // 450)}
    return json.dumps({"cfg": cfg}).encode()


def memory(pid: int) -> int:
    """Bytes of resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def ended_job(daemon: Daemon) -> str:
    job_hash: str = daemon.submit(manifest("chain"), import_archive()).json()["job_hash"]
    daemon.wait(job_hash)
    return job_hash


_RUNNING = "SELECT 1 FROM jobs WHERE job_hash = ? AND state = 'running'"


def unfinished_jobs(daemon: Daemon, count: int = _HELD_JOBS) -> list[str]:
    """As many run as there are cores; the others wait for one."""
    options = ("script=sleep 600", "threads=1")
    cfg, archive = manifest("work", *options), collected("work", *options)
    made = [daemon.submit(cfg, archive).json()["job_hash"] for _ in range(count)]
    wait_until(lambda: daemon.rows(_RUNNING, made[0]), "not prepared", 120)
    return made


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def quantiles(values: list[float]) -> str:
    """In milliseconds."""
    if not values:
        return "none"
    ordered = sorted(values)
    at = {name: ordered[min(len(ordered) - 1, int(len(ordered) * q))] for name, q in _QUANTILES.items()}
    return f"{len(ordered)}; " + ", ".join(f"{name} {value * 1000:.0f}" for name, value in at.items()) + " ms"


_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def show(plan: Plan, report: Report, before: tuple[int, int], after: tuple[int, int]) -> None:
    print(f"{plan.shape}: {plan.pollers} pollers and {plan.slow} slow connections for {plan.seconds:.0f} s")
    print(f"  errors               {len(report.errors)} {sorted(set(report.errors))[:5] or ''}")
    print(f"  answered at once     {quantiles(report.latencies)}")
    if report.overdue:
        print(f"  held, overdue        {quantiles(report.overdue)}")
    print(f"  generator's own lag  {quantiles(report.lags)}")
    print(f"  slow connections ended by the server  {report.slow_ended}")
    print(f"  uploads of {format_size(plan.upload)}  {[round(value, 1) for value in report.uploads]} s")
    print(f"  manifests of {plan.manifest / 1e6:.0f} MB  {[round(value, 2) for value in report.manifests]} s")
    print(f"  descriptors          {before[0]} before, {max(report.descriptors)} at most, {after[0]} after")
    sizes = (before[1], report.memory[len(report.memory) // 2], max(report.memory), after[1])
    print("  memory               {} before, {} half way, {} at most, {} after".format(*map(format_size, sizes)))
    print(f"  load of the machine  {' '.join(map(str, os.getloadavg()))} on {os.cpu_count()} cores", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="load", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=["asked", "held", "both"], default="both")
    parser.add_argument("--pollers", type=int, default=500)
    parser.add_argument("--slow", type=int, default=500)
    parser.add_argument("--upload", type=parse_size, default=2 * 2**30, help="bytes of the import; 0: none")
    parser.add_argument("--manifest", type=int, default=11_000_000, help="bytes of the manifest; 0: none")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    given: Json = vars(parser.parse_args())
    shapes = ["asked", "held"] if given["shape"] == "both" else [given["shape"]]
    rounds = given.pop("rounds")
    with tempfile.TemporaryDirectory(prefix="scd-load-") as directory, many_descriptors():
        for number, shape in itertools.product(range(rounds), shapes):
            daemon = Daemon(Path(directory) / f"{shape}{number}").start()
            try:
                measure(daemon, Plan(**{**given, "shape": shape}))
            finally:
                daemon.end_everything()


def measure(daemon: Daemon, plan: Plan) -> None:
    asked, held = ended_job(daemon), unfinished_jobs(daemon) if plan.shape == "held" else []
    before = (len(os.listdir(f"/proc/{daemon.pid}/fd")), memory(daemon.pid))
    report = asyncio.run(Load(daemon, plan).run(asked, held))
    time.sleep(2)
    show(plan, report, before, (len(os.listdir(f"/proc/{daemon.pid}/fd")), memory(daemon.pid)))


if __name__ == "__main__":
    main()
