"""Clients that hold what they do not use: half requests, slow bodies, endless headers, too many connections."""

import contextlib
import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from ..harness import ROOT, Daemon, wait_until
from .submission import collected, import_archive, leftovers, manifest

NewDaemon = Callable[..., Daemon]
HEAD = b"POST /check_server/ HTTP/1.1\r\nHost: localhost\r\n"
UPLOAD = (
    b"POST /remote_run/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
)
IN_TIME = 15.0


@contextlib.contextmanager
def connections(daemon: Daemon, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """So many connections, each with the beginning of a request."""
    made = []
    try:
        for _ in range(count):
            made.append(socket.create_connection(("127.0.0.1", daemon.port), 10))
            made[-1].sendall(data)
        yield made
    finally:
        for one in made:
            one.close()


def ended(sockets: list[socket.socket], timeout: float) -> list[bytes]:
    """What each got before its end, of those that were ended in time."""
    got = dict.fromkeys(sockets, b"")
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ, one)
        found: list[bytes] = []
        while len(found) < len(sockets) and time.monotonic() < deadline:
            for key, _ in selector.select(0.2):
                one = key.data
                try:
                    data = one.recv(65536)
                except ConnectionError:
                    data = b""
                got[one] += data
                if not data:
                    selector.unregister(one)
                    found.append(got[one])
    return found


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def poll_times(daemon: Daemon, job_hash: str, count: int = 30) -> list[float]:
    """Seconds that check_progress takes, each on a connection of its own."""
    times = []
    for _ in range(count):
        begin = time.monotonic()
        assert daemon.progress(job_hash)["code"] == 200
        times.append(time.monotonic() - begin)
    return times


