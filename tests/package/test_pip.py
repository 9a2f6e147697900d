"""``pip install .`` into a fresh environment of the system's Python."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness import ROOT, RUNTIME

_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pip") / "scd"
    subprocess.run(["sh", str(ROOT / "tests" / "make-venv"), str(made)], check=True)
    done = subprocess.run([made / "bin/pip", "install", "-q", str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def shipped() -> Iterator[tuple[Path, str]]:
    """A file of the source, and where it lies below an environment."""
    for page in (ROOT / "man").iterdir():
        yield page, f"share/man/man{page.suffix[1:]}/{page.name}"
    for sample in (ROOT / "etc").iterdir():
        yield sample, f"share/doc/scd/examples/{sample.name}"
    for unit in (ROOT / "systemd").glob("scd*"):
        yield unit, f"lib/systemd/system/{unit.name}"
    for kind in ("sysusers.d", "tmpfiles.d"):
        yield ROOT / "systemd" / kind / "scd.conf", f"lib/{kind}/scd.conf"


def test_the_programs_run(place: Path) -> None:
    for program in ("scd", "scdctl", "scd-launcher"):
        done = subprocess.run([place / "bin" / program, "--version"], capture_output=True, text=True, cwd="/")
        assert done.stdout.startswith(f"{program} "), done.stderr


def test_the_manual_the_units_and_the_samples_lie_beside_them(place: Path) -> None:
    for source, target in shipped():
        assert (place / target).is_file(), f"pyproject.toml does not install {source}"
        assert (place / target).read_bytes() == source.read_bytes()


def test_the_demo_runs_with_another_environments_siliconcompiler(place: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [place / "bin" / "scd-demo", "--runtime", RUNTIME, "--directory", str(tmp_path)], cwd="/",
        env={"PATH": _PATH, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=180,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "build/heartbeat/job0/elaborate/0/outputs/heartbeat.v").exists()
