"""How the daemon gets at a shim: one shim a job, a socket that only the daemon's account can use. Standard library."""

import contextlib
import fcntl
import os
import socket
import struct
import time
from pathlib import Path

SOCKET = "shim.sock"
_DAEMON_PATIENCE = 10.0
_LOCK_PATIENCE = 10.0


def take_lock(control: Path) -> int:
    """One shim a job. The one before may still be about to end."""
    lock = os.open(control / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return lock


def listen(control: Path) -> socket.socket:
    """Bound below the directory's descriptor, since a socket's path may only have 108 bytes."""
    directory = os.open(control, os.O_PATH | os.O_CLOEXEC)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(control / SOCKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(f"/proc/self/fd/{directory}/{SOCKET}")
    os.close(directory)
    os.chmod(control / SOCKET, 0o600)
    listener.listen(8)
    return listener


def accept(listener: socket.socket, daemon_uid: int) -> socket.socket | None:
    """A connection of the daemon or of root; None for anybody else's."""
    connection, _ = listener.accept()
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid not in (0, os.geteuid(), daemon_uid):
        connection.close()
        return None
    connection.settimeout(_DAEMON_PATIENCE)
    return connection
