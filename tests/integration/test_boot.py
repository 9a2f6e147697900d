"""scd's units on a machine that is booted for it: by its socket, under a job, under a watchdog."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import argon2
import pytest

from ..harness import wait_until
from ..machine import PYTHON, Machine, machine, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

HASH = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")
CONFIG = f"""
[[runtime]]
python = "{PYTHON}"
[users.alice]
password_hash = "{HASH}"
"""
CREDENTIALS = {"address": "http://localhost", "port": 8080, "username": "alice", "password": "secret",
               "directory_whitelist": []}  # fmt: skip


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("boot"), CONFIG) as made:
        made.write("/tmp/credentials", json.dumps(CREDENTIALS))
        yield made


@contextlib.contextmanager
def client(host: Machine, name: str, script: str) -> Iterator["subprocess.Popen[str]"]:
    """The real client, on that machine, until it has finished or the test has failed."""
    host.run("mkdir", f"/tmp/{name}")
    command = [*host.command(), "HOME=/tmp", PYTHON, "/opt/scd/client.py", "work", "/tmp/credentials", f"/tmp/{name}"]
    with subprocess.Popen(
        [*command, f"script={script}", "threads=1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(host: Machine, name: str, process: "subprocess.Popen[str]") -> dict[str, str]:
    """Wait for the client's good end; the states of its nodes."""
    out, _ = process.communicate(timeout=120)
    report = host.run("cat", f"/tmp/{name}/report.json", check=False).stdout
    assert report, f"the client did not finish:\n{out}\n{host.journal()}"
    found = json.loads(report)
    assert found["error"] == "", f"{out}\n{host.journal()}"
    return dict(found["statuses"])


def nodes(host: Machine) -> list[dict[str, Any]]:
    return list(json.loads(host.run("scdctl", "--json", "nodes", "-S", "today").stdout)["nodes"])


def running(host: Machine, mark: str) -> str:
    """The pid, inside, of a node's own program, which sleeps until it is killed."""
    return host.run("pgrep", "-f", f"^sleep {mark}$", check=False).stdout.strip()


def started(host: Machine, mark: str) -> str:
    """The same, once it runs."""
    wait_until(lambda: running(host, mark), "the node never ran", 60)
    return running(host, mark)


def test_nothing_failed_while_it_booted(host: Machine) -> None:
    assert host.systemctl("is-system-running") == "running", host.systemctl("--failed", "--no-legend")
    assert host.run("id", "-gn", "scd").stdout == "scd\n", "sysusers.d made no account"
    modes = host.run("stat", "-c", "%a %U %G", "/etc/scd", "/etc/scd/scd.toml", "/var/lib/scd", "/var/backups/scd")
    assert modes.stdout.splitlines() == ["750 root scd", "640 root scd", "711 scd scd", "700 scd scd"]


def test_the_first_client_starts_it(host: Machine) -> None:
    assert host.show("scd.socket", "ActiveState") == "active"
    assert host.show("scd.service", "ActiveState") == "inactive"
    with client(host, "first", "echo hello > outputs/hello") as process:
        finish(host, "first", process)
    assert host.show("scd.service", "ActiveState") == "active"
    assert host.show("scd.service", "User") == "scd"


def test_the_doctor_finds_it_well(host: Machine) -> None:
    done = host.run("scdctl", "--json", "doctor", check=False)
    findings = json.loads(done.stdout)["findings"]
    assert [finding for finding in findings if finding["level"] == "bad"] == []
    assert any("Jobs run in sandboxes" in finding["text"] for finding in findings), "not tried as scd's account"


def test_a_reload_takes_what_is_new_or_says_what_is_wrong(host: Machine) -> None:
    before = host.show("scd.service", "MainPID")
    host.write("/etc/scd/conf.d/terms.toml", '[server]\nterms = "be kind"\n')
    host.run("chmod", "-R", "a+rX", "/etc/scd/conf.d")
    host.systemctl("reload", "scd")
    assert "be kind" in host.run("curl", "-sS", "-d", "{}", "http://localhost:8080/check_server/").stdout
    host.write("/etc/scd/conf.d/terms.toml", "[server]\nterms = 5\n")
    assert host.run("systemctl", "reload", "scd", check=False).returncode == 1
    journal = host.run("journalctl", "--no-pager", "-u", "scd", "-n", "20").stdout
    assert "terms.toml: server.terms: Expected `str`, got `int`" in journal, "systemd's journal does not say why"
    assert host.show("scd.service", "ActiveState") == "active"
    host.run("rm", "/etc/scd/conf.d/terms.toml")
    host.systemctl("reload", "scd")
    assert "be kind" not in host.run("curl", "-sS", "-d", "{}", "http://localhost:8080/check_server/").stdout
    assert host.show("scd.service", "MainPID") == before, "a reload was a restart"


