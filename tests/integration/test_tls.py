"""scd's own certificate: the real client over https, what is wrong with a certificate, and who does not shake hands."""

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from ..harness import ROOT, Daemon, run_client, wait_until
from .front import certificate

NewDaemon = Callable[..., Daemon]


def secured(directory: Path, certified: Path, key: Path | str, server: str = "") -> Daemon:
    daemon = Daemon(directory, server=f'tls_certificate = "{certified}"\ntls_key = "{key}"\n{server}')
    daemon.scheme, daemon.ca = "https", certified
    return daemon


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path]) -> Iterator[Daemon]:
    daemon = secured(tmp_path_factory.mktemp("tls") / "scd", *pair)
    yield daemon.start()
    daemon.end_everything()


def check(daemon: Daemon, **environment: str) -> tuple[int, str]:
    """Exit status and message of ``scd --check-config``."""
    done = subprocess.run(
        [sys.executable, "-m", "scd.daemon", "-c", str(daemon.file), "--check-config"], cwd=ROOT,
        capture_output=True, text=True, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stderr + done.stdout


def test_the_real_client_over_https(daemon: Daemon, tmp_path: Path) -> None:
    report = run_client(tmp_path, "chain", daemon)
    assert report["error"] == ""
    assert set(report["statuses"].values()) == {"success"}


def test_a_client_that_does_not_know_the_certificate_sends_nothing(daemon: Daemon, tmp_path: Path) -> None:
    """The real client verifies it: no password goes to a stranger."""
    jobs = len(daemon.rows("SELECT job_hash FROM jobs"))
    known, daemon.ca = daemon.ca, None
    try:
        report = run_client(tmp_path, "chain", daemon)
    finally:
        daemon.ca = known
    assert "CERTIFICATE_VERIFY_FAILED" in report["error"]
    assert len(daemon.rows("SELECT job_hash FROM jobs")) == jobs


def test_nothing_is_said_without_tls(daemon: Daemon) -> None:
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"http://localhost:{daemon.port}/healthz")
    transport = httpx2.HTTPTransport(uds=f"{daemon.state}/scd.sock")
    with httpx2.Client(transport=transport) as administrator:
        assert administrator.get("http://localhost/healthz").status_code == 200, "a Unix socket needs none"


def test_old_protocols_are_refused(daemon: Daemon) -> None:
    assert isinstance(daemon.verify, ssl.SSLContext)
    for version, spoken in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)):
        client = daemon.verify
        client.minimum_version = client.maximum_version = version
        assert handshake(daemon, client) is spoken
    client = daemon.verify
    with warnings.catch_warnings(action="ignore"):  # that it is old
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    assert not handshake(daemon, client)


def handshake(daemon: Daemon, client: ssl.SSLContext) -> bool:
    with socket.create_connection(("127.0.0.1", daemon.port), 10) as raw:
        try:
            client.wrap_socket(raw, server_hostname="localhost").close()
        except (ssl.SSLError, ConnectionError):
            return False
    return True


def test_two_hundred_who_never_shake_hands(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """They count, are ended in time, and keep nobody waiting."""
    daemon = secured(tmp_path / "scd", *pair, server="max_connections = 250").start()
    try:
        with contextlib.ExitStack() as stack:
            begin = time.monotonic()
            silent = [stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), 30)) for _ in range(200)]
            for one in silent[::2]:
                one.sendall(b"\x16\x03\x01\x02\x00")  # the head of a hello, and no more
            wait_until(lambda: descriptors(daemon) > 200, "they were not accepted")
            assert daemon.post("/check_server/").status_code == 200, "somebody waits for the silent ones"
            assert time.monotonic() - begin < 9, "it was answered only when they had been ended"
            for one in silent:
                with contextlib.suppress(ConnectionError):
                    assert one.recv(100) == b"", "it got an answer without a handshake"
            assert time.monotonic() - begin < 25
        wait_until(lambda: descriptors(daemon) < 50, "descriptors are left open")
        assert len(daemon.log.read_text().splitlines()) < 20, "each of them fills the log"
        for _ in range(260):  # their places are free again: more than there are
            with socket.create_connection(("127.0.0.1", daemon.port), 10) as one:
                one.sendall(b"GET / HTTP/1.1\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    one.recv(100)
        assert daemon.post("/check_server/").status_code == 200
    finally:
        daemon.end_everything()


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def test_check_config_says_what_is_wrong(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    certified, key = pair
    other, other_key = certificate(tmp_path, "other")
    expired, expired_key = certificate(tmp_path, "expired", expired=True)
    sealed, junk = tmp_path / "sealed.key", tmp_path / "junk"
    subprocess.run(
        ["openssl", "ec", "-in", str(key), "-aes256", "-passout", "pass:x", "-out", str(sealed)], check=True,
        capture_output=True,
    )  # fmt: skip
    junk.write_text("no certificate")
    cases: list[tuple[Path, Path | str, str]] = [
        (certified, other_key, f"server.tls_key: {other_key} is not the key of {certified}"),
        (certified, tmp_path / "none", f"server.tls_key: {tmp_path}/none cannot be read: No such file or directory"),
        (certified, sealed, f"server.tls_key: {sealed} is encrypted"),
        (junk, key, f"server.tls_certificate: {junk} or its key {key} is no PEM file"),
        (expired, expired_key, f"server.tls_certificate: {expired}: certificate has expired"),
        (certified, "", "server.tls_key: is missing, and there is a tls_certificate"),
    ]
    for number, (first, second, expected) in enumerate(cases):
        status, message = check(secured(tmp_path / str(number), first, second))
        assert status == 78, message
        assert expected in message
    assert check(secured(tmp_path / "good", other, other_key))[0] == 0


def test_an_expired_certificate_does_not_keep_jobs_from_running(tmp_path: Path) -> None:
    daemon = secured(tmp_path / "scd", *certificate(tmp_path, "expired", expired=True))
    daemon.spawn()
    try:
        wait_until(lambda: "listening on" in daemon.log.read_text(), "it did not start")
        assert "certificate has expired" in daemon.log.read_text()
    finally:
        daemon.end_everything()


def test_a_key_among_systemds_credentials(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    daemon = secured(tmp_path / "scd", pair[0], Path(pair[1].name))
    assert check(daemon, CREDENTIALS_DIRECTORY=str(pair[1].parent))[0] == 0
    status, message = check(daemon)
    assert status == 78
    assert "has no directory, and systemd hands in no credentials" in message
