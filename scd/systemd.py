"""The parts of systemd's protocols that a service needs: notify, watchdog and handed-in sockets."""

import contextlib
import os
import socket

_FIRST_FD = 3


def notify(state: str) -> None:
    """Tell the service manager, if there is one: ``READY=1``, ``STOPPING=1``, ``STATUS=...``."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        contextlib.suppress(OSError),
    ):
        channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def watchdog() -> float | None:
    """Seconds within which the service manager wants to hear of this process again; None if it does not watch."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isascii() and microseconds.isdigit() and int(microseconds) else None


def listen_fds() -> list[socket.socket]:
    """The listening sockets that were handed to this process, which now owns them."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    sockets = [socket.socket(fileno=fd) for fd in range(_FIRST_FD, _FIRST_FD + count)]
    for found in sockets:
        found.set_inheritable(False)
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return sockets


def under_journal() -> bool:
    """Whether standard error goes to the journal, which adds the time itself."""
    return "JOURNAL_STREAM" in os.environ
