"""The shim's hold on its runner: the process, the channel to it, the proof that it is gone. Standard library only."""

import contextlib
import os
import select
import selectors
import socket
import subprocess
from pathlib import Path
from typing import Any

from ..channel import ChannelBroken, Message, receive, send
from ..procfs import kill_all, tree

# A runner that neither reads nor finishes a message within this time is taken for dead.
_PATIENCE = 10.0


class RunnerProcess:
    def __init__(self, spec: dict[str, Any], temporary: str, log: Path):
        """Start it in a session of its own, with one end of the channel as its only descriptor beside the log.

        ``spec`` is the shim's: ``runner`` (its argv), ``settings`` (its first message), ``env`` and ``root``.
        """
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.channel.settimeout(_PATIENCE)
        with theirs, open(log, "ab") as output:
            self._process = subprocess.Popen(
                [*spec["runner"], str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(theirs.fileno(),),
                env=spec["env"] | {"TMPDIR": temporary}, cwd=spec["root"], start_new_session=True,
            )  # fmt: skip
        with contextlib.suppress(ChannelBroken):  # it died at once: its pidfd tells
            self.send(spec["settings"])
        # Not by end of file on the channel: what the runner started may hold its end open.
        self.pidfd = os.pidfd_open(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def watch(self, selector: selectors.BaseSelector) -> None:
        selector.register(self.channel, selectors.EVENT_READ, self)
        selector.register(self.pidfd, selectors.EVENT_READ, self)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Raises ChannelBroken."""
        send(self.channel, message, fds)

    def receive(self) -> Message:
        """The next message. A runner has no descriptors to give. Raises ChannelBroken."""
        message, fds = receive(self.channel)
        for fd in fds:
            os.close(fd)
        return message

    def has_message(self) -> bool:
        readable, _, _ = select.select([self.channel], [], [], 0)
        return bool(readable)

    def stop(self, selector: selectors.BaseSelector) -> int:
        """End it with all that it started; its exit status, negative for a signal that was not ours."""
        selector.unregister(self.channel)
        selector.unregister(self.pidfd)
        self.channel.close()
        os.close(self.pidfd)
        status = self._process.poll()
        kill_all(tree(self.pid) if status is None else set())
        kill_all(tree(os.getpid()) - {os.getpid()})  # orphans of the job are children of the shim
        return self._process.wait() if status is None else status
