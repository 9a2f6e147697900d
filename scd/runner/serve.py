"""The runner: imports siliconcompiler once, then forks one child for each order of the shim.

``python -I boot.py scd.runner.serve FD``; the first message has the settings. It has one thread and holds no lock when
it forks. The project is loaded before the fork, so a node starts with everything warm. Its duties: take an order; fork;
report the child's start; when the child ends, kill what it left behind and report its end; end itself when the shim is
gone.
"""

import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any

from ..channel import ChannelBroken, Message, receive, send
from ..procfs import become_subreaper, environment_of, hide_from_equals, kill_all, tree
from . import node as node_
from .child import (
    MARK,
    Work,
    figures_of,
    io_of,
    live,
    outcome_of,
    own_children,
    print_error,
    session_of,
    write_all,
)
from .job import Settings, load
from .prepare import Rejected, prepare
from .restraint import misplaced, restrain

_REPLY_LIMIT = 2**18
_PREPARED = b"\n"  # what prepare reports before its outcome, once the manifest can be loaded


class Child:
    def __init__(self, order: Message, pid: int, pidfd: int, result: int, fds: list[int]):
        self.order, self.pid, self.pidfd, self.result, self.fds = order, pid, pidfd, result, fds
        self.report = b""


class Runner:
    def __init__(self, settings: Settings, channel: socket.socket):
        self.settings = settings
        self.channel = channel
        self.selector = selectors.DefaultSelector()
        self.selector.register(channel, selectors.EVENT_READ)
        self.children: dict[int, Child] = {}
        self.project: Any = None
        self.helper: set[int] = set()  # SiliconCompiler's own manager process
        self.death, self.death_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(self.death, selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.death_end, warn_on_full_buffer=False)

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.channel:
                    self._take_order()
                elif key.fd == self.death:
                    self._reap_orphans()
                else:
                    self._hear_child(key.data, key.fd)

    def _take_order(self) -> None:
        order, fds = receive(self.channel)
        match order["op"]:
            case "prepare":
                self.project = None
                self._fork(order, fds, lambda result: self._prepare(fds, result))
                _import_more()  # while prepare runs on another core
            case "node":
                self._start_node(order, fds)
            case "salvage":
                with contextlib.suppress(Exception):
                    self._warm()
                self._fork(order, fds, lambda _: self._salvage(order, fds[0]))
            case "snapshot":
                self._fork(order, fds, lambda _: self._archive(order, fds[0]))
            case "tail":
                self._fork(order, fds, lambda _: self._tail(order))

    def _start_node(self, order: Message, fds: list[int]) -> None:
        try:
            self._warm()
        except Exception as error:
            print_error()
            for fd in fds:
                os.close(fd)
            reason = f"the prepared job cannot be loaded: {error}"
            send(self.channel, {"type": "ended", "name": order["name"], "state": "error", "reason": reason})
            return
        self._fork(order, fds, lambda _: self._node(order, fds[0]))

    def _warm(self) -> None:
        """Load the project before the first node, so that every node inherits it."""
        if self.project is None:
            _import_more()
            before = own_children()
            self.project = load(self.settings)
            self.helper |= {pid for pid in own_children() - before if session_of(pid) == session_of(0)}
            gc.collect()
            gc.freeze()

    # -- in the child

    def _prepare(self, fds: list[int], result: int) -> Message:
        manifest, archive, upload = (fds[1], fds[0], fds[2] if len(fds) > 2 else None)
        try:
            with (
                open(manifest, "rb", closefd=False) as cfg,
                open(archive, "wb", closefd=False) as target,
                contextlib.ExitStack() as stack,
            ):
                source = stack.enter_context(open(upload, "rb", closefd=False)) if upload is not None else None
                plan, unpacked = prepare(self.settings, cfg, target, source, lambda: write_all(result, _PREPARED))
        except Rejected as refusal:
            return {"state": "error", "reason": str(refusal), "refused": True}
        return {"state": "success", "plan": plan, "archived": True, "exit_code": 0, "timing": {"unpack": unpacked}}

    def _node(self, order: Message, fd: int) -> Message:
        ancestors = order["ancestors"]
        status, code, reason = node_.run(self.settings, self.project, order["step"], order["index"], ancestors)
        return {"state": status, "exit_code": code, "reason": reason, **self._archive(order, fd)}

    def _salvage(self, order: Message, fd: int) -> Message:
        with contextlib.suppress(Exception):
            node_.salvage(self.settings, self.project, order["step"], order["index"])
        return self._archive(order, fd)

    def _archive(self, order: Message, fd: int) -> Message:
        begun = time.monotonic()
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "wb", closefd=False) as target:
            node_.archive(self.settings, order["step"], order["index"], target)
        return {"archived": True, "timing": {"archive": time.monotonic() - begun}}

    def _tail(self, order: Message) -> Message:
        try:
            return node_.tail(self.settings, order["step"], order["index"], order["offset"], _REPLY_LIMIT)
        except OSError as error:
            return {"error": error.strerror}

    # -- in the parent

    def _fork(self, order: Message, fds: list[int], work: Work) -> None:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._close_inherited(read)
            live(order, write, work)
        os.close(write)
        os.set_blocking(read, False)
        child = Child(order, pid, os.pidfd_open(pid), read, fds)
        self.children[pid] = child
        self.selector.register(child.pidfd, selectors.EVENT_READ, child)
        self.selector.register(child.result, selectors.EVENT_READ, child)
        if order["op"] in ("prepare", "node"):
            # Not the pid: in a sandbox it is another one outside.
            send(self.channel, {"type": "started", "name": order["name"]}, (child.pidfd,))

    def _close_inherited(self, read: int) -> None:
        """What belongs to the runner and to other nodes: an open end would hide their death."""
        signal.set_wakeup_fd(-1)
        self.selector.close()
        self.channel.close()
        for fd in (self.death, self.death_end, read):
            os.close(fd)
        for child in self.children.values():
            for fd in (child.pidfd, child.result, *child.fds):
                os.close(fd)

    def _hear_child(self, child: Child, fd: int) -> None:
        if child.pid not in self.children:
            return
        at_end = self._read_report(child)
        if fd == child.pidfd:
            self._end(child)
        elif at_end:
            self.selector.unregister(child.result)
        elif child.report == _PREPARED:
            with contextlib.suppress(Exception):  # a node that needs it reports what is wrong
                self._warm()  # before the first node asks for it

    def _read_report(self, child: Child) -> bool:
        """Whether the child has closed its end."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(child.result, 2**16):
                child.report += data
            return True
        return False

    def _end(self, child: Child) -> None:
        io = io_of(str(child.pid))
        _, status, usage = os.wait4(child.pid, 0)
        self._read_report(child)
        del self.children[child.pid]
        for fd in (child.pidfd, child.result):
            with contextlib.suppress(KeyError):
                self.selector.unregister(fd)
            os.close(fd)
        self._kill_remains(child)
        outcome = outcome_of(child.report, os.waitstatus_to_exitcode(status))
        figures = figures_of(usage, outcome.pop("io", io))
        order = child.order
        if order["op"] == "node" and not outcome.get("archived"):
            # It died before it could pack its results: another child does it for it.
            outcome["usage"] = figures
            self._fork(
                {**order, "op": "wreck", "outcome": outcome}, child.fds, lambda _: self._salvage(order, child.fds[0])
            )
            return
        for fd in child.fds:
            os.close(fd)
        self._report(order, outcome, figures)

    def _report(self, order: Message, outcome: Message, usage: Message) -> None:
        match order["op"]:
            case "wreck":
                archived = outcome.get("archived")
                send(self.channel, {"type": "ended", "name": order["name"], **order["outcome"], "archived": archived})
            case "salvage":
                send(self.channel, {"type": "salvaged", "name": order["name"], "archived": outcome.get("archived")})
            case "snapshot" | "tail":
                send(self.channel, {"type": "reply", **outcome, "id": order["id"]})
            case _:
                send(self.channel, {"type": "ended", "name": order["name"], "usage": usage, **outcome})

    def _kill_remains(self, child: Child) -> None:
        """What a node started does not outlive it. Its orphans are now this process's children.

        One that has left the session and cleared its environment may be another node's: it ends with the last of them.
        """
        mark = f"{MARK}={child.order.get('name', '')}".encode()
        alone = not any(other.order["op"] in ("prepare", "node") for other in self.children.values())
        for pid in own_children() - set(self.children) - self.helper:
            if alone or session_of(pid) == child.pid or mark in environment_of(pid):
                kill_all(tree(pid))
        kill_all(tree(child.pid) - {child.pid})
        self._reap_orphans()

    def _reap_orphans(self) -> None:
        """At once: SiliconCompiler waits for a tool's processes to vanish, and a zombie has not."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.death, 2**12)
        for pid in own_children() - set(self.children) - self.helper:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def main() -> None:
    os.umask(0o022)
    become_subreaper()
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    os.register_at_fork(after_in_child=channel.close)  # also in what SiliconCompiler forks
    importlib.import_module("siliconcompiler.scheduler")
    try:
        message, _ = receive(channel)
        settings = Settings(**message)
        if wrong := misplaced(settings.places):
            sys.exit(f"another directory is at {', '.join(wrong)}")
        restrain(settings.max_processes)
        # Nobody else is to speak in the runner's name, and end a node that goes on uncharged. Not earlier: one that is
        # hidden may not even write its own oom_score_adj.
        hide_from_equals(hidden=True)
        Runner(settings, channel).run()
    except ChannelBroken:
        kill_all(tree(os.getpid()) - {os.getpid()})


def _import_more() -> None:
    """What SiliconCompiler imports late, once here instead of once in each child: 200 ms of a node otherwise."""
    for name in ("remote", "schema", "tools.builtin.join", "tools.builtin.minimum", "tools.builtin.maximum"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"siliconcompiler.{name}")
    with contextlib.suppress(Exception):  # what every node renders: the expressions stay compiled
        importlib.import_module("siliconcompiler.utils").get_file_template("replay/replay.sh.j2")
    for name in ("multiprocessing.managers", "psutil", "jinja2", "orjson", "getpass", "platform", "distro"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
