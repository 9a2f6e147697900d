"""Commands that run beside each other: real processes, whose answers must be those of a shell."""

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scd import slurm_cli as cli
from scd.slurm_calls import Command, call, calls
from scd.slurm_cli import Answer, Verdict

ENV = {"PATH": "/bin:/usr/bin"}


def sh(script: str) -> Command:
    return Command(["sh", "-c", script])


def test_an_answer_is_all_that_the_command_says() -> None:
    answer = call(["sh", "-c", "cat; echo no >&2; exit 3"], ENV, 10, "x" * 300_000)
    assert answer == Answer(3, "x" * 300_000, "no\n")


def test_the_environment_is_what_was_given_and_no_more() -> None:
    assert call(["env"], {**ENV, "LC_ALL": "C"}, 10).out.splitlines() == ["PATH=/bin:/usr/bin", "LC_ALL=C"]


def test_what_python_ignores_a_command_does_not() -> None:
    assert call(["sh", "-c", "kill -PIPE $$"], ENV, 10).code == -13


def test_a_command_has_no_terminal_and_gets_nobodys_signals() -> None:
    assert call(["sh", "-c", "ps -o sid= -p $$"], ENV, 10).out.strip() not in ("", str(os.getsid(0)))


def test_one_that_hangs_is_ended_with_what_it_started() -> None:
    begin = time.monotonic()
    answer = call(["sh", "-c", "sleep 60 & sleep 60"], ENV, 0.3)
    assert answer.code is None
    assert time.monotonic() - begin < 20, "its child kept the output open"


def test_one_that_is_not_there() -> None:
    answer = call(["/nowhere/sbatch"], {}, 5)
    assert cli.submitted(answer) == (Verdict.LATER, "/nowhere/sbatch: No such file or directory")


def test_answers_come_in_the_order_of_their_commands() -> None:
    commands = [sh(f"sleep 0.{9 - n}; echo {n}") for n in range(8)]
    assert [answer.out for answer in calls(commands, ENV, 10, at_once=8)] == [f"{n}\n" for n in range(8)]


def test_so_many_run_at_once_and_no_more(tmp_path: Path) -> None:
    script = f"mkdir {tmp_path}/$$; sleep 0.2; ls {tmp_path} | wc -l; sleep 0.2; rmdir {tmp_path}/$$"
    found = [int(answer.out) for answer in calls([sh(script)] * 9, ENV, 30, at_once=3)]
    assert len(found) == 9
    assert 1 < max(found) <= 3


def test_after_one_without_an_answer_no_more_are_started(tmp_path: Path) -> None:
    commands = [sh("echo first"), sh("sleep 60"), *(sh(f"sleep 0.6; touch {tmp_path}/{n}; echo {n}") for n in range(9))]
    answers = calls(commands, ENV, 1.0, at_once=2)
    codes = [answer.code for answer in answers]
    assert codes[:2] == [0, None]
    assert codes.count(None) == 1, "those that ran beside it have their answers"
    assert len(answers) == 2 + len(list(tmp_path.iterdir())) < len(commands)


def test_what_was_started_is_not_forgotten_over_one_that_cannot_be_made(tmp_path: Path) -> None:
    def commands() -> Iterator[Command]:
        yield sh(f"sleep 0.3; touch {tmp_path}/ran; echo 1")
        raise OSError("no room for a script")

    assert [answer.out for answer in calls(commands(), ENV, 10, at_once=4)] == ["1\n"]
    assert (tmp_path / "ran").exists()


def test_the_first_that_cannot_be_made_says_why() -> None:
    def commands() -> Iterator[Command]:
        raise OSError("no room for a script")
        yield sh("true")

    with pytest.raises(OSError, match="no room"):
        calls(commands(), ENV, 10)


def test_nothing_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    calls([sh("true"), Command(["/nowhere"]), sh("sleep 9"), sh("true")], ENV, 0.5, at_once=2)
    assert os.listdir("/proc/self/fd") == before


def test_no_descriptor_left_means_later_and_loses_nothing() -> None:
    script = """
import os, resource
from scd.slurm_calls import Command, calls
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for _ in range({free}):
    os.close(held.pop())
answers = calls([Command(["sh", "-c", "echo ran; sleep 0.3"])] * 3, {{"PATH": "/bin:/usr/bin"}}, 10, at_once=3)
print([(answer.code, answer.out, answer.err) for answer in answers])
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("no child is left")
"""
    for free in range(12):
        found = subprocess.run(
            [sys.executable, "-c", script.format(free=free)], capture_output=True, text=True, timeout=60
        )
        answers, children = found.stdout.splitlines()
        for code, out, err in ast.literal_eval(answers):
            assert (code, out, err) in ((0, "ran\n", ""), (127, "", "sh: Too many open files"), (None, "", ""))
        assert children == "no child is left", f"with {free} descriptors"


def test_one_that_cannot_be_killed_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has become another account's, by some wrapper."""
    killed: list[int] = []

    def refuse(pid: int, _: int) -> None:
        killed.append(pid)
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refuse)
        answers = calls([sh("echo 17"), sh("sleep 60")], ENV, 0.5, at_once=2)
    assert [answer.code for answer in answers] == [0, None]
    os.killpg(killed[0], 9)
    os.waitpid(killed[0], 0)