def test_a_job_outlives_a_restart_and_its_client_sees_nothing_of_it(host: Machine) -> None:
    before = host.show("scd.service", "MainPID")
    with client(host, "restarted", "sleep 600.25; true") as process:
        node = started(host, "600.25")
        host.systemctl("restart", "scd")
        assert host.show("scd.service", "MainPID") != before
        assert running(host, "600.25") == node, "the node did not survive the restart"
        host.run("kill", node)  # it has slept enough
        statuses = finish(host, "restarted", process)
    assert statuses == {"get/0": "success", "work/0": "success", "after/0": "success"}
    assert {node["attempts"] for node in nodes(host)} == {1}, "a node ran twice"


def test_a_stop_leaves_jobs_alone_and_the_next_client_starts_it_again(host: Machine) -> None:
    with client(host, "stopped", "sleep 600.5; true") as process:
        node = started(host, "600.5")
        host.systemctl("stop", "scd")
        assert running(host, "600.5") == node, "the node did not survive the stop"
        host.run("kill", node)
        finish(host, "stopped", process)  # whose polls start scd again
    assert host.show("scd.service", "ActiveState") == "active"
    assert host.run("scdctl", "doctor", check=False).returncode == 0, "scd does not answer at its Unix socket any more"


def test_a_user_of_the_machine_sees_his_own_jobs(host: Machine) -> None:
    host.run("useradd", "--create-home", "alice")
    host.run("useradd", "--create-home", "mallory")
    listed = json.loads(host.run("scdctl", "--json", "jobs", account="alice").stdout)["jobs"]
    assert {job["user"] for job in listed} == {"alice"}
    refused = host.run("scdctl", "jobs", account="mallory", check=False)
    assert refused.returncode == 4
    assert "mallory is no user of scd" in refused.stderr


def test_a_daemon_that_hangs_is_started_anew(host: Machine) -> None:
    host.write("/etc/systemd/system/scd.service.d/quick.conf", "[Service]\nWatchdogSec=3s\n")
    host.systemctl("daemon-reload")
    host.systemctl("restart", "scd")
    time.sleep(5)  # nothing is asked of it, and it lives
    before = host.show("scd.service", "MainPID")
    assert host.show("scd.service", "NRestarts") == "0", host.journal()
    host.run("kill", "-STOP", before)
    wait_until(lambda: host.show("scd.service", "NRestarts") == "1", "the watchdog did not bite", 60)
    wait_until(lambda: host.show("scd.service", "ActiveState") == "active", "it was not started anew", 60)
    assert host.show("scd.service", "MainPID") != before
    assert host.run("scdctl", "doctor", check=False).returncode == 0


def test_the_daily_backup(host: Machine) -> None:
    host.systemctl("start", "scd-backup.timer")
    assert host.show("scd-backup.timer", "ActiveState") == "active"
    for _ in range(2):  # that of the week before is replaced
        host.systemctl("start", "scd-backup.service")
    (name,) = host.run("ls", "/var/backups/scd").stdout.split()
    assert name.startswith("scd-")
    findings = json.loads(host.run("scdctl", "--json", "doctor", check=False).stdout)["findings"]
    assert next(finding["level"] for finding in findings if finding["check"] == "backup") == "good"


def test_the_configuration_as_a_credential(host: Machine) -> None:
    """As the unit's comment says: root's alone."""
    trial = ("systemd-run", "--wait", "--pipe", "--property=LoadCredential=x:/etc/hostname")
    if host.run(*trial, "sh", "-c", "cat $CREDENTIALS_DIRECTORY/x", check=False).returncode:
        pytest.skip("systemd hands over no credentials on this kernel: test_cgroups tries it in a second machine")
    unit = host.run("cat", "/usr/lib/systemd/system/scd.service").stdout
    example = [line[1:] for line in unit.splitlines() if line.startswith(("#LoadCredential=", "#ExecStart="))]
    host.write("/etc/systemd/system/scd.service.d/credential.conf", "\n".join(["[Service]", *example, ""]))
    host.run("chown", "root:root", "/etc/scd/scd.toml")
    host.run("chmod", "0600", "/etc/scd/scd.toml")
    host.systemctl("daemon-reload")
    host.systemctl("restart", "scd")
    with client(host, "credential", "true") as process:
        finish(host, "credential", process)
    host.run("rm", "/etc/systemd/system/scd.service.d/credential.conf")
    host.run("systemd-tmpfiles", "--create")
    host.systemctl("daemon-reload")
    host.systemctl("restart", "scd")


def test_jobs_under_an_account_of_their_own(host: Machine) -> None:
    text = host.run("cat", "/etc/scd/scd.toml").stdout
    host.write("/etc/scd/scd.toml", f'{text}account = "alice"\n')
    host.systemctl("start", "scd-launcher")
    host.systemctl("restart", "scd")
    with client(host, "own", "sleep 600.75; true") as process:
        node = started(host, "600.75")
        assert host.run("ps", "-o", "user=", "-p", node).stdout.strip() == "alice"
        host.systemctl("restart", "scd", "scd-launcher")
        assert running(host, "600.75") == node, "the node did not survive the restart"
        host.run("kill", node)
        finish(host, "own", process)
