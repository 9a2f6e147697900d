"""The shim's hold on its runner: the process, the channel to it, the proof that it is gone. Standard library only."""

import contextlib
import json
import os
import select
import selectors
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..channel import ChannelBroken, Message, receive, send
from ..procfs import kill_all, tree
from .output import Output
from .seccomp import opened, options

# A runner that neither reads nor finishes a message within this time is taken for dead.
_PATIENCE = 10.0
_DEATH_DEADLINE = 10.0
_SIGNALLED = 128  # a sandbox's exit status for a runner that a signal ended, less the signal's number


class RunnerProcess:
    def __init__(self, spec: dict[str, Any], temporary: str, log: Path):
        """Start it in a session of its own, with one end of the channel as its only descriptor beside the log.

        ``spec`` is the shim's: ``runner`` (its argv), ``sandbox`` (what starts that in a sandbox, or nothing),
        ``settings`` (its first message), ``env`` and ``root``.
        """
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.channel.settimeout(_PATIENCE)
        runner = [*spec["runner"], str(theirs.fileno())]
        self._sandboxed = bool(spec["sandbox"])
        self.output = Output(log)
        with theirs, contextlib.ExitStack() as stack:
            stack.callback(self.output.hand_over)
            inherited = [theirs.fileno()]
            if self._sandboxed:
                info, end = os.pipe()
                stack.callback(os.close, info)
                told = stack.enter_context(open(end, "wb"))
                filters = stack.enter_context(opened())
                inherited += [end, *filters]
                runner = [*spec["sandbox"], *options(filters), "--info-fd", str(end), "--", *runner]
            self._process = subprocess.Popen(
                runner, stdin=subprocess.DEVNULL, stdout=self.output.end, stderr=self.output.end, pass_fds=inherited,
                env={"TMPDIR": temporary, **spec["env"]}, cwd=spec["root"], start_new_session=True,
            )  # fmt: skip
            self.pid = self._process.pid
            if self._sandboxed:
                told.close()
                self.pid = _inner(info) or self.pid
        with contextlib.suppress(ChannelBroken):  # it died at once: its pidfd tells
            self.send(spec["settings"])
        # Not by end of file on the channel: what the runner started may hold its end open.
        self.pidfd = os.pidfd_open(self._process.pid)

    @property
    def child(self) -> int:
        """The shim's own child: the runner, or the sandbox around it."""
        return self._process.pid

    def watch(self, selector: selectors.BaseSelector) -> None:
        selector.register(self.channel, selectors.EVENT_READ, self)
        selector.register(self.pidfd, selectors.EVENT_READ, self)
        selector.register(self.output.source, selectors.EVENT_READ, self)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Raises ChannelBroken."""
        send(self.channel, message, fds)

    def hear(self, take: Callable[[Message, list[int]], None]) -> None:
        """Have its next message taken, with descriptors that are closed afterwards.

        Raises ChannelBroken, also for a message that makes no sense: the job has got at its runner, and may lose it.
        """
        message, fds = receive(self.channel)
        try:
            take(message, fds)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ChannelBroken from error
        finally:
            for fd in fds:
                os.close(fd)

    def take_output(self, selector: selectors.BaseSelector) -> None:
        if not self.output.take() and self.output.source in selector.get_map():
            selector.unregister(self.output.source)  # nobody is left who could print

    def has_message(self) -> bool:
        readable, _, _ = select.select([self.channel], [], [], 0)
        return bool(readable)

    def stop(self, selector: selectors.BaseSelector) -> int:
        """End it with all that it started; its exit status, negative for a signal that was not ours."""
        selector.unregister(self.channel)
        selector.unregister(self.pidfd)
        if self.output.source in selector.get_map():
            selector.unregister(self.output.source)
        self.channel.close()
        os.close(self.pidfd)
        status = self._process.poll()
        kill_all(tree(self.child) if status is None else set())
        kill_all(tree(os.getpid()) - {os.getpid()})  # orphans of the job are children of the shim
        if status is None:
            status = self._process.wait()
        _reap_all()
        self.output.close()
        return _SIGNALLED - status if self._sandboxed and status > _SIGNALLED else status


def _inner(info: int) -> int | None:
    """The runner in the sandbox as the host sees it: pid 1 of a namespace that is empty once it has ended.

    bwrap tells its pid some milliseconds after it was started, or nothing if the sandbox cannot be made.
    """
    text = b""
    while data := os.read(info, 4096):
        text += data
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return int(json.loads(text)["child-pid"])
    return None


def _reap_all() -> None:
    """Wait for what was killed, and kill what it forked meanwhile: when this returns, nothing of the job runs."""
    deadline = time.monotonic() + _DEATH_DEADLINE
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                time.sleep(0.005)
                kill_all(tree(os.getpid()) - {os.getpid()})
