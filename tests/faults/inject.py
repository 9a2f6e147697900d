"""How faults strike: signals, system calls that fail or kill, a small disk, a clock that leaps."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# What changes files: ``write`` is for logs and uploads, ``pwrite64`` and ``fdatasync`` are the database.
CHANGES = ("write", "pwrite64", "fsync", "fdatasync", "rename", "mkdir", "unlink", "ftruncate")


def options(syscalls: Iterable[str], inject: str = "") -> list[str]:
    """``inject`` as strace has it: ``signal=KILL:when=3``. What is executed from there on is left alone."""
    names = ",".join(syscalls)
    return ["-f", "-b", "execve", "-y", "-e", f"trace={names}", *(["-e", f"inject={names}:{inject}"] if inject else [])]


class Strace:
    """Attached to a process that runs, to all of its threads. Counts of ``when=`` are a thread's own."""

    def __init__(self, pid: int, log: Path, syscalls: Iterable[str], inject: str = ""):
        self.log = log
        self._process = subprocess.Popen(
            ["strace", *options(syscalls, inject), "-p", str(pid), "-o", str(log)], stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        if "attached" not in self._process.stderr.readline():
            raise ProcessLookupError(pid)

    def stop(self) -> str:
        """Detach; what was seen."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:  # its tracees run on when it is gone
            self._process.kill()
            self._process.communicate()
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def struck(self) -> int:
        """Detach; how many calls were made to fail."""
        return self.stop().count("(INJECTED)")


def count(seen: str) -> dict[str, int]:
    """The most calls of each kind that one thread made, from a trace."""
    found: dict[tuple[str, str], int] = {}
    for thread, call in re.findall(r"^([0-9]+) +([a-z0-9]+)\(", seen, re.MULTILINE):
        found[call, thread] = found.get((call, thread), 0) + 1
    most: dict[str, int] = {}
    for (call, _), times in found.items():
        most[call] = max(times, most.get(call, 0))
    return most


def finished(seen: str) -> str:
    """A trace with each call where it ended; what is sent stays where it began."""
    lines, begun = [], dict[str, str]()
    for line in seen.splitlines():
        thread, _, rest = line.partition(" ")
        if rest.endswith(" <unfinished ...>") and "sendto(" not in rest:
            begun[thread] = rest.removesuffix(" <unfinished ...>")
        elif "resumed>" in rest and thread in begun:
            lines.append(begun.pop(thread) + rest.partition("resumed>")[2])
        else:
            lines.append(rest)
    return "\n".join(lines)


def missing() -> str:
    """What this machine lacks for the experiments, "" if nothing."""
    lacking = [tool for tool in ("strace", "faketime") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        lacking.append("root (for small disks)")
    return ", ".join(lacking)


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "scd-faults", str(place)], check=True)
    try:
        yield place
    finally:
        for _ in range(50):  # what was killed just now may still hold it
            if subprocess.run(["umount", str(place)], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)


def fill(file: Path, keep: int = 0) -> None:
    """Let a file take all but ``keep`` bytes of its disk."""
    left = shutil.disk_usage(file.parent).free - keep
    with contextlib.suppress(OSError), open(file, "ab") as taken:  # it may be full already
        for block in (2**20, 4096, 1):
            with contextlib.suppress(OSError):
                while left >= block:
                    taken.write(bytes(block))
                    taken.flush()
                    left -= block


class Clock:
    """The wall clock of one process, by libfaketime. The monotonic one stays true, as it does in a real leap."""

    def __init__(self, file: Path):
        self._file = file
        self.set(0)

    def set(self, leap: float) -> None:
        """``leap`` seconds from the true time."""
        aside = self._file.with_suffix(".aside")
        aside.write_text(f"{leap:+.0f}\n")
        aside.rename(self._file)

    @property
    def env(self) -> Mapping[str, str]:
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def eventually(condition: object, timeout: float = 30) -> bool:
    """Whether ``condition()`` comes true in time."""
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
