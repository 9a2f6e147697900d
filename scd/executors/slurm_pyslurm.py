"""pyslurm as a reader of Slurm's queue, in a program of its own (``pyslurm_helper``), and when it is used.

Not in the daemon: pyslurm keeps Python's lock while it waits for the controller, so that a thread would not help, and
libslurm ends its process where it does not like slurm.conf. A program that is late is ended, and scd lives on.
"""

import contextlib
import importlib.util
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from .. import slurm_cli as cli
from ..slurm_calls import call
from ..slurm_queue import rows
from .readers import NoAnswer, Queue, Reader, Squeue

log = logging.getLogger(__name__)

_LEFT_ALONE = 300.0  # seconds, after it failed
_REAPED_WITHIN = 5.0
_ORPHANED = 10.0  # seconds after the deadline: one whose daemon was killed meanwhile ends by itself


class _Answer(msgspec.Struct):
    version: str = ""
    jobs: list[list[str]] = []
    error: str = ""


class Pyslurm:
    """It is started when it is first asked, and again after a failure."""

    def __init__(self, env: Mapping[str, str], deadline: float = cli.QUERY_DEADLINE):
        """``env``: pyslurm finds slurm.conf by SLURM_CONF alone. ``deadline``: seconds for each answer."""
        self._env = env
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # of whoever talks to it
        self.version = ""  # once it has told

    def start(self) -> None:
        """Raises NoAnswer."""
        with self._lock:
            self._start()

    def read(self) -> Queue:
        with self._lock:
            process = self._process or self._start()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # then it has ended, and so has its output
                process.stdin.write(b"\n")
            return rows(self._answer(process).jobs)

    def close(self) -> None:
        if (process := self._process) is None:
            return
        process.kill()  # whoever waits for it sees the end of its output
        if self._lock.acquire(timeout=_REAPED_WITHIN):
            if self._process is not None:
                self._end(self._process)
            self._lock.release()

    def _start(self) -> "subprocess.Popen[bytes]":
        argv = [sys.executable, "-m", f"{__package__}.pyslurm_helper", f"{self._deadline + _ORPHANED:.0f}"]
        try:
            process = self._process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self._env, cwd="/",
                start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            raise NoAnswer(f"{sys.executable}: {error.strerror}") from error
        self.version = self._answer(process).version
        return process

    def _answer(self, process: "subprocess.Popen[bytes]") -> _Answer:
        """Raises NoAnswer, and then there is no program any more."""
        try:
            found = msgspec.json.decode(self._line(process), type=_Answer)
            if found.error:
                raise NoAnswer(found.error)
        except (NoAnswer, msgspec.DecodeError) as error:
            self._end(process)
            raise NoAnswer(str(error)) from error
        return found

    def _line(self, process: "subprocess.Popen[bytes]") -> bytes:
        assert process.stdout is not None
        until = time.monotonic() + self._deadline
        ready = select.poll()
        ready.register(process.stdout, select.POLLIN)
        line = bytearray()
        while not line.endswith(b"\n"):
            if not ready.poll(max(0.0, until - time.monotonic()) * 1000):
                raise NoAnswer("no answer in time")
            if not (part := os.read(process.stdout.fileno(), 2**20)):
                raise NoAnswer("its program ended in the middle")
            line += part
        return bytes(line)

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = None
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel has it
            process.wait(_REAPED_WITHIN)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class WithFallback:
    """pyslurm, and squeue in its place where it fails and for a while after that: nothing but squeue must work."""

    def __init__(self, first: Reader, second: Reader):
        self._first = first
        self._second = second
        self._again = 0.0
        self._failing = False

    def read(self) -> Queue:
        complaint = ""
        if time.monotonic() >= self._again:
            try:
                found = self._first.read()
            except NoAnswer as error:
                self._again = time.monotonic() + _LEFT_ALONE
                complaint = error.message
            else:
                if self._failing:
                    log.info("pyslurm reads Slurm's queue again")
                self._failing = False
                return found
        found = self._second.read()  # raises if it is Slurm that does not answer
        if complaint and not self._failing:
            log.warning("pyslurm does not read Slurm's queue (%s): squeue does, and pyslurm is tried again", complaint)
            self._failing = True
        return found

    def close(self) -> None:
        self._first.close()
        self._second.close()


class Choice(NamedTuple):
    reader: Reader
    why: str  # which it is, and why: a sentence
    fits: bool = True  # False if there is a pyslurm that cannot be used


def choose(env: Mapping[str, str]) -> Choice:
    """pyslurm knows the memory of one release of libslurm: it is used only where Slurm's X.Y is its own."""
    squeue = Squeue(env)
    if importlib.util.find_spec("pyslurm") is None:
        return Choice(squeue, "squeue reads Slurm's queue; pyslurm is not installed.")
    told = call(cli.version(), env, cli.QUERY_DEADLINE)
    if told.code != 0 or (slurm := cli.release(told.out)) is None:
        return Choice(squeue, f"squeue reads Slurm's queue; Slurm does not tell its version: {told.words}", False)
    pyslurm = Pyslurm(env)
    try:
        pyslurm.start()
    except NoAnswer as error:
        return Choice(squeue, f"squeue reads Slurm's queue; pyslurm does not start: {error.message}", False)
    if cli.release(pyslurm.version) != slurm:
        pyslurm.close()
        return Choice(
            squeue,
            f"squeue reads Slurm's queue; pyslurm {pyslurm.version} is not for {told.out.strip()}: X.Y must be equal.",
            False,
        )
    why = f"pyslurm {pyslurm.version} reads Slurm's queue, that of {told.out.strip()}."
    return Choice(WithFallback(pyslurm, squeue), why)
