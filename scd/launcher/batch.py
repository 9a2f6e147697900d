"""The batch job of one attempt: what the shim is to a job on the daemon's machine. Standard library only.

It runs on a compute node, outside the job's sandbox, and writes where the job cannot. Its duties:

1. claim the attempt, and end if it is taken: Slurm can start one batch job twice;
2. start the runner in its sandbox and give it the one order;
3. publish the archive, then the record of the end;
4. end the node when Slurm says so (TERM) or the daemon (the file ``revoked``, or that there is no directory any more):
   TERM, then KILL of the whole tree;
5. show that it lives, by the time of the file ``alive``.

``python -I -S boot.py scd.launcher.batch`` reads its task from its input, one JSON object. What it writes for the
daemon lies in the attempt's own directory, each file whole or not at all. Where jobs have accounts the daemon, whose
are the directories around those of the job, is not trusted by the job's account: see ``pinned``.
"""

import contextlib
import json
import os
import selectors
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..channel import ChannelBroken, Message
from ..procfs import become_subreaper
from .attempts import Attempt
from .claims import claim, held
from .furnish import furnish
from .pinned import hold
from .records import ENDED, STARTED, Records, catch_output
from .remains import own_process
from .results import open_archive, settle
from .runner import RunnerProcess
from .tryout import try_out

_GRACE = 2.5  # between TERM and KILL
_PACKING = 20.0  # for the results of a node that was killed; Slurm itself waits 30 s by default
_SIGNALLED = "ended by a signal from outside"


class Batch:
    def __init__(self, task: dict[str, Any], place: Path, archives: Path, upload: Path, temporary: Path):
        self.place = place
        self.archives = archives
        self.upload = upload
        self.attempt = Attempt(task["order"])
        self.records = Records(place, self.attempt.name)
        self.spec: dict[str, Any] = task["spec"]
        self.temporary = str(temporary)
        self.selector = selectors.DefaultSelector()
        self.runner: RunnerProcess | None = None
        self.lost = ""  # why the runner is gone that ran the node: another one saves its logs
        self.overdue: float | None = None  # when patience with a node that was told to end is over
        self.signalled = False
        self.status: int | None = None
        self.wake, self.wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def run(self) -> int:
        """The exit status of the batch job."""
        signal.signal(signal.SIGTERM, self._on_term)
        signal.set_wakeup_fd(self.wake_end, warn_on_full_buffer=False)
        threading.Thread(target=self.records.beat, args=[self.wake_end], daemon=True).start()
        self._look_for_revocation()
        if self.attempt.killed:
            self._end({"state": "error"})
        else:
            self._launch()
        while self.status is None:
            timeout = None if self.overdue is None else max(0.0, self.overdue - time.monotonic())
            for key, _ in self.selector.select(timeout):
                self._serve(key.fileobj)
            if self.overdue is not None and time.monotonic() >= self.overdue:
                self._lose_patience()
        if self.runner is not None:
            self.runner.stop(self.selector)
        return self.status

    def _serve(self, ready: object) -> None:
        runner = self.runner
        if ready == self.wake:
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake, 2**12)
            self._look_for_revocation()
            if self.signalled or self.attempt.killed:
                self._kill()
        elif runner is not None and ready is runner.channel:
            self._hear(runner)
        elif runner is not None and ready == runner.output.source:
            runner.take_output(self.selector)
        elif runner is not None:
            while self.runner is runner and runner.has_message():  # what it said before it died still counts
                self._hear(runner)
            if self.runner is runner:
                self._lose_runner()

    # -- the runner

    def _launch(self) -> None:
        try:
            with self.attempt.files(self.archives, self.upload) as fds:
                self._to_runner(self.attempt.order, fds)
        except OSError as error:
            self._end({"state": "error", "reason": f"cannot start: {error}"})

    def _to_runner(self, message: Message, fds: tuple[int, ...]) -> None:
        if self.runner is None:
            self.runner = RunnerProcess(self.spec, self.temporary, self.place / "runner.log")
            self.runner.watch(self.selector)
        try:
            self.runner.send(message, fds)
        except ChannelBroken:
            self._lose_runner()

    def _hear(self, runner: RunnerProcess) -> None:
        try:
            runner.hear(self._take_report)
        except ChannelBroken:
            self._lose_runner()

    def _take_report(self, message: Message, fds: list[int]) -> None:
        if message.get("name") != self.attempt.name:
            return
        match message.get("type"):
            case "started" if self.attempt.started is None and not self.lost:
                self.attempt.start(own_process(fds[0]))
                self.records.write(STARTED, {"pid": self.attempt.pid})
                if self.signalled or self.attempt.killed:
                    self._kill()
            case "ended" if not self.lost:
                self._end(message)
            case "salvaged" if self.lost:
                self._end({"state": "error", "reason": self.lost, "archived": message.get("archived")}, lost=True)

    def _lose_runner(self) -> None:
        """The runner is gone, and so is the node. Another one packs what it left behind, once."""
        assert self.runner is not None
        status = self.runner.stop(self.selector)
        self.runner = None
        reason = "the job's runner was killed" if status < 0 else f"the job's runner ended ({status})"
        order = self.attempt.order
        if self.lost or order["op"] != "node":
            self._end({"state": "error", "reason": self.lost or reason}, lost=True)
            return
        self.lost, self.overdue = reason, time.monotonic() + _PACKING
        wanted = {key: order[key] for key in ("name", "step", "index")}
        with contextlib.ExitStack() as stack:
            try:
                fd = open_archive(self.archives, self.attempt.archive)
                stack.callback(os.close, fd)
                self._to_runner({"op": "salvage", **wanted}, (fd,))
            except OSError:
                self._end({"state": "error", "reason": reason}, lost=True)

    # -- the end

    def _on_term(self, *_: object) -> None:
        self.signalled = True

    def _look_for_revocation(self) -> None:
        self.attempt.killed = self.attempt.killed or self.records.revocation()

    def _kill(self) -> None:
        if self.overdue is not None or self.status is not None:
            return
        self.overdue = time.monotonic() + _GRACE
        self.attempt.tell_to_end()

    def _lose_patience(self) -> None:
        attempt = self.attempt
        if self.runner is None:
            return
        if self.lost or attempt.started is None or attempt.overdue:
            self._lose_runner()
            return
        self.overdue = time.monotonic() + _PACKING
        attempt.make_end()

    def _end(self, message: Message, *, lost: bool = False) -> None:
        if self.status is not None:
            return
        archive, message = settle(self.archives, self.attempt.archive, message)
        outcome = self.attempt.outcome(message, lost=lost and not self.signalled)
        failed = outcome["state"] not in ("success", "skipped")
        signalled = self.signalled and failed and not self.attempt.killed
        if signalled:
            outcome["reason"] = outcome["reason"] or _SIGNALLED
        self.records.write(ENDED, {"archive": archive, "signalled": signalled, **outcome})
        self.status = int(failed)


