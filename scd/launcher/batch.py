"""The batch job of one attempt: what the shim is to a job on the daemon's machine. Standard library only.

It runs on a compute node, outside the job's sandbox, and writes where the job cannot. Its duties:

1. claim the attempt, and end if it is taken: Slurm can start one batch job twice;
2. start the runner in its sandbox and give it the one order;
3. publish the archive, then the record of the end;
4. end the node when Slurm says so (TERM) or the daemon (the file ``revoked``): TERM, then KILL of the whole tree;
5. show that it lives, by the time of the file ``alive``.

``python -I -S boot.py scd.launcher.batch`` reads its task from its input, one JSON object. What it writes for the
daemon lies in the attempt's own directory, each file whole or not at all. Where jobs have accounts the daemon, whose
are the directories around those of the job, is not trusted by the job's account: see ``hold``.
"""

import contextlib
import errno
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ..channel import ChannelBroken, Message
from ..durable import open_plain, replace
from ..procfs import become_subreaper, boot_id, descends, kill_all, tree
from .attempts import Attempt
from .claims import REVOKED, claim, held
from .remains import own_process
from .results import discard, open_archive, publish
from .runner import RunnerProcess
from .tryout import try_out

ALIVE, STARTED, ENDED, OUTPUT = "alive", "started.json", "ended.json", "output"
# In the sandbox's arguments: directories of the node's own, known only there. The first is its /tmp.
TEMPORARY_MARK, ETC_MARK = "{temporary}", "{etc}"

_BEAT = 5.0  # seconds between two signs of life, and two looks for a revocation
_GRACE = 2.5  # between TERM and KILL
_PACKING = 20.0  # for the results of a node that was killed; Slurm itself waits 30 s by default
_RETRY = 5.0  # between attempts to write a record that a full disk did not take
_SIGNALLED = "ended by a signal from outside"


