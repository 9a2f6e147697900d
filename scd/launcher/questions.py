"""What the daemon asks of a node that runs, until the runner has answered. Standard library only."""

import socket
from pathlib import Path

from ..channel import Message
from .entrance import Entrance
from .results import keep


class Questions:
    def __init__(self, archives: Path, entrance: Entrance):
        self._archives = archives
        self._entrance = entrance
        self._open: dict[str, tuple[socket.socket, str | None]] = {}

    def take(self, order: Message, connection: socket.socket) -> str | None:
        """The name of the archive that the answer fills, if it is one."""
        request = str(order["id"])
        file = f"snapshot-{request}.tar.gz" if order["op"] == "snapshot" else None
        self._open[request] = (connection, file)
        return file

    def answer(self, request: str, message: Message) -> None:
        connection, file = self._open.pop(request, (None, None))
        if connection is None:
            return
        if file is not None:
            try:
                message = {**message, "file": keep(self._archives, file, message)}
            except OSError as error:
                message = {"error": str(error)}
        self._entrance.tell(connection, {**message, "id": request})

    def answer_all(self, message: Message) -> None:
        for request in list(self._open):
            self.answer(request, message)
