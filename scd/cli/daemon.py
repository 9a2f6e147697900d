"""Asking the running daemon, by its Unix socket."""

import http.client
import json
import socket
from typing import Any
from urllib.parse import quote

from ..config import Config
from ..errors import Forbidden, NotRunning, ScdError

_DEADLINE = 20.0


class DaemonDown(ScdError):
    """scd is not running."""

    exit_code = 3


class NotAllowed(ScdError):
    """Only root and scd's own account can do this."""

    exit_code = 4


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, deadline: float):
        super().__init__("localhost", timeout=deadline)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(config: Config, method: str, *path: str, query: str = "", deadline: float = _DEADLINE) -> dict[str, Any]:
    """The daemon's answer. Raises DaemonDown, NotAllowed, NotRunning (any 404) or ScdError with its message."""
    if not config.unix_sockets:
        raise DaemonDown("[server] listen has no unix: address, and scdctl speaks to scd by one.")
    where = config.unix_sockets[0]
    connection = _UnixConnection(where, deadline)
    try:
        connection.request(method, "/" + "/".join(quote(part, safe="") for part in path) + query)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    except PermissionError:
        raise NotAllowed(f"{where} cannot be opened by this account. Use root's or scd's.") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DaemonDown(f"scd does not answer at {where}: {error}. Is it running?") from None
    finally:
        connection.close()
    said = str(answer.get("message") or answer.get("reason") or response.reason)
    if response.status == Forbidden.http_status:
        raise NotAllowed(said)
    if response.status == NotRunning.http_status:
        raise NotRunning(said)
    if response.status != 200:
        raise ScdError(said)
    return answer
