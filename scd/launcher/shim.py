"""The shim: one a job, beside it, outliving the daemon. Standard library only.

It holds the runner and the sandbox around it, passes the daemon's orders on, stamps and fsyncs every event into the
job's journal, opens the archive files and gives the runner only their descriptors. Its duties:

1. take orders from the daemon, one JSON line each, on ``shim.sock``;
2. start the runner when an order needs it, and again after it died;
3. write down what the runner reports; publish an archive before the end that it belongs to;
4. end nodes: TERM, then KILL of the whole tree;
5. after a death, its predecessor's or the runner's, end each node that was lost with its reason and save its logs.

``python -I -S boot.py scd.launcher.shim CONTROL_DIRECTORY [FD FD]`` prints its pid once it takes orders. An order is
known by its attempt's name; a name that was once accepted is never run again. The descriptors are of the directories
control and archives: then the daemon has another account, and could rename what lies above them.
"""

import contextlib
import json
import os
import selectors
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..channel import ChannelBroken, Message
from ..procfs import identify
from .attempts import Attempt, Leftovers
from .cage import Cage
from .deadlines import Deadlines
from .detach import announce, detach
from .entrance import Entrance, take_lock
from .journal import Journal, read
from .pinned import pin
from .questions import Questions
from .remains import clear, own_process, reap
from .results import open_archive, settle
from .runner import RunnerProcess

SPEC = "shim.json"
_NEWS = {"journal": True}
# Without a daemon and without work for so long, nobody will ask for this runner again: a resume starts a new one.
_IDLE = 3600.0
_WAKE = 5.0  # orphans are reaped at least this often
_PACKING = 120.0  # for the results of a node that was killed
_RETRY = 1.0  # between attempts to write what a full disk did not take


