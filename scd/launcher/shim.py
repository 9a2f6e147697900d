"""The shim: one a job, beside it, outliving the daemon. Standard library only.

It holds the runner (and later its sandbox), passes the daemon's orders on, stamps and fsyncs every event into the job's
journal, opens the archive files and gives the runner only their descriptors. Its duties:

1. take orders from the daemon, one JSON line each, on ``shim.sock``;
2. start the runner when an order needs it, and again after it died;
3. write down what the runner reports; publish an archive before the end that it belongs to;
4. end nodes: TERM, then KILL of the whole tree;
5. after a death, its predecessor's or the runner's, end each node that was lost with its reason and save its logs.

``python -I -S boot.py scd.launcher.shim CONTROL_DIRECTORY`` prints its pid once it takes orders. An order is known by
its attempt's name; a name that was once accepted is never run again.
"""

import contextlib
import fcntl
import json
import os
import select
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..channel import ChannelBroken, Message, receive, send
from ..procfs import ProcessId, alive, become_subreaper, boot_id, identify, kill_all, tree
from .journal import Journal, read

SOCKET = "shim.sock"
SPEC = "shim.json"
_MAX_ORDER = 64 * 2**20
# A runner that neither reads nor finishes a message within this time is taken for dead.
_RUNNER_PATIENCE = 10.0
_LOCK_PATIENCE = 10.0
# Without a daemon and without work for so long, nobody will ask for this runner again: a resume starts a new one.
_IDLE = 3600.0
_WAKE = 5.0  # orphans are reaped at least this often


class Attempt:
    """An order in progress."""

    def __init__(self, order: Message, mono: float):
        self.order = order
        self.pid: int | None = None
        self.started: float | None = None  # monotonic
        self.accepted = mono
        self.killed: tuple[str, str] | None = None  # state and reason of the kill order

    @property
    def name(self) -> str:
        return str(self.order["name"])


