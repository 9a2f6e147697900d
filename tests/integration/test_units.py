"""The systemd units, by systemd's own judgement."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: apt-get install systemd)"
)


def test_the_units_are_valid(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/bin/scd", "/bin/true")
        (tmp_path / unit.name).write_text(re.sub(r"^Documentation=.*$", "", text, flags=re.MULTILINE))
    for unit in UNITS.iterdir():
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)], capture_output=True, text=True
        )
        ours = [line for line in (done.stdout + done.stderr).splitlines() if "scd." in line]
        assert ours == [], f"{unit.name}: {ours}"


def test_the_service_is_hardened() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(UNITS / "scd.service")],
        capture_output=True, text=True,
    )  # fmt: skip
    score = re.search(r"Overall exposure level for scd\.service: ([0-9.]+)", done.stdout)
    assert score is not None, done.stdout + done.stderr
    assert float(score[1]) <= 3.0, "exposed more than it need be"


def test_jobs_survive_a_restart_of_the_service() -> None:
    text = (UNITS / "scd.service").read_text()
    for line in ("KillMode=process", "RuntimeDirectoryPreserve=restart", "Type=notify"):
        assert f"\n{line}\n" in text
    assert "PrivateTmp=yes" not in text, "the jobs' temporary directories would vanish"