class Batch:
    def __init__(self, task: dict[str, Any], place: Path, archives: Path, upload: Path, temporary: Path):
        self.place = place
        self.archives = archives
        self.upload = upload
        self.attempt = Attempt(task["order"])
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
        threading.Thread(target=self._beat, daemon=True).start()
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
        order = self.attempt.order
        with contextlib.ExitStack() as stack:
            fds: list[int] = []
            try:
                fds.append(open_archive(self.archives, self.attempt.archive))
                stack.callback(os.close, fds[-1])
                for upload in (order[kind] for kind in ("manifest", "import") if kind in order):
                    path = self.upload / os.path.basename(upload)
                    fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
                    stack.callback(os.close, fds[-1])
                self._to_runner(order, tuple(fds))
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
                self._write(STARTED, {"pid": self.attempt.pid})
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
        if self.attempt.killed:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with open(open_plain(self.place / REVOKED), "rb") as file:
                order = json.loads(file.read())
            self.attempt.killed = (str(order["state"]), str(order["reason"]))

    def _kill(self) -> None:
        """The node's own process alone: SiliconCompiler ends its tool and writes the manifest."""
        if self.overdue is not None or self.status is not None:
            return
        self.overdue = time.monotonic() + _GRACE
        pid = self.attempt.pid
        if pid is not None and descends(pid, os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _lose_patience(self) -> None:
        attempt = self.attempt
        if self.runner is None:
            return
        if self.lost or attempt.started is None or attempt.overdue:
            self._lose_runner()
            return
        attempt.overdue, self.overdue = True, time.monotonic() + _PACKING
        if attempt.pid is not None and descends(attempt.pid, os.getpid()):
            kill_all(tree(attempt.pid))

    def _end(self, message: Message, *, lost: bool = False) -> None:
        if self.status is not None:
            return
        archive = None
        try:
            if message.get("archived"):
                archive = publish(self.archives, self.attempt.archive)
            else:
                discard(self.archives, self.attempt.archive)
        except OSError as error:  # a success whose results nobody can have is none
            discard(self.archives, self.attempt.archive)
            message = {**message, "state": "error", "reason": f"its results could not be kept: {error.strerror}"}
            message.pop("plan", None)
        outcome = self.attempt.outcome(message, lost=lost and not self.signalled)
        failed = outcome["state"] not in ("success", "skipped")
        signalled = self.signalled and failed and not self.attempt.killed
        if signalled:
            outcome["reason"] = outcome["reason"] or _SIGNALLED
        self._write(ENDED, {"archive": archive, "signalled": signalled, **outcome})
        self.status = int(failed)

    def _write(self, name: str, fields: dict[str, Any]) -> None:
        """A record, on the disk when this returns. A full disk makes it wait: without a record the node never ended."""
        record = {
            "type": name.removesuffix(".json"), "name": self.attempt.name, "at": time.time(), "mono": time.monotonic(),
            "boot": boot_id(), "host": socket.gethostname(), "job": _job(), **fields,
        }  # fmt: skip
        aside = self.place / f".{name}"
        complained = False
        while True:
            try:
                aside.write_text(json.dumps(record, separators=(",", ":")))
                replace(aside, self.place / name)
            except OSError as error:
                if not complained:
                    print(f"{self.place / name} cannot be written, and is tried again: {error}", file=sys.stderr)
                complained = True
                time.sleep(_RETRY)
            else:
                return

    def _beat(self) -> None:
        """In a thread of its own: a shared directory may answer late, and the node goes on meanwhile."""
        while True:
            with contextlib.suppress(OSError):
                (self.place / ALIVE).touch()
            with contextlib.suppress(OSError):
                if (self.place / REVOKED).exists():
                    os.write(self.wake_end, b"\0")
            time.sleep(_BEAT)


def hold(stack: contextlib.ExitStack, directory: Path, inode: int | None) -> Path:
    """A path that leads to a directory whatever is renamed from now on. Raises OSError.

    ``inode`` is what ``scd-launcher`` saw there when it submitted, as the job's account, which alone can have it then:
    who has the directories above it could put a link in its place, to the account's own files. Devices differ from
    machine to machine.
    """
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    status = os.fstat(fd)
    if inode is not None and (status.st_ino, status.st_uid) != (inode, os.geteuid()):
        raise OSError(errno.ESTALE, "another directory is there", str(directory))
    return Path(f"/proc/self/fd/{fd}")


def furnish(task: dict[str, Any], stack: contextlib.ExitStack) -> Path:
    """Make what the sandbox shows of this node's disk, and name it in the sandbox's arguments; the job's /tmp."""
    own = Path(tempfile.mkdtemp(prefix="scd-"))
    stack.callback(shutil.rmtree, own, ignore_errors=True)
    temporary, etc = own / "tmp", own / "etc"
    for directory in (temporary, etc):
        directory.mkdir(mode=0o700)
    for name, text in task["etc"].items():
        (etc / name).write_text(text)
        (etc / name).chmod(0o444)
    spec = task["spec"]
    marks = {TEMPORARY_MARK: str(temporary), ETC_MARK: str(etc)}
    for mark, place in marks.items():
        spec["sandbox"] = [
            place + part.removeprefix(mark) if part.startswith(mark) else part for part in spec["sandbox"]
        ]
    return temporary


def _run(task: dict[str, Any], stack: contextlib.ExitStack) -> int:
    """The exit status of the batch job."""
    control, inodes = Path(task["control"]), task["inodes"]
    try:
        pinned = hold(stack, control, inodes.get("control"))
        archives, work = (hold(stack, control.with_name(name), inodes.get(name)) for name in ("archives", "work"))
        upload = hold(stack, pinned / ".." / "upload", None)
        place = stack.enter_context(held(pinned / task["place"]))
        if inodes or "elements" in task:  # then Slurm was not to open anything by its path
            _catch_output(place)
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


def _catch_output(place: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(place / OUTPUT, flags, 0o640)
    for number in (1, 2):
        os.dup2(fd, number)
    os.close(fd)


def _job() -> str:
    """What Slurm's commands call it."""
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array else os.environ.get("SLURM_JOB_ID", "")


def main() -> None:
    task = json.load(sys.stdin)
    if "elements" in task:  # of a job array: one script for all
        own = task["elements"][os.environ["SLURM_ARRAY_TASK_ID"]]
        task["place"] = own["place"]
        task["order"] |= own["order"]
    os.umask(task["umask"])
    with contextlib.ExitStack() as stack:
        sys.exit(_run(task, stack))
