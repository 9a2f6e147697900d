"""How the daemon gets at a shim: one shim a job, a socket that only the daemon's account can use. Standard library."""

import contextlib
import fcntl
import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from ..channel import Message

SOCKET = "shim.sock"
_MAX_ORDER = 64 * 2**20
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


class Entrance:
    """The listening socket and the daemon's connections."""

    def __init__(self, control: Path, daemon_uid: int, selector: selectors.BaseSelector, *, shared: bool):
        self._path = control / SOCKET
        self._daemon_uid = daemon_uid
        self._selector = selector
        self._connections: dict[socket.socket, bytearray] = {}
        self.listener = _listen(control, 0o660 if shared else 0o600)
        selector.register(self.listener, selectors.EVENT_READ)

    @property
    def used(self) -> bool:
        """Whether a daemon is connected."""
        return bool(self._connections)

    def owns(self, ready: object) -> TypeGuard[socket.socket]:
        return isinstance(ready, socket.socket) and ready in self._connections

    def accept(self) -> None:
        """Take a connection of the daemon or of root; nobody else's."""
        connection, _ = self.listener.accept()
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid(), self._daemon_uid):
            connection.close()
            return
        connection.settimeout(_DAEMON_PATIENCE)
        self._connections[connection] = bytearray()
        self._selector.register(connection, selectors.EVENT_READ)

    def orders(self, connection: socket.socket) -> Iterator[Message]:
        """What came whole on a connection that can be read."""
        buffer = self._connections[connection]
        try:
            data = connection.recv(2**16)
        except OSError:
            data = b""
        if not data or len(buffer) + len(data) > _MAX_ORDER:
            self._hang_up(connection)
            return
        buffer += data
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            yield json.loads(line)

    def tell(self, connection: socket.socket, message: Message) -> None:
        """A daemon that is gone misses it. What it said before it went is read all the same."""
        try:
            connection.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        except TimeoutError:  # it does not read: no event may wait for it twice
            self._hang_up(connection)
        except OSError:
            return

    def tell_all(self, message: Message) -> None:
        for connection in list(self._connections):
            self.tell(connection, message)

    def close(self) -> None:
        """Nobody is to come any more."""
        self._path.unlink(missing_ok=True)

    def _hang_up(self, connection: socket.socket) -> None:
        if self._connections.pop(connection, None) is not None:
            self._selector.unregister(connection)
            connection.close()


def _listen(control: Path, mode: int) -> socket.socket:
    """Bound below the directory's descriptor, since a socket's path may only have 108 bytes."""
    directory = os.open(control, os.O_PATH | os.O_CLOEXEC)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(control / SOCKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(f"/proc/self/fd/{directory}/{SOCKET}")
    os.close(directory)
    os.chmod(control / SOCKET, mode)
    listener.listen(8)
    return listener
