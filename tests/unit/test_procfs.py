"""With real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scd.procfs import ProcessId, alive, boot_id, descends, identify, kill_all, pid_of, tree

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    begun: list[subprocess.Popen[str]] = []

    def run(*argv: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(argv, start_new_session=True, stdout=subprocess.PIPE, text=True)
        begun.append(process)
        return process

    yield run
    for process in begun:
        kill_all(tree(process.pid))
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def lines(process: "subprocess.Popen[str]", count: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)


def test_a_process_has_one_identity(start: Start) -> None:
    process = start("sleep", "60")
    found = identify(process.pid)
    assert found is not None
    assert found == identify(process.pid)
    assert found.pid == process.pid
    assert found.boot == boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert alive(found)


def test_a_pid_alone_is_no_proof(start: Start) -> None:
    found = identify(start("sleep", "60").pid)
    assert found is not None
    assert not alive(found._replace(ticks=found.ticks + 1)), "the same pid, started later, is another process"
    assert not alive(found._replace(boot="00000000-0000-0000-0000-000000000000")), "before a reboot"


def test_a_zombie_has_ended(start: Start) -> None:
    process = start("sleep", "60")
    found = identify(process.pid)
    assert found is not None
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: identify(process.pid) is None, "the end of a process that nobody has waited for")
    assert Path(f"/proc/{process.pid}").exists(), "not waited for yet"
    assert not alive(found)
    process.wait()
    assert not alive(found)


def test_no_process() -> None:
    assert identify(2**22 + 1) is None
    assert not alive(ProcessId(2**22 + 1, 1, boot_id()))
    assert tree(2**22 + 1) == {2**22 + 1}


def test_a_name_made_to_look_like_the_fields_behind_it(start: Start, tmp_path: Path) -> None:
    """The second field of /proc/PID/stat is whatever the program calls itself."""
    hostile = tmp_path / "a) Z 1 (b"
    hostile.symlink_to("/bin/sleep")
    plain, found = identify(start("sleep", "60").pid), identify(start(str(hostile), "60").pid)
    assert plain is not None
    assert found is not None, "taken for a zombie"
    assert plain.ticks <= found.ticks < plain.ticks + 6000


SPREAD = """
sleep 60 & echo $!
setsid sleep 60 & echo $!
sh -c 'sleep 60 & echo $!; wait' &
wait
"""


def test_the_tree_of_a_process(start: Start) -> None:
    """Children, those in sessions of their own too, and theirs."""
    process = start("sh", "-c", SPREAD)
    found = lines(process, 3)
    assert tree(process.pid) >= {process.pid, *found}
    assert os.getpid() not in tree(process.pid)


def test_the_tree_holds_orphans_of_the_session(start: Start) -> None:
    process = start("sh", "-c", "(sleep 60 & echo $!); sleep 60")
    (orphan,) = lines(process, 1)
    until(lambda: parent(orphan) != process.pid, "the child's adoption by another process")
    assert orphan in tree(process.pid)


def test_kill_all_ends_a_tree_and_minds_no_dead(start: Start) -> None:
    process = start("sh", "-c", SPREAD)
    found = lines(process, 3)
    kill_all({*tree(process.pid), 2**22 + 1})
    until(lambda: not any(identify(pid) for pid in (process.pid, *found)), "the end of all four")


def test_a_subreaper_inherits_orphans(start: Start) -> None:
    """A shim is one, so that nothing that a node left behind escapes it."""
    code = (
        "import subprocess, scd.procfs; scd.procfs.become_subreaper(); "
        "subprocess.run(['sh', '-c', '(sleep 60 & echo $!)']); import time; time.sleep(60)"
    )
    process = start(sys.executable, "-c", code)
    (orphan,) = lines(process, 1)
    until(lambda: parent(orphan) == process.pid, "the adoption of the orphan")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_descent(start: Start) -> None:
    process = start("sh", "-c", "sleep 60 & echo $!; wait")
    (grandchild,) = lines(process, 1)
    assert descends(grandchild, process.pid)
    assert descends(grandchild, os.getpid())
    assert descends(process.pid, os.getpid())
    assert not descends(process.pid, grandchild)
    assert not descends(process.pid, process.pid)
    assert not descends(1, os.getpid())
    assert not descends(2**22, os.getpid()), "there is no such process"


def test_a_pidfd_tells_its_process_and_its_end(start: Start) -> None:
    process = start("sleep", "60")
    pidfd = os.pidfd_open(process.pid)
    try:
        assert pid_of(pidfd) == process.pid
        process.kill()
        process.wait()
        assert pid_of(pidfd) is None
    finally:
        os.close(pidfd)


def test_another_descriptor_is_no_pidfd() -> None:
    with open(os.devnull) as file, pytest.raises(ValueError, match="not a pidfd"):
        pid_of(file.fileno())
