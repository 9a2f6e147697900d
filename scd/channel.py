"""Messages with descriptors between a shim and its runner: length, JSON, and SCM_RIGHTS. Standard library only."""

import json
import os
import socket
import struct
from typing import Any

Message = dict[str, Any]

_LENGTH = struct.Struct(">I")
_MAX_MESSAGE = 64 * 2**20
_MAX_FDS = 8


class ChannelBroken(Exception):
    """The other side is gone, or what it says makes no sense."""


def send(channel: socket.socket, message: Message, fds: tuple[int, ...] = ()) -> None:
    """Raises ChannelBroken if the other side is gone or does not read."""
    payload = json.dumps(message, separators=(",", ":")).encode()
    try:
        socket.send_fds(channel, [_LENGTH.pack(len(payload))], list(fds))
        channel.sendall(payload)
    except OSError as error:
        raise ChannelBroken(str(error)) from None


def receive(channel: socket.socket) -> tuple[Message, list[int]]:
    """The next message and its descriptors, which the caller closes. Raises ChannelBroken."""
    fds: list[int] = []
    try:
        head, fds, _, _ = socket.recv_fds(channel, _LENGTH.size, _MAX_FDS)
        for fd in fds:  # as every descriptor that Python opens; this one came from another process
            os.set_inheritable(fd, False)
        if not head:
            raise ChannelBroken("closed")
        head += _exactly(channel, _LENGTH.size - len(head))
        (length,) = _LENGTH.unpack(head)
        if length > _MAX_MESSAGE:
            raise ChannelBroken(f"a message of {length} bytes")
        message = json.loads(_exactly(channel, length))
        if not isinstance(message, dict):
            raise ChannelBroken("not an object")
    except (OSError, ValueError, RecursionError, ChannelBroken) as error:
        for fd in fds:
            os.close(fd)
        raise error if isinstance(error, ChannelBroken) else ChannelBroken(str(error)) from None
    return message, fds


def _exactly(channel: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = channel.recv(min(size, 2**20))
        if not part:
            raise ChannelBroken("closed in the middle of a message")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
