"""With real sockets, as systemd hands them in."""

import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from scd.systemd import listen_fds, notify


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, abstract: bool) -> None:
    name = f"scd-test-{uuid.uuid4().hex}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(30)
        manager.bind("\0" + name if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        notify("READY=1\nSTATUS=2 jobs")
        notify("STOPPING=1")
        assert [manager.recv(1000) for _ in range(2)] == [b"READY=1\nSTATUS=2 jobs", b"STOPPING=1"]


def test_notify_without_a_manager_or_with_one_that_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    for gone in (tmp_path / "nobody", tmp_path / ("x" * 200)):
        monkeypatch.setenv("NOTIFY_SOCKET", str(gone))
        notify("READY=1")


CHILD = """
import os, sys
from scd.systemd import listen_fds
for number, fd in enumerate(sys.argv[2].split(",")):
    os.dup2(int(fd), 3 + number)
os.environ |= {"LISTEN_PID": sys.argv[1] or str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
sockets = listen_fds()
for found in sockets:
    print(found.getsockname(), found.fileno(), found.get_inheritable())
print(sorted(name for name in os.environ if name.startswith("LISTEN_")), len(listen_fds()))
if sockets:
    peer, _ = sockets[0].accept()
    peer.sendall(b"hello")
"""


def start(pid: str, *sockets: socket.socket) -> "subprocess.Popen[str]":
    fds = [found.fileno() for found in sockets]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, pid, ",".join(map(str, fds))], pass_fds=fds, stdout=subprocess.PIPE, text=True
    )


def test_sockets_that_were_handed_in(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "scd.sock"))
        unix.listen()
        # Waits in the backlog until the service is there: a restart refuses no one.
        with socket.create_connection(tcp.getsockname(), timeout=30) as client:
            child = start("", tcp, unix)
            out, _ = child.communicate(timeout=60)
            assert client.recv(100) == b"hello"
        assert child.returncode == 0
        assert out.splitlines() == [
            f"{tcp.getsockname()} 3 False", f"{tmp_path}/scd.sock 4 False", "[] 0",
        ], "the sockets, not inheritable by runners, and claimed once"  # fmt: skip


def test_sockets_for_another_process_are_left_alone() -> None:
    """The variables are inherited by every child of a service."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        child = start("1", one, two)
        out, _ = child.communicate(timeout=60)
    assert out.splitlines() == ["['LISTEN_FDNAMES', 'LISTEN_FDS', 'LISTEN_PID'] 0"]


def test_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    monkeypatch.setenv("LISTEN_FDS", "3")
    assert listen_fds() == []
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "0")
    assert listen_fds() == []
