"""The program around pyslurm, with a library in its place that does as it is told: what it must survive.

What the real one tells is tried in tests/slurm/test_readers.py.
"""

import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from scd.executors.readers import NoAnswer, Queue, Reader, Squeue
from scd.executors.slurm_pyslurm import Choice, Pyslurm, WithFallback, choose

from ..harness import wait_until

NAME = "scd-0123456789abcdef0123456789abcdef-5.1"
LIBRARY = """\
__version__ = "22.5.3"

class Job:
    id, user_id, state, start_time, end_time = 17, 0, "PENDING", None, None
    allocated_nodes, state_reason = None, "Resources"
    array_id = array_task_id = array_tasks_waiting = None
    name = {name!r}

class Odd(Job):
    @property
    def name(self):
        return b"\\xff".decode()

class Jobs:
    @staticmethod
    def load():
        {load}
        return {{1: Odd(), 17: Job()}}
"""
HANG = "import ctypes; ctypes.PyDLL(None).pause()"  # as a call of libslurm's: it keeps Python's lock

Install = Callable[..., Mapping[str, str]]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A library, or any text as it, and a Slurm whose commands answer; the environment in which they are found."""
    library, commands = tmp_path / "library", tmp_path / "commands"
    for directory in (library, commands):
        directory.mkdir()
    python = tmp_path / "python"
    # -B: a library that is written twice in a second is compiled twice.
    python.write_text(f'#!/bin/sh\nPYTHONPATH={library} exec {shlex.quote(sys.executable)} -B "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.syspath_prepend(str(library))
    squeue = f'echo "${{SQUEUE_FORMAT%%|*}}|18|0|PENDING|N/A|N/A||{NAME}|Resources"'
    for name, script in {"scontrol": "echo slurm-wlm 22.05.8", "squeue": squeue}.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)

    def write(text: str = "", load: str = "") -> Mapping[str, str]:
        (library / "pyslurm.py").write_text(text or LIBRARY.format(name=NAME, load=load or "pass"))
        return {"PATH": f"{commands}:/usr/bin:/bin"}

    return write


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    wait_until(lambda: not helpers(), "the program around pyslurm is still there")


def helpers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "scd.executors.pyslurm_helper" in one.cmdline()]


def chosen(env: Mapping[str, str]) -> Choice:
    choice = choose(env)
    choice.reader.close()
    return choice


def ids(found: Queue) -> list[str]:
    return [row.id for row in found[NAME]]


def test_one_that_fits_is_used(install: Install) -> None:
    choice = choose(install())
    with closing(choice.reader):
        assert choice.why == "pyslurm 22.5.3 reads Slurm's queue, that of slurm-wlm 22.05.8."
        assert ids(choice.reader.read()) == ids(choice.reader.read()) == ["17"]
        assert len(helpers()) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('__version__ = "23.2.1"', "pyslurm 23.2.1 is not for slurm-wlm 22.05.8: X.Y must be equal."),
        ('__version__ = "2.25.1"', "pyslurm 2.25.1 is not for slurm-wlm 22.05.8: X.Y must be equal."),
        ('raise ImportError("libslurm.so.38: no such file")', "ImportError: libslurm.so.38: no such file"),
        ("import os; os._exit(1)", "pyslurm does not start: its program ended in the middle"),
    ],
)
def test_one_that_does_not_fit_is_not_used(install: Install, text: str, why: str) -> None:
    choice = chosen(install(text))
    assert isinstance(choice.reader, Squeue)
    assert not choice.fits
    assert choice.why.startswith("squeue reads Slurm's queue; ")
    assert why in choice.why


def test_what_it_prints_is_no_answer(install: Install) -> None:
    env = install(load='print("slurm_load_jobs: warning"); import os; os.write(1, b"more")')
    with closing(Pyslurm(env)) as reader:
        assert ids(reader.read()) == ["17"]


def test_an_error_is_no_empty_queue(install: Install) -> None:
    env = install(load='raise ValueError("Unable to contact slurm controller")')
    with closing(Pyslurm(env)) as reader, pytest.raises(NoAnswer, match="ValueError: Unable to contact"):
        reader.read()


@pytest.mark.parametrize("load", [HANG, "import os; os.kill(os.getpid(), 11)", "import os; os._exit(0)"])
def test_one_that_hangs_or_dies_is_ended_and_started_again(install: Install, load: str) -> None:
    env = install(load=load)
    with closing(Pyslurm(env, deadline=5)) as reader:
        begin = time.monotonic()
        with pytest.raises(NoAnswer):
            reader.read()
        assert time.monotonic() - begin < 60
        assert not helpers()
        install()
        assert ids(reader.read()) == ["17"]


def test_squeue_reads_while_it_fails(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    env = install(load='raise RuntimeError("a bug")')
    with closing(WithFallback(Pyslurm(env), Squeue(env))) as reader:
        assert ids(reader.read()) == ["18"]
        install()
        assert ids(reader.read()) == ["18"], "it is not left alone for a while"
    (line,) = caplog.messages
    assert "RuntimeError: a bug" in line


def test_a_close_ends_one_that_hangs(install: Install) -> None:
    reader: Reader = Pyslurm(install(load=HANG))
    said: list[str] = []

    def read() -> None:
        try:
            reader.read()
        except NoAnswer as error:
            said.append(error.message)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(helpers, "it does not start")
    time.sleep(0.5)
    reader.close()
    thread.join(20)
    assert said == ["its program ended in the middle"]


def test_one_that_nobody_ends_ends_by_itself(install: Install) -> None:
    argv = [sys.executable, "-m", "scd.executors.pyslurm_helper", "2"]
    done = subprocess.run(argv, input=b"\n", env=install(load=HANG), cwd="/", stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == -signal.SIGALRM


def test_it_ends_with_its_input(install: Install) -> None:
    reader = Pyslurm(install())
    reader.start()
    (process,) = helpers()
    assert reader._process is not None
    assert reader._process.stdin is not None
    reader._process.stdin.close()
    wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, "it outlives what it served")
    with pytest.raises(NoAnswer), closing(reader):
        reader._answer(reader._process)
