"""The systemd units, by systemd's own judgement."""

import os
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
    units = [path for path in UNITS.iterdir() if path.is_file()]
    assert {unit.suffix for unit in units} == {".service", ".socket", ".timer"}
    for unit in units:
        text = re.sub(r"/usr/bin/scd\S*", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(re.sub(r"^Documentation=.*$", "", text, flags=re.MULTILINE))
    for unit in units:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)], capture_output=True, text=True
        )
        ours = [line for line in (done.stdout + done.stderr).splitlines() if "scd" in line]
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
    for line in ("KillMode=process", "RuntimeDirectoryPreserve=yes", "Type=notify"):
        assert f"\n{line}\n" in text
    assert "PrivateTmp=yes" not in text, "the jobs' temporary directories would vanish"


def test_the_account_and_the_directories(tmp_path: Path) -> None:
    """In an empty root: what sysusers.d and tmpfiles.d of this machine hold does not count."""
    if os.geteuid() != 0:
        pytest.skip("only root makes accounts")
    (tmp_path / "etc").mkdir()
    for kind, tool, option in (("sysusers.d", "systemd-sysusers", ""), ("tmpfiles.d", "systemd-tmpfiles", "--create")):
        file = UNITS / kind / "scd.conf"
        command = [tool, f"--root={tmp_path}", *filter(None, [option]), str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (account,) = (line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("scd:"))
    assert account.endswith(":/var/lib/scd:/usr/sbin/nologin"), "somebody could log in as scd"
    modes = {path: (tmp_path / path).stat().st_mode & 0o7777 for path in ("etc/scd", "var/lib/scd", "var/backups/scd")}
    assert modes == {"etc/scd": 0o750, "var/lib/scd": 0o711, "var/backups/scd": 0o700}
