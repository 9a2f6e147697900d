"""The life of a forked child, and what its death and /proc tell of it."""

import contextlib
import gc
import json
import multiprocessing.util
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ..channel import Message
from ..procfs import hide_from_equals

MARK = "SCD_ATTEMPT"  # in the environment of all that a node starts

Work = Callable[[int], Message]  # what a child does, with the descriptor it may report to on the way


def live(order: Message, result: int, work: Work) -> None:
    """The life of a forked child: it never returns."""
    try:
        gc.enable()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        hide_from_equals(hidden=False)  # the runner alone is: a node's own tools may trace each other
        # As multiprocessing does in its own children: each gets a connection of its own to SiliconCompiler's manager.
        multiprocessing.util._run_after_forkers()  # type: ignore[attr-defined]
        os.environ[MARK] = order.get("name", "")
        try:
            outcome = work(result)
        except Exception as error:
            print_error()
            outcome = {"state": "error", "reason": f"the runner failed: {type(error).__name__}: {error}"}
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # the log's disk may be full: that is not the node's fault
                stream.flush()
        outcome["io"] = io_of("self")  # another process may only ask for this as root, once we are a zombie
        write_all(result, json.dumps(outcome).encode())
        os._exit(0)
    finally:
        os._exit(70)


def print_error() -> None:
    """The present exception, into the log if that can be written."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def outcome_of(report: bytes, code: int) -> Message:
    """What the child said, or what its death says."""
    with contextlib.suppress(ValueError):
        outcome = json.loads(report)
        if isinstance(outcome, dict):
            return outcome
    if code == -signal.SIGKILL:
        reason = "killed by SIGKILL (the kernel does this when memory runs out)"
    elif code < 0:
        reason = f"killed by {signal.Signals(-code).name}"
    else:
        reason = f"ended with exit code {code} and without a result"
    return {"state": "error", "reason": reason, "exit_code": code}


def figures_of(usage: Any, io: Sequence[int]) -> Message:
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "read_bytes": io[0],
        "written_bytes": io[1],
    }


def io_of(process: str) -> Sequence[int]:
    """Bytes read and written by a process and of its children that it waited for."""
    try:
        with open(f"/proc/{process}/io") as file:
            fields = dict(line.split(": ") for line in file.read().splitlines())
        return int(fields["rchar"]), int(fields["wchar"])
    except (OSError, KeyError):
        return 0, 0


def own_children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(pid) for pid in file.read().split()}


def session_of(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return os.getsid(pid)
    return -1
