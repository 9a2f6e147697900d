"""What is not the job's to read."""

import os
from pathlib import Path

from .attempt import OWN, Facts, RefusedError, call, probe


def _read(path: str, sign: str = "") -> str:
    data = Path(path).read_bytes()
    if sign.encode() not in data:
        raise RefusedError(f"{path} is there, and is not what was looked for")
    return f"{len(data)} bytes of {path}"


@probe(bare=True)
def read_the_database(facts: Facts) -> str:
    return _read(facts.database, "SQLite format")


@probe(bare=True)
def read_the_configuration(facts: Facts) -> str:
    return _read(facts.config, "[server]")


@probe(bare=True)
def read_another_jobs_file(facts: Facts) -> str:
    return _read(facts.other_file, facts.secret)


@probe(bare=True)
def read_another_jobs_journal(facts: Facts) -> str:
    return _read(f"{facts.other}/control/events.jsonl", "accepted")


@probe(bare=True)
def read_another_jobs_upload(facts: Facts) -> str:
    return _read(f"{facts.other}/upload/manifest-1.json")


@probe(bare=True)
def read_the_jobs_own_journal(facts: Facts) -> str:
    return _read(f"{OWN}/control/events.jsonl", "accepted")


@probe(bare=True)
def list_the_jobs_own_archives(facts: Facts) -> str:
    return str(os.listdir(f"{OWN}/archives"))


@probe(bare=True)
def list_other_jobs_by_way_of_the_parents(facts: Facts) -> str:
    found = [path for path in Path(facts.jobs).glob("*/*") if path.name != Path(OWN).name]
    if not found:
        raise RefusedError("only its own way down is to be seen")
    return str(found)


@probe(bare=True)
def read_a_file_that_all_the_machine_may_read(facts: Facts) -> str:
    return _read(f"{facts.outside}/readable", facts.secret)


@probe(bare=True)
def read_the_names_of_the_machines_users(facts: Facts) -> str:
    return _read("/etc/passwd", f"{facts.account}:")


@probe(bare=False)
def read_the_hashes_of_the_machines_users(facts: Facts) -> str:
    return _read("/etc/shadow")


@probe(bare=True)
def see_processes_of_scd(facts: Facts) -> str:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if b"scd.daemon" in path.read_bytes():
            return str(path)
    raise RefusedError("none is to be seen")


@probe(bare=True)
def read_the_shims_environment(facts: Facts) -> str:
    return _read(f"/proc/{facts.shim}/environ", "PATH=")


@probe(bare=True)
def read_the_shims_memory(facts: Facts) -> str:
    """Of the first mapping that is readable."""
    with open(f"/proc/{facts.shim}/maps") as maps, open(f"/proc/{facts.shim}/mem", "rb") as memory:
        start = int(next(line for line in maps if " r" in line).partition("-")[0], 16)
        memory.seek(start)
        return f"{len(memory.read(64))} bytes at {start:x}"


@probe(bare=True)
def read_through_the_shims_descriptors(facts: Facts) -> str:
    for link in Path(f"/proc/{facts.shim}/fd").iterdir():
        if "events.jsonl" in os.readlink(link):
            return _read(str(link), "accepted")
    raise RefusedError("no such descriptor")


@probe(bare=True)
def read_through_the_shims_root(facts: Facts) -> str:
    return _read(f"/proc/{facts.shim}/root{facts.database}", "SQLite format")


@probe(bare=True)
def give_the_database_a_second_name(facts: Facts) -> str:
    os.link(facts.database, "second-name")
    return _read("second-name", "SQLite format")


@probe(bare=False)
def open_a_file_by_its_handle(facts: Facts) -> str:
    """Past all directories: what containers were left by."""
    import ctypes

    handle = ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0", 16)
    return str(call("open_by_handle_at", os.open(".", os.O_RDONLY), handle, os.O_RDONLY))


@probe(bare=False)
def find_a_secret_of_the_daemons_environment(facts: Facts) -> str:
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if facts.canary.encode() in path.read_bytes():
                return str(path)
        except OSError:
            continue
    raise RefusedError("no process that can be looked at has it")


@probe(bare=False)
def find_descriptors_that_lead_out(facts: Facts) -> str:
    for link in Path("/proc/self/fd").iterdir():
        where = os.readlink(link) if link.is_symlink() else ""
        if where.startswith(facts.state) and not where.startswith(f"{OWN}/work/"):
            return f"{link} -> {where}"
    raise RefusedError("none")
