"""Slurm's commands at work: started, waited for, and ended when they do not come back."""

import contextlib
import errno
import os
import select
import shutil
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from .slurm_cli import Answer

_ENOUGH = 5.0  # seconds, after which no more of many are started
_NOT_FOUND = 127  # as a shell says it
_UNANSWERED = Answer(None, "", "")
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Command(NamedTuple):
    argv: Sequence[str]
    text: str = ""  # its input


def call(argv: Sequence[str], env: Mapping[str, str], deadline: float, text: str = "") -> Answer:
    """Run a command with ``text`` as its input. Blocks; nothing of it is left after so many seconds."""
    return calls([Command(argv, text)], env, deadline)[0]


def calls(commands: Iterable[Command], env: Mapping[str, str], deadline: float, at_once: int = 1) -> list[Answer]:
    """Run commands, so many at once. Each has its deadline.

    No more are started once one was not answered, or all took long: there are as many answers as were started. What is
    raised where ``commands`` are made is raised here only if it was the first of them.
    """
    running = _Running(env, deadline)
    enough = time.monotonic() + _ENOUGH
    try:
        for command in commands:
            running.start(command)
            running.wait(at_once - 1)
            if running.unanswered or time.monotonic() > enough:
                break
    except Exception:
        if not running.answers:
            raise
    finally:
        running.wait(0)
    return running.answers


class _Process(NamedTuple):
    pid: int
    place: int  # of its answer
    until: float
    out: BinaryIO
    err: BinaryIO
    files: contextlib.ExitStack


class _Running:
    """What goes in and comes out of a command lies in memory: that takes half of the time that pipes take, and no child
    of the command can keep it open.
    """

    def __init__(self, env: Mapping[str, str], deadline: float):
        self.answers: list[Answer] = []
        self.unanswered = False
        self._env = env
        self._deadline = deadline
        self._processes: dict[int, _Process] = {}  # by a descriptor that can be read once it has ended
        self._poll = select.poll()
        self._paths: dict[str, str] = {}

    def start(self, command: Command) -> None:
        name = command.argv[0]
        with contextlib.ExitStack() as stack:
            given, out, err = (
                stack.enter_context(open(os.memfd_create(what), "w+b", buffering=0)) for what in ("in", "out", "err")
            )
            given.write(command.text.encode())
            given.seek(0)
            files = [(os.POSIX_SPAWN_DUP2, file.fileno(), fd) for fd, file in enumerate((given, out, err))]
            try:  # not subprocess, which takes twice as long
                pid = os.posix_spawn(
                    self._path(name), list(command.argv), self._env, file_actions=files, setsid=True,
                    setsigdef=_IGNORED_BY_PYTHON,
                )  # fmt: skip
            except OSError as error:
                self.answers.append(Answer(_NOT_FOUND, "", f"{name}: {error.strerror}"))
                return
            fd = os.pidfd_open(pid)
            stack.callback(os.close, fd)
            self._poll.register(fd, select.POLLIN)
            until = time.monotonic() + self._deadline
            self._processes[fd] = _Process(pid, len(self.answers), until, out, err, stack.pop_all())
            self.answers.append(_UNANSWERED)

    def _path(self, name: str) -> str:
        if name not in self._paths:
            found = shutil.which(name, path=self._env.get("PATH", os.defpath))
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._paths[name] = found
        return self._paths[name]

    def wait(self, most: int) -> None:
        """Until at most so many run."""
        while len(self._processes) > most:
            first = min(process.until for process in self._processes.values())
            ended = {fd for fd, _ in self._poll.poll(max(0.0, first - time.monotonic()) * 1000)}
            now = time.monotonic()
            for fd, process in list(self._processes.items()):
                if fd in ended or process.until <= now:
                    self._end(fd, process, in_time=fd in ended)

    def _end(self, fd: int, process: _Process, *, in_time: bool) -> None:
        del self._processes[fd]
        self._poll.unregister(fd)
        with process.files:
            if not in_time:
                os.killpg(process.pid, signal.SIGKILL)
                self.unanswered = True
            _, status = os.waitpid(process.pid, 0)
            if in_time:
                out, err = (_read(file) for file in (process.out, process.err))
                self.answers[process.place] = Answer(os.waitstatus_to_exitcode(status), out, err)


def _read(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
