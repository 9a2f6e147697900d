"""What the daemon tells a service manager that watches it."""

import contextlib
import socket
import sqlite3
import time
from pathlib import Path

from ..harness import Daemon


def heard(manager: socket.socket, seconds: float) -> list[str]:
    """What is said within so many seconds."""
    found, deadline = [], time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        manager.settimeout(left)
        with contextlib.suppress(TimeoutError):
            found.append(manager.recv(4096).decode())
    return found


def test_it_says_that_it_lives_as_long_as_its_scheduler_turns(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        daemon = Daemon(tmp_path / "scd")
        daemon.spawn(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"})
        try:
            daemon.wait_until_ready()
            said: list[str] = []
            deadline = time.monotonic() + 60
            while said.count("WATCHDOG=1") < 3 and time.monotonic() < deadline:
                said += heard(manager, 0.5)
            assert said[0] == "READY=1"
            assert said.count("WATCHDOG=1") >= 3, said
            with contextlib.closing(sqlite3.connect(daemon.state / "scd.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")  # the scheduler's turn now waits, ten seconds at most
                heard(manager, 2)  # what was on its way
                assert "WATCHDOG=1" not in heard(manager, 3), "it says that it lives, and its scheduler does not turn"
                other.execute("ROLLBACK")
            deadline = time.monotonic() + 60
            while "WATCHDOG=1" not in said[-1:] and time.monotonic() < deadline:
                said = heard(manager, 0.5) or ["nothing"]
            assert said[-1] == "WATCHDOG=1", "it did not come back to life"
            daemon.stop()
            assert "STOPPING=1" in heard(manager, 0.5)
        finally:
            daemon.end_everything()


def test_nobody_who_does_not_watch_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        daemon = Daemon(tmp_path / "scd")
        daemon.spawn(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000", "WATCHDOG_PID": "1"})
        try:
            daemon.wait_until_ready()
            assert heard(manager, 1.5) == ["READY=1"]
        finally:
            daemon.end_everything()
