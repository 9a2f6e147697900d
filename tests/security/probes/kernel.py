"""The kernel's own interfaces: namespaces, mounts, keyrings, shared memory, its log, and what it was broken into by."""

import ctypes
import os
import socket
from pathlib import Path

from .attempt import Facts, RefusedError, call, probe

_NEWUSER, _NEWNS, _NEWNET = 0x10000000, 0x00020000, 0x40000000
_SESSION_KEYRING, _USER_KEYRING, _SEARCH, _READ = -3, -4, 10, 11
_USER_MODE_ONLY = 1


@probe(bare=True)
def make_a_user_namespace(facts: Facts) -> str:
    call("unshare", _NEWUSER)
    return "all capabilities, in a namespace of its own"


@probe(bare=True)
def make_a_network_of_ones_own(facts: Facts) -> str:
    call("unshare", _NEWUSER | _NEWNET)
    return "a network namespace: filters and interfaces of its own"


@probe(bare=False)
def mount_a_file_system(facts: Facts) -> str:
    call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
    return "mounted"


@probe(bare=False)
def mount_the_cgroups(facts: Facts) -> str:
    os.makedirs("cgroups", exist_ok=True)
    call("mount", b"none", b"cgroups", b"cgroup2", 0, None)
    return "mounted"


@probe(bare=False)
def make_the_system_writable(facts: Facts) -> str:
    call("mount", None, b"/usr", None, 32 | 4096, None)  # MS_REMOUNT | MS_BIND
    return "remounted"


@probe(bare=False)
def enter_the_namespaces_of_the_first_process(facts: Facts) -> str:
    """In the sandbox that is the runner, which hides them."""
    fd = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    call("setns", fd, _NEWNS)
    return "entered"


@probe(bare=False)
def change_the_root(facts: Facts) -> str:
    os.chroot("/tmp")
    return "changed"


@probe(bare=False)
def become_root(facts: Facts) -> str:
    os.setresuid(0, 0, 0)
    return f"uid {os.getuid()}"


@probe(bare=True)
def become_root_by_a_program_that_may(facts: Facts) -> str:
    """A set-uid program of the system, asked for root's own number."""
    for program in ("/usr/bin/su", "/usr/bin/sudo", "/usr/bin/pkexec", "/usr/bin/newuidmap"):
        if os.path.exists(program) and os.stat(program).st_mode & 0o4000:
            with open("/proc/self/status") as status:
                if "NoNewPrivs:\t1" in status.read():
                    raise RefusedError("no_new_privs is set")
            return f"{program} would gain rights"
    raise RefusedError("there is no such program")


@probe(bare=False)
def rename_the_machine(facts: Facts) -> str:
    socket.sethostname("scd-canary")
    return socket.gethostname()


@probe(bare=True)
def read_a_key_of_another_job(facts: Facts) -> str:
    for keyring in (_SESSION_KEYRING, _USER_KEYRING):
        try:
            key = call("keyctl", _SEARCH, keyring, b"user", facts.key.encode(), 0)
        except OSError as error:
            last = error
            continue
        return f"key {key}"
    raise last


@probe(bare=True)
def attach_shared_memory_of_others(facts: Facts) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    where = libc.shmat(facts.shared, None, 0o10000)  # SHM_RDONLY
    if where in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat")
    return ctypes.string_at(where, 8).decode()


@probe(bare=True)
def read_the_machines_shared_memory_files(facts: Facts) -> str:
    return Path(f"/dev/shm/{facts.shm_file}").read_text()


@probe(bare=True)
def open_an_io_uring(facts: Facts) -> str:
    return f"descriptor {call('io_uring_setup', 4, ctypes.create_string_buffer(256))}"


@probe(bare=True)
def handle_page_faults(facts: Facts) -> str:
    return f"descriptor {call('userfaultfd', _USER_MODE_ONLY)}"


@probe(bare=False)
def load_a_program_into_the_kernel(facts: Facts) -> str:
    return f"descriptor {call('bpf', 0, ctypes.create_string_buffer(128), 128)}"


@probe(bare=False)
def measure_the_whole_machine(facts: Facts) -> str:
    return f"descriptor {call('perf_event_open', ctypes.create_string_buffer(112), -1, 0, -1, 0)}"


@probe(bare=False)
def read_the_kernels_log(facts: Facts) -> str:
    text = ctypes.create_string_buffer(4096)
    try:
        return f"{call('syslog', 3, text, 4096)} bytes"
    except OSError:
        return f"{len(os.read(os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK), 4096))} bytes"


@probe(bare=True)
def read_the_kernels_settings_in_sysfs(facts: Facts) -> str:
    found = [name for name in ("kernel", "class", "fs", "module", "block", "firmware") if Path("/sys", name).exists()]
    if not found:
        raise RefusedError("only what tells the number of cores is there")
    return str(found)


@probe(bare=False)
def type_into_the_terminal_that_started_scd(facts: Facts) -> str:
    with open("/dev/tty", "w") as terminal:
        return terminal.name