class Shim:
    def __init__(self, control: Path, archives: Path | None = None):
        """``archives`` if the spec's path is not to be trusted; neither is then what it says of others."""
        self.control = control
        self.spec: dict[str, Any] = json.loads((control / SPEC).read_text())
        self.archives = archives or Path(self.spec["archives"])
        self.cage = Cage(self.spec["cgroup"])
        if not self.spec["shared"]:  # the launcher has put it there, where it is root that may
            self.cage.enter()
        self.selector = selectors.DefaultSelector()
        self.attempts: dict[str, Attempt] = {}
        self.deferred: list[Attempt] = []  # accepted, but that is not on the disk yet: a full one makes them wait
        self.lost: dict[str, tuple[Attempt, str]] = {}
        self.seen: set[str] = set()
        self.kills = Deadlines()
        self.runner: RunnerProcess | None = None
        self.closing = False
        os.umask(0o027 if self.spec["shared"] else 0o077)  # shared: a daemon of another account reads as the group
        self.lock = take_lock(control)
        self.journal = Journal(control)
        # A sandbox shows the job's own directory as /tmp. Without one it must be short, for sockets: their paths may
        # only have 108 bytes, and the job's directory lies deep.
        self.temporary = self.spec["temporary"] or tempfile.mkdtemp(prefix="scd-")
        if archives is not None:
            self.temporary = str(control / ".." / os.path.basename(self.temporary))
        self.entrance = Entrance(control, self.spec["daemon_uid"], self.selector, shared=self.spec["shared"])
        self.questions = Questions(self.archives, self.entrance)

    def run(self) -> None:
        self._take_over()
        busy = time.monotonic()
        while True:
            if self.attempts or self.lost or self.entrance.used:
                busy = time.monotonic()
            done = not (self.attempts or self.lost or self.journal.pending)
            if done and (self.closing or time.monotonic() - busy > _IDLE):
                break
            for key, _ in self.selector.select(self.kills.left(_RETRY if self.journal.pending else _WAKE)):
                self._serve(key.fileobj, key.data)
            self._write_pending()
            reap(besides=self.runner.child if self.runner is not None else None)
            self._kill_overdue()
        if self.runner is not None:
            self.runner.stop(self.selector)
        self.journal.close()
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.entrance.close()

    def _serve(self, ready: object, runner: RunnerProcess | None) -> None:
        """``runner``: whose event it is. One that died in this round may have left another, with the same numbers."""
        if ready is self.entrance.listener:
            self.entrance.accept()
            self.entrance.tell_all(_NEWS)  # of what was written between its look at the journal and now
        elif self.entrance.owns(ready):
            for order in self.entrance.orders(ready):
                self._obey(order, ready)
        elif runner is None or runner is not self.runner:
            return
        elif ready is runner.channel:
            self._hear_runner(runner)
        elif ready == runner.output.source:
            runner.take_output(self.selector)
        else:
            while self.runner is runner and runner.has_message():  # what it said before it died still counts
                self._hear_runner(runner)
            if self.runner is runner:
                self._lose_runner()

    def _take_over(self) -> None:
        """What earlier shims of this job left unfinished is lost; its processes are ended."""
        records, _ = read(self.control)
        left = Leftovers(records)
        me = identify(os.getpid())
        assert me is not None
        self.journal.append("shim", pid=me.pid, ticks=me.ticks, temporary=self.temporary)
        clear(left.runner, left.temporaries)
        os.makedirs(self.temporary, mode=0o700, exist_ok=True)
        self.seen = left.seen
        self.lost = {name: (attempt, left.reason(name)) for name, attempt in left.unfinished.items()}
        self._salvage_lost()

    # -- the daemon's side

    def _record(self, kind: str, **fields: Any) -> bool:
        """Whether it is on the disk. The daemon hears of it then, not before."""
        if not self.journal.append(kind, **fields):
            return False
        self.entrance.tell_all(_NEWS)
        return True

    def _write_pending(self) -> None:
        if self.journal.pending and self.journal.flush():
            self.entrance.tell_all(_NEWS)
        if not self.journal.pending:  # whoever wrote it
            deferred, self.deferred = self.deferred, []
            for attempt in deferred:
                self._launch(attempt)

    def _obey(self, order: Message, connection: socket.socket) -> None:
        match order["op"]:
            case "prepare" | "node":
                self._start(order)
            case "kill":
                self._kill(order)
            case "snapshot" | "tail":
                self._ask(order, connection)
            case "exit":
                self.closing = True

    # -- attempts

    def _start(self, order: Message) -> None:
        name = order["name"]
        if name in self.seen or self.closing:
            return
        self.seen.add(name)
        attempt = self.attempts[name] = Attempt(order)
        if self._record("accepted", name=name, order=order):
            self._launch(attempt)
        else:
            self.deferred.append(attempt)

    def _launch(self, attempt: Attempt) -> None:
        try:
            with attempt.files(self.archives, self.control / ".." / "upload") as fds:
                self._to_runner(attempt.order, fds)
        except OSError as error:
            self._end(self.attempts.pop(attempt.name), {"state": "error", "reason": f"cannot start: {error}"})

    def _end(self, attempt: Attempt, message: Message, *, lost: bool = False) -> None:
        if message.get("state", "error") == "error" and (shortage := self.cage.shortage()):
            message = {**message, "reason": shortage}
        archive, message = settle(self.archives, attempt.archive, message)
        self._record("ended", name=attempt.name, archive=archive, **attempt.outcome(message, lost=lost))

    # -- the runner's side

    def _to_runner(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        if self.runner is None:
            self.runner = RunnerProcess(self.spec, self.temporary, self.control / "runner.log")
            self.runner.watch(self.selector)
            identity = identify(self.runner.pid)
            self._record("runner", pid=self.runner.pid, ticks=identity.ticks if identity else 0)
        try:
            self.runner.send(message, fds)
        except ChannelBroken:
            self._lose_runner()

    def _to_runner_with_archive(self, message: Message, name: str) -> None:
        fd = open_archive(self.archives, name)
        try:
            self._to_runner(message, (fd,))
        finally:
            os.close(fd)

    def _hear_runner(self, runner: RunnerProcess) -> None:
        try:
            runner.hear(self._take_report)
        except ChannelBroken:
            self._lose_runner()

    def _take_report(self, message: Message, fds: list[int]) -> None:
        name = str(message.get("name", ""))
        match message.get("type"):
            case "started" if name in self.attempts and self.attempts[name].started is None:
                pid = own_process(fds[0])
                self.attempts[name].start(pid)
                self._record("started", name=name, pid=pid)
            case "ended" if name in self.attempts:
                self._end(self.attempts.pop(name), message)
            case "salvaged" if name in self.lost:
                attempt, reason = self.lost.pop(name)
                outcome = {"state": "error", "reason": reason, "archived": message.get("archived")}
                self._end(attempt, outcome, lost=True)
            case "reply":
                self.questions.answer(str(message["id"]), message)

    def _lose_runner(self) -> None:
        """The runner is gone: so is all that lived in it."""
        assert self.runner is not None
        status = self.runner.stop(self.selector)
        self.runner = None
        reason = "the job's runner was killed" if status < 0 else f"the job's runner ended ({status})"
        for name in list(self.lost):  # a runner that dies while it saves logs is not tried again
            attempt, first = self.lost.pop(name)
            self._end(attempt, {"state": "error", "reason": first}, lost=True)
        waiting = {attempt.name: attempt for attempt in self.deferred}
        self.lost = {name: (attempt, reason) for name, attempt in self.attempts.items() if name not in waiting}
        self.attempts = waiting
        self.questions.answer_all({"error": reason})
        self._salvage_lost()

    def _salvage_lost(self) -> None:
        """Ask a new runner for an archive of what each lost node left behind."""
        for name, (attempt, reason) in list(self.lost.items()):
            if attempt.order["op"] == "node":
                order = {key: attempt.order[key] for key in ("name", "step", "index")}
                with contextlib.suppress(OSError):
                    self._to_runner_with_archive({"op": "salvage", **order}, attempt.archive)
                    continue
            if self.lost.pop(name, None) is not None:  # a runner that died of it has ended it already
                self._end(attempt, {"state": "error", "reason": reason}, lost=True)

    # -- questions about a node that runs

    def _ask(self, order: Message, connection: socket.socket) -> None:
        file = self.questions.take(order, connection)
        try:
            if file is None:
                self._to_runner(order)
            else:
                self._to_runner_with_archive(order, file)
        except OSError as error:
            self.questions.answer(str(order["id"]), {"error": str(error)})

    # -- ending nodes

    def _kill(self, order: Message) -> None:
        for name in order["names"]:
            attempt = self.attempts.get(name)
            if attempt is None:
                if name in self.lost:  # its logs are being saved: not for ever
                    self.kills.add(name, _PACKING)
                continue
            attempt.killed = attempt.killed or (order["state"], order["reason"])
            attempt.tell_to_end()
            self.kills.add(name, float(order["grace"]))

    def _kill_overdue(self) -> None:
        for name in self.kills.overdue():
            attempt = self.attempts.get(name)
            if attempt is None:
                if name in self.lost:
                    self._lose_runner()
            elif attempt in self.deferred:
                self.deferred.remove(attempt)
                self._end(self.attempts.pop(name), {"state": "error"})
            elif attempt.started is None or attempt.overdue:
                self._lose_runner()  # it does not get to the node, or to packing its results
            else:
                self.kills.add(name, _PACKING)
                attempt.make_end()


def main() -> None:
    places = pin(*map(int, sys.argv[2:])) if sys.argv[2:] else (Path(sys.argv[1]),)
    os.umask(0o077)
    detach()
    shim = Shim(*places)
    announce()
    shim.run()
