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
_NOT_STARTED = 127  # as a shell says it
_UNANSWERED = Answer(None, "", "")
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Command(NamedTuple):
    argv: Sequence[str]
    text: str = ""  # its input


def call(argv: Sequence[str], env: Mapping[str, str], deadline: float, text: str = "") -> Answer:
    """Run a command with ``text`` as its input. Blocks, but for no longer than so many seconds."""
    return calls([Command(argv, text)], env, deadline)[0]


def calls(commands: Iterable[Command], env: Mapping[str, str], deadline: float, at_once: int = 1) -> list[Answer]:
    """Run commands, so many at once. Each has its deadline; what is late is killed with all that it started.

    No more are started once one was not answered, all took long, or the next cannot be made: there are as many answers
    as commands were tried. What is raised where ``commands`` are made is raised here if it is about the first of them.
    """
    answers: list[Answer] = []
    running = _Running(env, deadline, answers)
    enough = time.monotonic() + _ENOUGH
    try:
        for command in commands:
            running.start(command)
            running.wait(at_once - 1)
            if running.unanswered or time.monotonic() > enough:
                break
    except Exception:
        if not answers:
            raise
    finally:
        running.wait(0)
    return answers


class _Process(NamedTuple):
    pid: int
    place: int  # of its answer
    until: float
    out: BinaryIO
    err: BinaryIO
    files: contextlib.ExitStack


class _Running:
    """What goes in and comes out of a command lies in memory: that takes half of the time that pipes take, and no child
    of the command can keep it open. Nothing here raises: whatever was started has a place among the answers.
    """

    def __init__(self, env: Mapping[str, str], deadline: float, answers: list[Answer]):
        self.unanswered = False
        self._env = env
        self._deadline = deadline
        self._answers = answers
        self._processes: dict[int, _Process] = {}  # by a descriptor that can be read once it has ended
        self._poll = select.poll()
        self._paths: dict[str, str] = {}

    def start(self, command: Command) -> None:
        with contextlib.ExitStack() as stack:
            try:
                given, out, err = (
                    stack.enter_context(open(os.memfd_create(what), "w+b", buffering=0))
                    for what in ("in", "out", "err")
                )
                given.write(command.text.encode())
                given.seek(0)
                pid = self._spawn(command.argv, given, out, err)
            except OSError as error:
                self._answers.append(Answer(_NOT_STARTED, "", f"{command.argv[0]}: {error.strerror}"))
                return
            place = len(self._answers)
            self._answers.append(_UNANSWERED)
            try:
                fd = os.pidfd_open(pid)
            except OSError:  # no descriptor is left: nobody could tell when it ends
                self.unanswered = True
                _kill(pid)
                return
            stack.callback(os.close, fd)
            self._poll.register(fd, select.POLLIN)
            until = time.monotonic() + self._deadline
            self._processes[fd] = _Process(pid, place, until, out, err, stack.pop_all())

    def _spawn(self, argv: Sequence[str], *files: BinaryIO) -> int:
        """Not by subprocess, which takes twice as long."""
        name = argv[0]
        if name not in self._paths:
            found = shutil.which(name, path=self._env.get("PATH", os.defpath))
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._paths[name] = found
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), fd) for fd, file in enumerate(files)]
        return os.posix_spawn(
            self._paths[name], list(argv), self._env, file_actions=actions, setsid=True, setsigdef=_IGNORED_BY_PYTHON
        )

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
                self.unanswered = True
                _kill(process.pid)
                return
            _, status = os.waitpid(process.pid, 0)
            out, err = (_read(file) for file in (process.out, process.err))
            self._answers[process.place] = Answer(os.waitstatus_to_exitcode(status), out, err)


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):  # of another account, which some wrapper has made it: it is left alone
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _read(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
