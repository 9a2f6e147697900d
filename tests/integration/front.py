"""What stands in front of scd: certificates, and a real nginx with the shipped sample."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ..harness import ROOT, Daemon, free_port, wait_until

SAMPLE = ROOT / "etc" / "nginx-scd.conf"


def certificate(directory: Path, name: str = "site", *, expired: bool = False) -> tuple[Path, Path]:
    """A self-signed one of localhost, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (Debian: apt-get install openssl)")
    found, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", str(key), "-out", str(found), "-days", "30", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    if expired:
        subprocess.run(
            ["openssl", "x509", "-in", str(found), "-signkey", str(key), "-days", "-1", "-out", str(found)],
            check=True, capture_output=True,
        )  # fmt: skip
    return found, key


class Front(Daemon):
    """A daemon as its clients reach it: by the port of an nginx in front of it."""

    def __init__(self, behind: Daemon, port: int, ca: Path):
        self.behind = behind
        self.port, self.scheme, self.ca = port, "https", ca
        self.log, self.state = behind.log, behind.state


@contextlib.contextmanager
def nginx(directory: Path, daemon: Daemon, upstream: str) -> Iterator[Front]:
    """The shipped sample, its names and paths replaced, and nothing else: as a site does it."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    directory.mkdir()
    certified, key = certificate(directory)
    port = free_port()
    text = SAMPLE.read_text()
    for name, ours in {
        "unix:/run/scd/http.sock;": f"{upstream};",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/scd/fullchain.pem": str(certified),
        "/etc/ssl/scd/key.pem": str(key),
        "/var/lib/scd/spool/jobs": str(daemon.jobs),
    }.items():
        assert name in text, f"the sample has no {name}"
        text = text.replace(name, ours)
    (directory / "scd.conf").write_text(text)
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"user root;\nworker_processes 1;\npid {directory}/pid;\nerror_log {directory}/error.log;\n"
        f"events {{ worker_connections 1024; }}\n"
        f"http {{\naccess_log {directory}/access.log;\n{temporary}include {directory}/scd.conf;\n}}\n"
    )
    process = subprocess.Popen(
        [program, "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log"), "-g", "daemon off;"],
        stdin=subprocess.DEVNULL,
    )
    front = Front(daemon, port, certified)
    try:
        wait_until(lambda: process.poll() is not None or _answers(front), "nginx does not answer")
        assert process.poll() is None, (directory / "error.log").read_text()
        yield front
    finally:
        process.terminate()
        process.wait(10)


def _answers(front: Front) -> bool:
    try:
        return httpx2.get(f"{front.url}/healthz", verify=front.verify, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False
