"""What runs in the node: every probe in a process of its own, and one line of JSON for each. Standard library only."""

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import SimpleNamespace

Facts = SimpleNamespace
Probe = Callable[[Facts], str]
PROBES: dict[str, Probe] = {}
BARE: set[str] = set()  # those that succeed without a sandbox, under scd's own account
_PATIENCE = 10
OWN = os.path.dirname(os.environ.get("HOME", ""))  # the job's directory: of it a sandbox shows ``work`` alone


class RefusedError(Exception):
    """What was tried did not succeed, and how that was seen."""


def probe(*, bare: bool) -> Callable[[Probe], Probe]:
    """A probe returns what it got hold of, or raises. ``bare``: it succeeds where nothing holds it back."""

    def add(function: Probe) -> Probe:
        PROBES[function.__name__] = function
        if bare:
            BARE.add(function.__name__)
        return function

    return add


def call(name: str, *arguments: object) -> int:
    """A system call by its number on this machine. Raises OSError."""
    numbers = {
        "x86_64": {
            "ptrace": 101, "add_key": 248, "keyctl": 250, "userfaultfd": 323, "io_uring_setup": 425, "bpf": 321,
            "perf_event_open": 298, "syslog": 103, "open_by_handle_at": 304, "process_vm_readv": 310, "mknod": 133,
            "pidfd_getfd": 438, "unshare": 272, "setns": 308, "mount": 165, "kcmp": 312,
        },
        "aarch64": {
            "ptrace": 117, "add_key": 217, "keyctl": 219, "userfaultfd": 282, "io_uring_setup": 425, "bpf": 280,
            "perf_event_open": 241, "syslog": 116, "open_by_handle_at": 265, "process_vm_readv": 270,
            "pidfd_getfd": 438, "unshare": 97, "setns": 268, "mount": 40, "kcmp": 272,
        },
    }[os.uname().machine]  # fmt: skip
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wide = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    result = int(libc.syscall(ctypes.c_long(numbers[name]), *wide))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def main() -> None:
    facts = SimpleNamespace(**json.loads(sys.argv[1]))
    with open("probes.jsonl", "w") as report:
        for name in PROBES:
            line = {"probe": name, "bare": name in BARE, **_try(name, facts)}
            print(json.dumps(line), file=report, flush=True)


def _try(name: str, facts: Facts) -> dict[str, object]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(_PATIENCE)
        os.close(read)
        try:
            outcome = {"success": True, "how": PROBES[name](facts)}
        except (OSError, RefusedError) as error:
            outcome = {"success": False, "how": f"{type(error).__name__}: {error}"}
        except BaseException:
            outcome = {"success": None, "how": traceback.format_exc()}
        os.write(write, json.dumps(outcome).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as told:
        said = told.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(said) if said else {"success": False, "how": f"ended by status {status}"}