class Shim:
    def __init__(self, control: Path):
        self.control = control
        self.spec: dict[str, Any] = json.loads((control / SPEC).read_text())
        self.archives = Path(self.spec["archives"])
        self.selector = selectors.DefaultSelector()
        self.daemons: dict[socket.socket, bytearray] = {}
        self.attempts: dict[str, Attempt] = {}
        self.lost: dict[str, tuple[Attempt, str]] = {}
        self.seen: set[str] = set()
        self.kills: list[tuple[float, str]] = []
        self.runner: subprocess.Popen[bytes] | None = None
        self.runner_pidfd = -1
        self.channel: socket.socket | None = None
        self.replies: dict[str, tuple[socket.socket, str | None]] = {}
        self.closing = False
        self.lock = os.open(control / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._take_lock()
        self.journal = Journal(control)
        # Short, for sockets: their paths may only have 108 bytes, and the job's directory lies deep.
        self.temporary = tempfile.mkdtemp(prefix="scd-")
        self.listener = self._listen()

    # -- life

    def run(self) -> None:
        self._take_over()
        busy = time.monotonic()
        while True:
            if self.attempts or self.lost or self.daemons:
                busy = time.monotonic()
            if not (self.attempts or self.lost) and (self.closing or time.monotonic() - busy > _IDLE):
                break
            for key, _ in self.selector.select(self._next_timer()):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fileobj is self.channel:
                    self._hear_runner()
                elif key.fileobj == self.runner_pidfd:
                    self._hear_last_words()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._hear_daemon(key.fileobj)
            self._reap()
            self._kill_overdue()
        self._stop_runner()
        shutil.rmtree(self.temporary, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.control / SOCKET)

    def _take_lock(self) -> None:
        """One shim a job. The one before may still be about to end."""
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _listen(self) -> socket.socket:
        """Bound below the directory's descriptor, since a socket's path may only have 108 bytes."""
        directory = os.open(self.control, os.O_PATH | os.O_CLOEXEC)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.control / SOCKET)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(f"/proc/self/fd/{directory}/{SOCKET}")
        os.close(directory)
        os.chmod(self.control / SOCKET, 0o600)
        listener.listen(8)
        self.selector.register(listener, selectors.EVENT_READ)
        return listener

    def _take_over(self) -> None:
        """Read what earlier shims of this job wrote. What they left unfinished is lost; its processes are ended."""
        open_orders: dict[str, Attempt] = {}
        boot = boot_id()
        runner: ProcessId | None = None
        reason = "the job's shim was killed"
        records, _ = read(self.control)
        for record in records:
            name = record.get("name", "")
            if record["type"] == "accepted":
                self.seen.add(name)
                open_orders[name] = Attempt(record["order"], record["mono"])
            elif record["type"] == "started" and name in open_orders:
                open_orders[name].started = record["mono"]
            elif record["type"] == "ended":
                open_orders.pop(name, None)
            elif record["type"] == "shim":
                shutil.rmtree(record["temporary"], ignore_errors=True)
            elif record["type"] == "runner":
                runner = ProcessId(record["pid"], record["ticks"], record["boot"])
            if record["boot"] != boot:
                reason = "the host was rebooted"
                for attempt in open_orders.values():
                    attempt.started = None
        me = identify(os.getpid())
        assert me is not None
        self.journal.append("shim", pid=me.pid, ticks=me.ticks, temporary=self.temporary)
        if runner is not None and alive(runner):
            kill_all(tree(runner.pid))
        for name, attempt in open_orders.items():
            self.lost[name] = (attempt, reason)
        self._salvage_lost()

    # -- the daemon's side

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid(), self.spec["daemon_uid"]):
            connection.close()
            return
        connection.settimeout(_RUNNER_PATIENCE)
        self.daemons[connection] = bytearray()
        self.selector.register(connection, selectors.EVENT_READ)

    def _hear_daemon(self, connection: socket.socket) -> None:
        buffer = self.daemons[connection]
        try:
            data = connection.recv(2**16)
        except OSError:
            data = b""
        if not data or len(buffer) + len(data) > _MAX_ORDER:
            self._hang_up(connection)
            return
        buffer += data
        while (end := buffer.find(b"\n")) >= 0:
            order = json.loads(buffer[:end])
            del buffer[: end + 1]
            self._obey(order, connection)

    def _hang_up(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        del self.daemons[connection]
        connection.close()

    def _tell(self, connection: socket.socket, message: Message) -> None:
        try:
            connection.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        except OSError:
            if connection in self.daemons:
                self._hang_up(connection)

    def _record(self, kind: str, **fields: Any) -> None:
        self.journal.append(kind, **fields)
        for connection in list(self.daemons):
            self._tell(connection, {"journal": True})

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

    # -- orders that run something

    def _start(self, order: Message) -> None:
        name = order["name"]
        if name in self.seen or self.closing:
            return
        self.seen.add(name)
        self._record("accepted", name=name, order=order)
        self.attempts[name] = Attempt(order, time.monotonic())
        fds: list[int] = []
        try:
            fds.append(self._open_archive(order["archive"]))
            uploads = [order[kind] for kind in ("manifest", "import") if kind in order]
            fds.extend(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) for path in uploads)
            self._to_runner(order, tuple(fds))
        except OSError as error:
            self._end(self.attempts.pop(name), {"state": "error", "reason": f"cannot start: {error}"})
        finally:
            for fd in fds:
                os.close(fd)

    def _open_archive(self, name: str) -> int:
        return os.open(self.archives / f".{name}", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)

    def _publish(self, name: str) -> str | None:
        """Named before its end is reported: what is reported must be there. An empty one was never written."""
        aside = self.archives / f".{name}"
        try:
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            if not size:
                aside.unlink()
                return None
            aside.rename(self.archives / name)
            directory = os.open(self.archives, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.fsync(directory)
            os.close(directory)
        except OSError:
            return None
        return name

    def _end(self, attempt: Attempt, outcome: Message) -> None:
        state, reason = str(outcome["state"]), str(outcome.get("reason", ""))
        if attempt.killed and state != "success":
            state, reason = attempt.killed
        archive = self._publish(str(attempt.order["archive"])) if outcome.get("archived") else None
        elapsed = 0.0 if attempt.started is None else time.monotonic() - attempt.started
        extra = {key: outcome[key] for key in ("plan", "usage", "exit_code", "refused") if key in outcome}
        self._record("ended", name=attempt.name, state=state, reason=reason, archive=archive, elapsed=elapsed, **extra)

    # -- the runner's side

    def _to_runner(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        if self.channel is None:
            self._start_runner()
        assert self.channel is not None
        try:
            send(self.channel, message, fds)
        except ChannelBroken:
            self._lose_runner()

    def _start_runner(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.settimeout(_RUNNER_PATIENCE)
        with theirs, open(self.control / "runner.log", "ab") as log:
            self.runner = subprocess.Popen(
                [*self.spec["runner"], str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(theirs.fileno(),), start_new_session=True,
                env=self.spec["env"] | {"TMPDIR": self.temporary}, cwd=self.spec["root"],
            )  # fmt: skip
        self.channel = ours
        self.selector.register(ours, selectors.EVENT_READ)
        # Not by end of file: what the runner started may hold its end of the channel open.
        self.runner_pidfd = os.pidfd_open(self.runner.pid)
        self.selector.register(self.runner_pidfd, selectors.EVENT_READ)
        identity = identify(self.runner.pid)
        self._record("runner", pid=self.runner.pid, ticks=identity.ticks if identity else 0)

    def _hear_runner(self) -> None:
        assert self.channel is not None
        try:
            message, fds = receive(self.channel)
        except ChannelBroken:
            self._lose_runner()
            return
        for fd in fds:
            os.close(fd)
        name = str(message.get("name", ""))
        match message.get("type"):
            case "started" if name in self.attempts and self.attempts[name].pid is None:
                attempt = self.attempts[name]
                attempt.pid, attempt.started = int(message["pid"]), time.monotonic()
                self._record("started", name=name, pid=attempt.pid)
            case "ended" if name in self.attempts:
                self._end(self.attempts.pop(name), message)
            case "salvaged" if name in self.lost:
                attempt, reason = self.lost.pop(name)
                self._end(attempt, {"state": "error", "reason": reason, "archived": message.get("archived")})
            case "reply":
                self._answer(str(message["id"]), message)

    def _hear_last_words(self) -> None:
        """The runner ended: what it said before still counts."""
        died = self.runner
        while self.runner is died and self.channel is not None:
            readable, _, _ = select.select([self.channel], [], [], 0)
            if not readable:
                self._lose_runner()
                return
            self._hear_runner()

    def _lose_runner(self) -> None:
        """The runner is gone: so is all that lived in it."""
        status = self._stop_runner()
        reason = "the job's runner was killed" if status is None or status < 0 else f"the job's runner ended ({status})"
        crashed_salvaging = list(self.lost)
        for name in crashed_salvaging:  # a runner that dies while it saves logs is not tried again
            attempt, first = self.lost.pop(name)
            self._end(attempt, {"state": "error", "reason": first})
        for name, attempt in self.attempts.items():
            self.lost[name] = (attempt, reason)
        self.attempts.clear()
        for request in list(self.replies):
            self._answer(request, {"error": reason})
        self._salvage_lost()

    def _stop_runner(self) -> int | None:
        if self.channel is not None:
            self.selector.unregister(self.channel)
            self.channel.close()
            self.channel = None
        if self.runner is None:
            return None
        self.selector.unregister(self.runner_pidfd)
        os.close(self.runner_pidfd)
        status = self.runner.poll()
        kill_all(tree(self.runner.pid) if status is None else set())
        kill_all(tree(os.getpid()) - {os.getpid()})
        status = self.runner.wait()
        self.runner = None
        return status

    def _salvage_lost(self) -> None:
        """Ask a new runner for an archive of what each lost node left behind."""
        for name, (attempt, reason) in list(self.lost.items()):
            if attempt.order["op"] != "node":
                del self.lost[name]
                self._end(attempt, {"state": "error", "reason": reason})
                continue
            try:
                fd = self._open_archive(attempt.order["archive"])
            except OSError:
                del self.lost[name]
                self._end(attempt, {"state": "error", "reason": reason})
                continue
            order = {key: attempt.order[key] for key in ("name", "step", "index")}
            self._to_runner({"op": "salvage", **order}, (fd,))
            os.close(fd)

    # -- questions about a node that runs

    def _ask(self, order: Message, connection: socket.socket) -> None:
        request = str(order["id"])
        if order["op"] == "snapshot":
            file = f"snapshot-{request}.tar.gz"
            try:
                fd = self._open_archive(file)
            except OSError as error:
                self._tell(connection, {"id": request, "error": str(error)})
                return
            self.replies[request] = (connection, file)
            self._to_runner(order, (fd,))
            os.close(fd)
        else:
            self.replies[request] = (connection, None)
            self._to_runner(order)

    def _answer(self, request: str, message: Message) -> None:
        connection, file = self.replies.pop(request, (None, None))
        if connection is None:
            return
        if file is not None:
            message["file"] = self._publish(file)
        self._tell(connection, {**message, "id": request})

    # -- ending nodes

    def _kill(self, order: Message) -> None:
        for name in order["names"]:
            attempt = self.attempts.get(name)
            if attempt is None:
                continue
            if attempt.killed is None:
                attempt.killed = (order["state"], order["reason"])
            # The node's own process alone: SiliconCompiler ends its tool and writes the manifest.
            if attempt.pid is not None and self._ours(attempt.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(attempt.pid, signal.SIGTERM)
            self.kills.append((time.monotonic() + float(order["grace"]), name))
        self.kills.sort()

    def _ours(self, pid: int) -> bool:
        return pid in tree(os.getpid())

    def _kill_overdue(self) -> None:
        while self.kills and self.kills[0][0] <= time.monotonic():
            _, name = self.kills.pop(0)
            attempt = self.attempts.get(name)
            if attempt is None:
                continue
            if attempt.pid is None:  # not even forked: the runner does not get to it
                self._lose_runner()
            elif self._ours(attempt.pid):
                kill_all(tree(attempt.pid))

    def _next_timer(self) -> float:
        return max(0.0, min(self.kills[0][0] - time.monotonic(), _WAKE)) if self.kills else _WAKE

    def _reap(self) -> None:
        """Orphans of the job end up here; the runner itself is waited for by its Popen."""
        while True:
            try:
                result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if result is None:
                return
            if self.runner is not None and result.si_pid == self.runner.pid:
                self.runner.poll()
            else:
                os.waitpid(result.si_pid, 0)


def main() -> None:
    control = Path(sys.argv[1])
    os.umask(0o077)
    if os.fork():
        os._exit(0)
    _detach()
    shim = Shim(control)
    # The starter reads this line and end of file, or end of file alone if we died.
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    shim.run()


def _detach() -> None:
    os.setsid()
    become_subreaper()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # Not SIG_IGN: the runner would inherit that.
        signal.signal(number, lambda *_: None)
