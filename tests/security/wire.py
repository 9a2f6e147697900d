"""Raw HTTP over one loopback connection: requests as no client library would send them."""

import contextlib
import socket
import struct
from enum import Enum
from types import TracebackType
from typing import NamedTuple

_TIMEOUT = 15.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Due(Enum):
    """What must come back."""

    ANSWER = "an answer"
    END = "an answer, or the end of the connection"
    NOTHING = "the sender leaves at once"


class Request(NamedTuple):
    """Bytes to send, and what they are for scd."""

    data: bytes
    path: str  # as the description has it
    method: str = "post"
    due: Due = Due.ANSWER


class NoAnswer(Exception):
    """The connection was closed, or nothing came, where an answer was due."""


class Ended(NoAnswer):
    """The connection was closed."""


class Wire:
    """A connection that is kept as long as the server keeps it, and made again when it does not."""

    def __init__(self, port: int):
        self._port = port
        self._socket: socket.socket | None = None
        self._buffer = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            # Reset, not closed: ten thousands of ports would wait for late packets otherwise.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.close()
            self._socket = None

    def exchange(self, request: Request) -> Answer | None:
        """The answer, None where there is none and that is right. Raises NoAnswer."""
        if request.due is Due.NOTHING:
            self._send_and_leave(request)
            return None
        if request.due is Due.END:
            self.close()
            with contextlib.suppress(Ended):
                return self._ask(request)
            self.close()
            return None
        kept = self._socket is not None
        try:
            return self._ask(request)
        except NoAnswer:
            self.close()
            if not kept:
                raise
        return self._ask(request)  # the server had closed the kept connection

    def _ask(self, request: Request) -> Answer:
        connection = self._connected()
        # A server that has refused a request may close before all was sent: its answer is there nevertheless.
        with contextlib.suppress(ConnectionError):
            connection.sendall(request.data)
        answer = self._read(head=request.method == "head")
        if answer.headers.get("connection", "").lower() == "close" or self._buffer:
            self.close()
        return answer

    def _send_and_leave(self, request: Request) -> None:
        self.close()
        connection = self._connected()
        with contextlib.suppress(ConnectionError):
            connection.sendall(request.data)
        if len(request.data) % 2:  # in order, so that the server reads all of it; otherwise by a reset
            connection.close()
            self._socket = None
        self.close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._buffer = b""
            self._socket = socket.create_connection(("127.0.0.1", self._port), _TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _read(self, *, head: bool) -> Answer:
        status = 100
        while status < 200:  # 100 Continue stands before the answer
            while b"\r\n\r\n" not in self._buffer:
                self._receive()
            block, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            first, *lines = block.decode("latin-1").split("\r\n")
            status = int(first.split(" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Answer(status, headers, b"" if head else self._body(headers))

    def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            with contextlib.suppress(NoAnswer):
                while True:
                    self._receive()
            data, self._buffer = self._buffer, b""
            return data
        data = b""
        while True:
            while b"\r\n" not in self._buffer:
                self._receive()
            size, _, self._buffer = self._buffer.partition(b"\r\n")
            data += self._exactly(int(size, 16))
            self._exactly(2)
            if int(size, 16) == 0:
                return data

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(2**16)
        except TimeoutError:
            raise NoAnswer(f"nothing came within {_TIMEOUT:.0f} s") from None
        except ConnectionError as error:
            raise Ended(str(error)) from None
        if not data:
            raise Ended("the connection was closed without an answer")
        self._buffer += data


def post(path: str, body: bytes = b"", *headers: bytes) -> bytes:
    """A whole POST request, as the client sends it: without a Content-Type unless one is given."""
    lines = [b"POST %s HTTP/1.1" % path.encode(), b"Host: localhost", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
