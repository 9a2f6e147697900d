"""Completion for three shells, each script read by its shell where that is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from scd.cli.completion import SHELLS, completion
from scd.cli.main import parser


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_is_told_every_command_and_flag(shell: str) -> None:
    script = completion(parser(), shell)
    for word in ("jobs", "hash-password", "doctor", "noheader", "timing"):
        assert word in script, f"{shell} does not complete {word}"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_can_read_it(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "scdctl"
    file.write_text(completion(parser(), shell))
    done = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_a_command(tmp_path: Path) -> None:
    """As it would at a prompt."""
    file = tmp_path / "scdctl"
    file.write_text(completion(parser(), "bash"))
    asked = (
        f'source {file}; COMP_WORDS=(scdctl no); COMP_CWORD=1; $(complete -p scdctl | sed "s/.*-F //;s/ .*//");'
        ' echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True)
    assert done.stdout.split() == ["nodes"], done.stderr