def _run(task: dict[str, Any], stack: contextlib.ExitStack) -> int:
    """The exit status of the batch job."""
    control, inodes = Path(task["control"]), task["inodes"]
    try:
        pinned = hold(stack, control, inodes.get("control"))
        archives, work = (hold(stack, control.with_name(name), inodes.get(name)) for name in ("archives", "work"))
        upload = hold(stack, pinned / ".." / "upload", None)
        place = stack.enter_context(held(pinned / task["place"]))
        if inodes or "elements" in task:  # then Slurm was not to open anything by its path
            catch_output(place)
        ours = claim(place)
    except OSError as error:
        sys.exit(
            f"{control / task['place']}: {error.strerror}. The spool must be a file system that compute nodes share, "
            "at the same path"
        )
    if not ours:
        print("another start of this attempt came first, or it was given up: nothing to do")
        return 0
    become_subreaper()
    temporary, spec = furnish(task, stack), task["spec"]
    if inodes:  # the runner looks for them in the finished sandbox
        shown = ((spec["root"], work.stat()), (spec["env"]["TMPDIR"], temporary.stat()))
        spec["settings"]["places"] = {path: [status.st_dev, status.st_ino] for path, status in shown}
    if "order" not in task:
        return try_out(spec, place / ENDED)
    return Batch(task, place, archives, upload, temporary).run()


def main() -> None:
    task = json.load(sys.stdin)
    if "elements" in task:  # of a job array: one script for all
        own = task["elements"][os.environ["SLURM_ARRAY_TASK_ID"]]
        task["place"] = own["place"]
        task["order"] |= own["order"]
    os.umask(task["umask"])
    with contextlib.ExitStack() as stack:
        sys.exit(_run(task, stack))
