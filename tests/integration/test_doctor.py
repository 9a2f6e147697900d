"""scdctl doctor: what it finds in installations that are well, and in such as are not."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import argon2
import pytest

from ..harness import Daemon, can_isolate
from .submission import collected, manifest

HASH = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")


class Report(NamedTuple):
    status: int
    findings: list[dict[str, str]]

    def of(self, check: str) -> dict[str, str]:
        """The worst finding of a check."""
        order = ("bad", "note", "good")
        return min((one for one in self.findings if one["check"] == check), key=lambda one: order.index(one["level"]))

    @property
    def bad(self) -> list[str]:
        return [one["check"] for one in self.findings if one["level"] == "bad"]


def doctor(daemon: Daemon) -> Report:
    done = subprocess.run(
        [sys.executable, "-m", "scd.cli.main", "-c", str(daemon.file), "--json", "doctor"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer["version"] == 1
    assert "Traceback" not in done.stderr
    for finding in answer["findings"]:
        assert finding["level"] == "good" or finding["level"] == "note" or finding["remedy"], finding
    return Report(done.returncode, answer["findings"])


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("well"))
    yield daemon.start()
    daemon.end_everything()


def test_a_daemon_that_is_well(well: Daemon) -> None:
    report = doctor(well)
    assert (report.status, report.bad) == (0, [])
    checks = {finding["check"] for finding in report.findings}
    assert {"config", "disk", "permissions", "clock", "cgroups", "runtime", "tools", "database", "daemon"} <= checks
    assert re.search(r"SiliconCompiler 0\.\S+ in \S+, of schema 0\.\d+\.\d+; it takes manifests of schema 0\.54 to 0\.",
                     report.of("runtime")["text"])  # fmt: skip
    if can_isolate():
        assert "Jobs run in sandboxes (bubblewrap" in report.of("sandbox")["text"]


def test_the_tools_are_those_that_nodes_find(well: Daemon) -> None:
    """Seen from inside: what a job can run is there, what it cannot run is missing."""
    text = doctor(well).of("tools")["text"]
    there, _, missing = text.partition("; they do not find ")
    job_hash = str(
        well.submit(manifest("work", f"script={_SEEN}"), collected("work", f"script={_SEEN}")).json()["job_hash"]
    )
    well.wait(job_hash)
    seen = "iverilog" if "iverilog" in there else "yosys"
    assert (seen in there) != (seen in missing)
    status = well.rows("SELECT state FROM nodes WHERE job_hash = ? AND step = 'work'", job_hash)[0]["state"]
    assert (status == "success") == ("iverilog" in there)


_SEEN = "command -v iverilog"


def test_for_people_it_names_what_mends(well: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scd.cli.main", "-c", str(well.file), "doctor"], capture_output=True, text=True
    )
    assert "good  daemon       scd answers at" in done.stdout
    assert "-> systemctl enable --now scd-backup.timer" in done.stdout
    assert "\x1b" not in done.stdout


def test_it_changes_nothing(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "scd")
    daemon.start()
    daemon.stop()

    def state() -> dict[str, tuple[int, int]]:
        found = (path.lstat() for path in sorted(tmp_path.rglob("*")))
        paths = sorted(map(str, tmp_path.rglob("*")))
        return {path: (one.st_mtime_ns, one.st_size) for path, one in zip(paths, found, strict=True)
                if not path.endswith(("-shm", "-wal"))}  # fmt: skip

    before = state()
    report = doctor(daemon)
    assert report.bad == ["daemon"]
    assert report.status == 1
    assert "Is it running?" in report.of("daemon")["text"]
    assert "systemctl start scd" in report.of("daemon")["remedy"]
    assert {path: value for path, value in state().items() if not os.path.isdir(path)} == {
        path: value for path, value in before.items() if not os.path.isdir(path)
    }


def test_before_the_first_start(tmp_path: Path) -> None:
    report = doctor(Daemon(tmp_path / "scd"))
    assert report.bad == ["daemon"]
    assert "scd makes it at its start" in report.of("database")["text"]
    assert not (tmp_path / "scd" / "state").exists()


def test_a_configuration_that_is_not_valid(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.file.write_text("[limits]\nmax_nodez = 1\n")
    report = doctor(daemon)
    assert report.bad == ["config"]
    assert f"{daemon.file}: limits.max_nodez: there is no such key" in report.of("config")["text"]


def test_what_others_may_read_or_write(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, f'[users.alice]\npassword_hash = "{HASH}"\n')
    for directory in (daemon.state, daemon.state / "spool", tmp_path / "cache"):
        directory.mkdir(mode=0o700)
    daemon.file.chmod(0o644)
    daemon.state.chmod(0o775)
    findings = [one for one in doctor(daemon).findings if one["check"] == "permissions"]
    assert {(one["level"], one["remedy"].split(" && ")[-1]) for one in findings} == {
        ("bad", f"chmod 0640 {daemon.file}"), ("bad", f"chmod go-w {daemon.state}"),
        ("bad", f"chmod 0755 {daemon.state}"),
    }  # fmt: skip
    daemon.file.chmod(0o640)
    daemon.state.chmod(0o700)
    assert doctor(daemon).of("permissions")["level"] == "good"


def test_a_disk_with_too_little_left(tmp_path: Path) -> None:
    report = doctor(Daemon(tmp_path, paths='min_free = "1000TiB"'))
    assert "no job is taken" in report.of("disk")["text"]
    assert report.of("disk")["level"] == "bad"


def test_a_runtime_that_has_no_siliconcompiler(tmp_path: Path) -> None:
    report = doctor(Daemon(tmp_path, runtime="/usr/bin/true"))
    assert "it printed no version" in report.of("runtime")["text"]
    assert "runtime" in report.bad


def test_a_damaged_database_and_an_old_backup(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path).start()
    for _ in range(3):
        daemon.wait(str(daemon.submit(manifest("chain"), collected("chain")).json()["job_hash"]))
    backup = tmp_path / "backup.db"
    command = [sys.executable, "-m", "scd.cli.main", "-c", str(daemon.file), "backup", str(backup)]
    subprocess.run(command, check=True, capture_output=True)
    assert doctor(daemon).of("backup")["level"] == "good"
    daemon.stop()
    long_ago = time.time() - 20 * 86400
    os.utime(backup, (long_ago, long_ago))
    database = daemon.state / "scd.db"
    data = bytearray(database.read_bytes())
    hash_at = data.rindex(str(daemon.rows("SELECT job_hash FROM jobs")[0]["job_hash"]).encode())
    data[hash_at] ^= 1
    database.write_bytes(data)
    report = doctor(daemon)
    assert report.of("backup")["level"] == "bad"
    assert "20 days old" in report.of("backup")["text"]
    assert report.of("database")["level"] == "bad"
    assert f"scdctl restore {backup}" in report.of("database")["remedy"] + report.of("database")["text"]