def test_five_hundred_half_requests_and_a_hundred_half_bodies(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = daemon.submit(manifest("chain"), import_archive()).json()["job_hash"]
    daemon.wait(job_hash)
    before = descriptors(daemon)
    begin = time.monotonic()
    with connections(daemon, 500, HEAD) as heads, connections(daemon, 100, UPLOAD + b"--b\r\n") as bodies:
        assert max(poll_times(daemon, job_hash)) < 5, "the service stalls"
        answers = ended([*heads, *bodies], IN_TIME - (time.monotonic() - begin))
        assert time.monotonic() - begin < IN_TIME + 1
    assert len(answers) == 600, "some were not ended in time"
    assert sum(answer.startswith(b"HTTP/1.1 408 ") for answer in answers) == 600, "each is told why"
    assert json.loads(answers[0].partition(b"\r\n\r\n")[2])["success"] is False
    wait_until(lambda: descriptors(daemon) <= before + 1, "descriptors are left open")
    assert leftovers(daemon.state / "spool") == []


def test_a_body_that_trickles(new_daemon: NewDaemon) -> None:
    """Ten bytes a second keep no connection; neither does what comes behind an answer that was given already."""
    daemon = new_daemon()
    begin = time.monotonic()
    with connections(daemon, 1, UPLOAD) as (slow,), connections(daemon, 1, UPLOAD + b"xxx") as (answered,):
        assert answered.recv(65536).startswith(b"HTTP/1.1 400 ")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begin < IN_TIME:
                slow.sendall(b"-")
                answered.sendall(b"-")
                time.sleep(0.1)
        assert time.monotonic() - begin < IN_TIME
        assert all(not one or b" 408 " in one for one in ended([slow, answered], 3))


def test_an_upload_just_above_the_rate_is_taken(new_daemon: NewDaemon) -> None:
    """For longer than the deadlines: slow is no fault."""
    daemon = new_daemon(server="min_rate = 2000")
    content = json.dumps({"cfg": manifest("chain")}).encode()
    archive = import_archive({"f": os.urandom(40_000)})
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n%s\r\n' % part
        for part in ((b"params", content), (b"import", archive))
    ) + b"--b--\r\n"  # fmt: skip
    head = UPLOAD.replace(b"10000000", b"%d" % len(body))
    with connections(daemon, 1, head + body[: len(content)]) as (slow,):
        rest = body[len(content) :]
        for at in range(0, len(rest), 1500):
            slow.sendall(rest[at : at + 1500])
            time.sleep(0.5)
        slow.settimeout(10)
        assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("data", [b"X: ", HEAD + b"X: ", HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: "])
def test_headers_without_end(daemon: Daemon, data: bytes) -> None:
    """In front of a body and behind it: they would be kept in memory."""
    with connections(daemon, 1, HEAD.partition(b"\r\n")[0] + b"\r\n" + data if data == b"X: " else data) as (endless,):
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 50_000_000:
                endless.sendall(b"x" * 65536)
                sent += 65536
        assert sent < 20_000_000, "it took all of it"


ASK = HEAD + b"Content-Length: 0\r\n\r\n"


def answer(one: socket.socket, timeout: float) -> bytes:
    """Empty if there is none in time."""
    one.settimeout(timeout)
    try:
        return one.recv(65536)
    except TimeoutError:
        return b""


def test_too_many_connections_from_one_address_wait(new_daemon: NewDaemon) -> None:
    """A client asks for its results once, and takes a refusal for an answer: so it is kept waiting."""
    daemon = new_daemon(server="max_connections_per_address = 20")
    with connections(daemon, 20, HEAD) as held, connections(daemon, 2, ASK) as (first, second):
        assert answer(first, 1) == b""
        with socket.create_connection(("127.0.0.1", daemon.port), 10, source_address=("127.0.0.2", 0)) as other:
            other.sendall(ASK)
            assert answer(other, 10).startswith(b"HTTP/1.1 200 "), "another address has its own"
        held[0].close()
        assert answer(first, 10).startswith(b"HTTP/1.1 200 "), "the place that was left is not given"
        assert answer(second, 0.5) == b"", "more than there may be"
        first.close()
        assert answer(second, 10).startswith(b"HTTP/1.1 200 ")


def test_who_waits_gives_way_to_others(new_daemon: NewDaemon) -> None:
    """One address with more connections than there are places keeps nobody out."""
    daemon = new_daemon(server="max_connections = 40\nmax_connections_per_address = 20")
    with connections(daemon, 40, HEAD) as sockets:
        wait_until(lambda: descriptors(daemon) > 45, "not all of them were accepted")
        with socket.create_connection(("127.0.0.1", daemon.port), 10, source_address=("127.0.0.2", 0)) as other:
            other.sendall(ASK)
            assert answer(other, 8).startswith(b"HTTP/1.1 200 ")
        (told,) = ended(sockets, 0.5)
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"more than 20 connections from your address" in told


def test_who_waits_and_leaves_takes_no_place(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(server="max_connections_per_address = 2")
    with connections(daemon, 2, HEAD) as held:
        with connections(daemon, 30, ASK):
            wait_until(lambda: descriptors(daemon) > 35, "they were not accepted")
        wait_until(lambda: descriptors(daemon) < 30, "those who left are still there")
        held[0].close()
        with connections(daemon, 1, ASK) as (late,):
            assert answer(late, 10).startswith(b"HTTP/1.1 200 ")


def test_who_comes_too_late_waits(new_daemon: NewDaemon) -> None:
    """A refused connection ends the client's run; one that is not answered is tried again."""
    daemon = new_daemon(server="max_connections = 20")
    with connections(daemon, 20, HEAD) as held:
        late = socket.create_connection(("127.0.0.1", daemon.port), 10)
        late.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
        late.settimeout(1)
        with pytest.raises(TimeoutError):
            late.recv(1)
        held[0].close()
        late.settimeout(5)
        assert late.recv(65536).startswith(b"HTTP/1.1 200 ")
        late.close()


def test_few_descriptors(tmp_path: Path) -> None:
    """128 in all, and 300 who want one: it goes on, says little, and is well again."""
    daemon = Daemon(tmp_path / "scd")
    try:
        with open(daemon.log, "ab") as log:
            daemon.process = subprocess.Popen(
                [sys.executable, "-m", "scd.daemon", "-c", str(daemon.file)], stdout=log, stderr=log, cwd=ROOT,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)),
            )  # fmt: skip
        daemon.wait_until_ready()
        with connections(daemon, 300, HEAD):
            time.sleep(3)
            assert descriptors(daemon) < 110
        wait_until(lambda: httpx2.get(f"{daemon.url}/healthz", timeout=15).status_code == 200, "it is not well again")
        assert len(daemon.log.read_text().splitlines()) < 20
        job_hash = daemon.submit(manifest("chain"), import_archive()).json()["job_hash"]
        assert daemon.wait(job_hash)["status"] == "completed"
    finally:
        daemon.end_everything()


def test_large_manifests_do_not_fill_the_memory(new_daemon: NewDaemon) -> None:
    """Of strangers who never come to the end: each may send as much as the largest manifest has."""
    daemon = new_daemon()
    before = memory(daemon)
    start = UPLOAD.replace(b"10000000", b"110000000") + b'--b\r\nContent-Disposition: form-data; name="params"\r\n\r\n'
    with connections(daemon, 8, start) as senders:
        for sender in senders:
            sender.sendall(b"x" * 100_000_000)
        assert memory(daemon) < before + 100_000_000
        assert leftovers(daemon.state / "spool") == [], "nothing that a crash could leave"


def test_a_large_manifest_arrives_whole(daemon: Daemon) -> None:
    cfg = manifest("chain")
    cfg["comment"] = "x" * 5_000_000
    job_hash = daemon.submit(cfg, import_archive()).json()["job_hash"]
    assert json.loads((daemon.job_directory(job_hash) / "upload" / "manifest-1.json").read_text()) == cfg


def test_readers_that_do_not_read_do_not_fill_the_memory(new_daemon: NewDaemon) -> None:
    """Of a large result, which each of them asks for; polls are answered meanwhile."""
    daemon = new_daemon()
    options = ("script=head -c 30000000 /dev/urandom >big", "threads=1")
    job_hash = daemon.submit(manifest("work", *options), collected("work", *options)).json()["job_hash"]
    assert daemon.wait(job_hash)["status"] == "completed"
    body = json.dumps({"job_hash": job_hash, "node": "work0"}).encode()
    ask = (
        f"POST /get_results/{job_hash}.tar.gz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    before, files = memory(daemon), descriptors(daemon)
    with connections(daemon, 150, ask) as readers:
        for reader in readers:
            reader.settimeout(60)
            assert reader.recv(1000).startswith(b"HTTP/1.1 200 ")
        poll_times(daemon, job_hash, 10)
        assert memory(daemon) < before + 45_000_000
    wait_until(lambda: descriptors(daemon) <= files + 1, "descriptors are left open")


def memory(daemon: Daemon) -> int:
    """Bytes of resident memory."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
