"""What is not the job's to write. Nothing is changed where it could be: a file that opens for writing says enough."""

import contextlib
import json
import os
import stat
from pathlib import Path

from .attempt import OWN, Facts, RefusedError, probe


def _writable(path: str) -> str:
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
    return f"{path} can be written"


def _creatable(directory: str, name: str = "scd-canary") -> str:
    fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.close(fd)
    os.unlink(f"{directory}/{name}")
    return f"{directory} takes files"


@probe(bare=True)
def write_the_database(facts: Facts) -> str:
    return _writable(facts.database)


@probe(bare=True)
def write_another_jobs_file(facts: Facts) -> str:
    return _writable(facts.other_file)


@probe(bare=True)
def put_a_file_into_another_job(facts: Facts) -> str:
    return _creatable(os.path.dirname(facts.other_file))


@probe(bare=True)
def forge_a_record_in_the_jobs_journal(facts: Facts) -> str:
    return _writable(f"{OWN}/control/events.jsonl")


@probe(bare=True)
def forge_a_record_in_another_jobs_journal(facts: Facts) -> str:
    return _writable(f"{facts.other}/control/events.jsonl")


@probe(bare=True)
def publish_an_archive_of_ones_own(facts: Facts) -> str:
    return _creatable(f"{OWN}/archives", "9.9.tar.gz")


@probe(bare=True)
def replace_the_manifest_that_was_uploaded(facts: Facts) -> str:
    return _creatable(f"{OWN}/upload", "manifest-9.json")


@probe(bare=True)
def change_what_the_next_shim_is_told(facts: Facts) -> str:
    return _writable(f"{OWN}/control/shim.json")


@probe(bare=True)
def poison_the_package_cache(facts: Facts) -> str:
    return _creatable(facts.cache)


@probe(bare=True)
def write_where_all_the_machine_may_write(facts: Facts) -> str:
    return _creatable(f"{facts.outside}/writable")


@probe(bare=True)
def plant_a_job_among_the_others(facts: Facts) -> str:
    return _creatable(f"{facts.state}/spool/staging")


@probe(bare=False)
def change_the_runtime(facts: Facts) -> str:
    return _creatable(facts.runtime)


@probe(bare=False)
def change_the_system(facts: Facts) -> str:
    return _creatable("/usr/local/bin") or _creatable("/etc")


@probe(bare=False)
def make_a_device(facts: Facts) -> str:
    os.mknod("device", stat.S_IFBLK | 0o600, os.makedev(254, 0))
    return _writable("device")


@probe(bare=False)
def open_a_disk(facts: Facts) -> str:
    disks = [path for path in Path("/dev").iterdir() if path.is_block_device()]
    for path in (*disks, Path("/dev/mem"), Path("/dev/kmem"), Path("/dev/port")):
        if path.exists():
            return _writable(str(path))
    raise RefusedError("there is none")


@probe(bare=False)
def change_the_kernels_settings(facts: Facts) -> str:
    for name in ("kernel/panic", "vm/overcommit_memory", "fs/protected_hardlinks", "kernel/randomize_va_space"):
        with contextlib.suppress(OSError):
            return _writable(f"/proc/sys/{name}")
    return _writable("/proc/sysrq-trigger")


@probe(bare=False)
def raise_the_jobs_memory_limit(facts: Facts) -> str:
    for path in Path("/sys/fs/cgroup").rglob("memory.max"):
        return _writable(str(path))
    raise RefusedError("no cgroup is to be seen")


@probe(bare=False)
def have_the_kernel_run_a_program_for_a_core(facts: Facts) -> str:
    return _writable("/proc/sys/kernel/core_pattern")


@probe(bare=False)
def claim_another_status_in_the_runners_name(facts: Facts) -> str:
    """Through the pipes of all processes that can be looked at: the runner's own channel is no pipe."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).startswith("socket:") and link.parent.parent.name != str(os.getpid()):
                with open(link, "wb") as channel:
                    channel.write(json.dumps({"type": "ended"}).encode())
                    return str(link)
        except OSError:
            continue
    raise RefusedError("no socket of others opens")
