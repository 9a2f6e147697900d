"""Processes that are not the job's, and its own that would outlive it."""

import ctypes
import os
import resource
import time

from .attempt import Facts, RefusedError, call, probe

_SEIZE, _DETACH = 0x4206, 17
STRAY = "scd-stray"


def _signal(pid: int) -> str:
    """None that would do anything."""
    os.kill(pid, 0)
    with open(f"/proc/{pid}/cmdline") as line:
        if "scd" not in line.read():  # a process of the job that has the same number in its namespace
            raise RefusedError("that is another process in here")
    return f"{pid} can be signalled"


@probe(bare=True)
def signal_the_daemon(facts: Facts) -> str:
    return _signal(facts.daemon)


@probe(bare=True)
def signal_the_shim(facts: Facts) -> str:
    return _signal(facts.shim)


@probe(bare=True)
def signal_another_jobs_shim(facts: Facts) -> str:
    return _signal(facts.other_shim)


@probe(bare=True)
def signal_another_jobs_node(facts: Facts) -> str:
    return _signal(facts.other_node)


@probe(bare=True)
def trace_the_shim(facts: Facts) -> str:
    _signal(facts.shim)
    call("ptrace", _SEIZE, facts.shim, None, None)
    return f"{facts.shim} is traced"


@probe(bare=True)
def look_into_the_shim_from_outside(facts: Facts) -> str:
    _signal(facts.shim)
    with open(f"/proc/{facts.shim}/maps") as maps:
        start = int(next(line for line in maps if " r" in line).partition("-")[0], 16)
    here = ctypes.create_string_buffer(64)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(here), 64)
    remote = (ctypes.c_size_t * 2)(start, 64)
    return f"{call('process_vm_readv', facts.shim, local, 1, remote, 1, 0)} bytes"


@probe(bare=True)
def take_the_shims_descriptors(facts: Facts) -> str:
    _signal(facts.shim)
    pidfd = os.pidfd_open(facts.shim)
    return f"descriptor {call('pidfd_getfd', pidfd, 3, 0)}"


@probe(bare=True)
def change_the_daemons_limits(facts: Facts) -> str:
    _signal(facts.shim)
    return str(resource.prlimit(facts.shim, resource.RLIMIT_NOFILE))


@probe(bare=True)
def slow_another_jobs_node_down(facts: Facts) -> str:
    _signal(facts.other_node)
    os.setpriority(os.PRIO_PROCESS, facts.other_node, os.getpriority(os.PRIO_PROCESS, facts.other_node) + 1)
    return "it is nicer now"


def _runner() -> int:
    """The nearest process above that is no fork: pid 1 in a sandbox."""
    pid = os.getpid()
    while pid > 1:
        with open(f"/proc/{pid}/stat") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        with open(f"/proc/{parent}/cmdline") as line:
            words = line.read()
        if "scd.runner.serve" in words:
            runner = parent
        elif "runner" in locals():
            break
        pid = parent
    return runner


@probe(bare=False)
def trace_the_runner(facts: Facts) -> str:
    call("ptrace", _SEIZE, _runner(), None, None)
    return "the runner is traced"


@probe(bare=False)
def take_the_runners_channel(facts: Facts) -> str:
    pidfd = os.pidfd_open(_runner())
    for number in range(64):
        try:
            return f"descriptor {call('pidfd_getfd', pidfd, number, 0)}"
        except OSError as error:
            last = error
    raise last


@probe(bare=False)
def open_the_runners_descriptors(facts: Facts) -> str:
    return str(os.listdir(f"/proc/{_runner()}/fd"))


@probe(bare=False)
def be_the_last_when_memory_runs_out(facts: Facts) -> str:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
    return "it is safe"


@probe(bare=False)
def leave_a_core_file(facts: Facts) -> str:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (2**20, 2**20))
    except ValueError as error:
        raise RefusedError(str(error)) from None
    return "core files may be left"


def _leave(name: str) -> None:
    """A process with another parent, session, environment and name. Whoever started the job looks for it afterwards."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 64)
    os.execve("/bin/sleep", [f"{STRAY}-{name}", "31000"], {})


@probe(bare=False)
def leave_a_process_behind(facts: Facts) -> str:
    _leave("plain")
    raise RefusedError("it is left; whether it stays is seen outside")


@probe(bare=False)
def leave_a_process_behind_that_is_no_file(facts: Facts) -> str:
    with open("/bin/sleep", "rb") as program:
        content = program.read()
    fd = os.memfd_create("nothing", 0)
    os.write(fd, content)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(fd, [f"{STRAY}-memory", "31000"], {})
        os._exit(0)
    time.sleep(0.2)
    raise RefusedError("it is left; whether it stays is seen outside")


@probe(bare=False)
def leave_a_process_behind_that_forks_for_ever(facts: Facts) -> str:
    """Never the same pid for long: whoever lists processes and then kills them comes too late."""
    if os.fork() == 0:
        os.setsid()
        os.closerange(0, 64)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
            time.sleep(0.01)
        os._exit(0)
    raise RefusedError("it is left; whether it stays is seen outside")
