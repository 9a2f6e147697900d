"""Attempts of a shim or a batch job, and what an earlier shim of the job left unfinished. Standard library only."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..channel import Message
from ..procfs import ProcessId, boot_id, descends, kill_all, tree
from .journal import Record
from .results import open_archive

_EXTRA = ("plan", "usage", "exit_code", "refused", "timing")


class Attempt:
    """An order that was accepted and has not ended. ``started`` is of this boot's monotonic clock."""

    def __init__(self, order: Message):
        self.order = order
        self.pid: int | None = None
        self.started: float | None = None
        self.killed: tuple[str, str] | None = None  # state and reason of the kill order
        self.overdue = False  # it was killed, and has not ended

    @property
    def name(self) -> str:
        return str(self.order["name"])

    @property
    def archive(self) -> str:
        return str(self.order["archive"])

    def start(self, pid: int | None) -> None:
        """``pid`` is None if it had ended before anyone could look."""
        self.pid, self.started = pid, time.monotonic()

    @contextlib.contextmanager
    def files(self, archives: Path, upload: Path) -> Iterator[tuple[int, ...]]:
        """Descriptors that the runner is given: of the archive to fill, then of what it is to read. Raises OSError."""
        with contextlib.ExitStack() as stack:
            fds = [open_archive(archives, self.archive)]
            stack.callback(os.close, fds[-1])
            for path in (self.order[kind] for kind in ("manifest", "import") if kind in self.order):
                path = upload / os.path.basename(path)
                fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
                stack.callback(os.close, fds[-1])
            yield tuple(fds)

    def tell_to_end(self) -> None:
        """The node's own process alone: SiliconCompiler ends its tool and writes the manifest."""
        if self.pid is not None and descends(self.pid, os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def make_end(self) -> None:
        """The node, with all that it has started."""
        self.overdue = True
        if self.pid is not None and descends(self.pid, os.getpid()):
            kill_all(tree(self.pid))

    def outcome(self, message: Message, *, lost: bool) -> dict[str, Any]:
        """How it ended, from what the runner says and from what the shim did to it.

        ``lost``: it went away with what it lived in. One that was being ended anyway is not lost.
        """
        state, reason = str(message.get("state", "error")), str(message.get("reason", ""))
        if self.killed and state != "success":
            state, reason = self.killed
        elapsed = 0.0 if self.started is None else time.monotonic() - self.started
        extra: dict[str, Any] = {key: message[key] for key in _EXTRA if key in message}
        if lost and not self.killed:
            extra["lost"] = True
        return {"state": state, "reason": reason, "elapsed": elapsed, **extra}


class Leftovers:
    """What the journal of a job tells a new shim about its predecessors."""

    def __init__(self, records: Iterable[Record]):
        self.seen: set[str] = set()
        self.unfinished: dict[str, Attempt] = {}
        self.runner: ProcessId | None = None
        self.temporaries: list[str] = []
        self._boots: dict[str, str] = {}  # in which an attempt was last heard of
        self._boot = boot_id()
        for record in records:
            self._read(record)

    def reason(self, name: str) -> str:
        """Why an unfinished attempt is lost."""
        return "the job's shim was killed" if self._boots[name] == self._boot else "the host was rebooted"

    def _read(self, record: Record) -> None:
        name = record.get("name", "")
        match record["type"]:
            case "accepted":
                self.seen.add(name)
                self.unfinished[name] = Attempt(record["order"])
                self._boots[name] = record["boot"]
            case "started" if name in self.unfinished:
                self._boots[name] = record["boot"]
                self.unfinished[name].started = record["mono"] if record["boot"] == self._boot else None
            case "ended":
                self.unfinished.pop(name, None)
            case "runner":
                self.runner = ProcessId(record["pid"], record["ticks"], record["boot"])
            case "shim":
                self.temporaries.append(record["temporary"])
