"""The Debian package in a clean system: installed by apt in a chroot, then booted, used, upgraded and purged.

Each test goes on where the one before it ended.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .. import machine
from ..harness import ROOT, wait_until
from . import debian
from .booted import CREDENTIALS, RUNTIME, client, finish, install, listed, node

NEW = "9.0.0"
_LATER = f"{RUNTIME}.later"
# SiliconCompiler is at another place than the configuration says.
_INSTALL = f"""
{install(_LATER)}
cp "$OLD" "$NEW" root/
"""
_ASK = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/healthz').status)"


@pytest.fixture(scope="module")
def host(package: Path, tree: debian.Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[machine.Machine]:
    if reason := machine.why_not():
        pytest.skip(reason)
    new = debian.later(package, NEW, tmp_path_factory.mktemp("later") / "build")
    made = machine.Machine(
        tmp_path_factory.mktemp("boot"), _INSTALL, tree.place, OLD=str(tree.place / "root/scd.deb"), NEW=str(new)
    )
    with machine.booted(made):
        made.write("/root/credentials", json.dumps(CREDENTIALS))
        yield made


def version(host: machine.Machine) -> str:
    return host.run("scd", "--version").stdout.split()[1]


def modes(host: machine.Machine, *paths: str) -> list[str]:
    return host.run("stat", "-c", "%a %U %G", *paths).stdout.splitlines()


def test_apt_installs_it(tree: debian.Tree) -> None:
    """And what an installation has: programs, account, directories, manual pages, samples."""
    assert tree.run("scd", "--version").stdout.startswith("scd ")
    assert tree.run("sh", "-c", "echo secret | scdctl hash-password").stdout.startswith("$argon2id$")
    wanted = (
        "etc/scd/scd.toml", "usr/bin/scd-launcher", "usr/bin/scd-demo", "usr/share/man/man8/scd.8.gz",
        "usr/share/man/man5/scd.toml.5.gz", "usr/share/bash-completion/completions/scdctl",
        "usr/share/zsh/vendor-completions/_scdctl", "usr/share/fish/vendor_completions.d/scdctl.fish",
        "usr/share/doc/scd/examples/nginx-scd.conf", "usr/share/doc/scd/examples/apparmor-bwrap",
        "usr/share/doc/scd/copyright", "usr/share/doc/scd/ADMIN.md", "usr/lib/sysusers.d/scd.conf",
        "usr/lib/systemd/system/scd-jobs.service",
    )  # fmt: skip
    assert [path for path in wanted if not (tree.place / path).exists()] == []
    assert tree.run("id", "-gn", "scd").stdout == "scd\n"
    owners = tree.run("stat", "-c", "%a %U %G", "/etc/scd", "/etc/scd/scd.toml", "/var/lib/scd").stdout.splitlines()
    assert owners == ["750 root scd", "640 root scd", "711 scd scd"]


def test_it_is_compiled_for_the_systems_python(tree: debian.Tree) -> None:
    """scd's account could not do it later, and would start slowly for ever."""
    site = tree.place / "usr/lib/scd/lib/python3/site-packages"
    for name in ("scd/daemon", "starlette/routing"):
        assert list((site / name).parent.glob(f"__pycache__/{Path(name).name}.cpython-*.pyc")), name


def test_it_is_compiled_anew_for_another_one(tree: debian.Tree) -> None:
    """As python3's own package asks for it."""
    compiled = next((tree.place / "usr/lib/scd/lib/python3/site-packages/scd/__pycache__").glob("daemon.*.pyc"))
    before = compiled.stat().st_mtime_ns
    tree.run("/usr/share/python3/runtime.d/scd.rtupdate", "rtupdate", "python3.10", "python3.11")
    assert compiled.stat().st_mtime_ns > before


def test_it_names_nothing_of_the_machine_that_built_it(tree: debian.Tree) -> None:
    for name in tree.run("dpkg", "-L", "scd").stdout.split():
        file = tree.place / name.lstrip("/")
        if file.is_file() and not file.is_symlink():
            assert str(ROOT).encode() not in file.read_bytes(), f"{name} names {ROOT}"


def test_without_a_runtime_it_says_how_to_make_one(tree: debian.Tree) -> None:
    done = tree.run("scd", "--check-config", check=False)
    assert done.returncode == 78
    assert f"python3 -m venv {RUNTIME} && {RUNTIME}/bin/pip install siliconcompiler" in done.stderr


def test_so_does_the_journal_at_the_first_boot(host: machine.Machine) -> None:
    assert host.show("scd.service", "ExecMainStatus") == "78"
    assert host.show("scd.service", "NRestarts") == "0", "tried again and again"
    assert f"python3 -m venv {RUNTIME}" in host.run("journalctl", "-u", "scd", "--no-pager").stdout
    others = host.systemctl("list-units", "--failed", "--plain", "--no-legend").split("\n")
    assert [line.split()[0] for line in others] == ["scd.service"]


def test_with_one_it_starts_and_takes_a_job(host: machine.Machine) -> None:
    host.run("mv", _LATER, RUNTIME)
    assert host.run("runuser", "-u", "scd", "--", "scd", "--check-config").stdout == "The configuration is good.\n"
    host.systemctl("start", "scd.socket", "scd")
    assert host.run("/usr/bin/python3", "-c", _ASK).stdout == "200\n"
    with client(host, "first", "echo hello") as process:
        finish(host, "first", process)
    assert [job["status"] for job in listed(host, "jobs")] == ["completed"]
    findings = json.loads(host.run("scdctl", "--json", "doctor", check=False).stdout)["findings"]
    assert [finding for finding in findings if finding["level"] == "bad"] == []


def test_an_upgrade_restarts_it_under_a_running_job(host: machine.Machine) -> None:
    config = host.run("cat", "/etc/scd/scd.toml").stdout
    host.write("/etc/scd/scd.toml", f"{config}#mine\n")
    before, before_jobs = host.show("scd.service", "MainPID"), host.show("scd-jobs.service", "MainPID")
    with client(host, "upgraded", "sleep 600.75; true") as process:
        pid = node(host, "600.75")
        done = host.run("dpkg", "--force-confdef", "--force-confold", "--install", f"/root/scd_{NEW}.deb")
        assert version(host) == NEW
        assert host.show("scd.service", "ActiveState") == "active", done.stdout + done.stderr
        assert host.show("scd.service", "MainPID") != before, "the old one runs still"
        assert host.show("scd-jobs.service", "MainPID") == before_jobs
        assert node(host, "600.75") == pid, "the node did not survive the upgrade"
        assert host.show("scd-launcher.service", "ActiveState") == "inactive", "nobody asked for it"
        host.run("kill", pid)  # it has slept enough
        finish(host, "upgraded", process)
    assert [job["status"] for job in listed(host, "jobs")] == ["completed", "completed"]
    assert host.run("tail", "-1", "/etc/scd/scd.toml").stdout == "#mine\n", "the administrator's own lines are gone"
    assert "What is new" in host.run("cat", "/etc/scd/scd.toml.dpkg-dist").stdout
    assert modes(host, "/etc/scd/scd.toml", "/var/lib/scd") == ["640 root scd", "711 scd scd"]


def test_the_way_back(host: machine.Machine) -> None:
    """As docs/ADMIN.md tells it: the version before, and its database, which the upgrade kept."""
    with client(host, "after", "true") as process:
        finish(host, "after", process)
    host.run("dpkg", "--force-downgrade", "--force-confold", "--install", "/root/scd.deb")
    assert host.show("scd.service", "ActiveState") != "active"
    assert "newer" in host.run("journalctl", "-u", "scd", "--no-pager", "-n", "20").stdout
    host.systemctl("stop", "scd.socket", "scd")
    schema = debian.newest(ROOT / "scd" / "store" / "migrations")
    host.run("scdctl", "restore", f"/var/lib/scd/scd.db.schema-{schema}")
    host.systemctl("reset-failed", "scd")
    host.systemctl("start", "scd.socket", "scd")
    assert [job["status"] for job in listed(host, "jobs")] == ["completed", "completed"], (
        "those from before the upgrade"
    )
    assert "belongs to no job" in host.run("scdctl", "check", check=False).stdout
    host.run("scdctl", "check", "--fix")
    with client(host, "back", "true") as process:
        finish(host, "back", process)


def test_a_removal_ends_it_and_its_jobs_and_keeps_everything(host: machine.Machine) -> None:
    with client(host, "removed", "sleep 600.25") as process:
        node(host, "600.25")
        host.run("dpkg", "--remove", "scd")
        process.kill()
    assert host.run("pgrep", "-u", "scd", check=False).stdout == "", host.run("ps", "-u", "scd", "-f").stdout
    assert host.run("systemctl", "cat", "scd.service", check=False).returncode != 0
    kept = host.run("ls", "/etc/scd/scd.toml", "/var/lib/scd/scd.db").stdout.split()
    assert len(kept) == 2
    assert host.run("ls", "/usr/lib/scd", check=False).stdout == "", "something is left of the programs"


def test_a_purge_keeps_what_users_computed(host: machine.Machine) -> None:
    done = host.run("dpkg", "--purge", "scd")
    assert "scd's jobs are kept, in /var/lib/scd" in done.stdout
    assert host.run("ls", "-d", "/var/lib/scd/scd.db").returncode == 0
    assert host.run("ls", "-d", "/etc/scd", "/var/cache/scd", "/run/scd", check=False).stdout == ""
    assert host.run("id", "-un", "scd").stdout == "scd\n", "whose should the files be?"


def test_installed_again_it_finds_them_and_starts_by_itself(host: machine.Machine) -> None:
    done = host.run("dpkg", "--install", "/root/scd.deb")
    assert host.show("scd.service", "ActiveState") == "active", done.stdout + done.stderr + host.journal()
    assert host.show("scd.socket", "ActiveState") == "active"
    states = {"completed", "failed"}  # the job that the removal ended has failed
    wait_until(lambda: {job["status"] for job in listed(host, "jobs")} == states, f"{listed(host, 'jobs')}", 60)


def test_where_it_never_ran_a_purge_leaves_nothing(host: machine.Machine) -> None:
    host.run("dpkg", "--purge", "scd")
    host.run("rm", "-r", "/var/lib/scd")
    host.run("mv", RUNTIME, _LATER)
    listing = ("find", "/", "-xdev", "(", "-path", "/var/log", "-o", "-path", "/var/lib/dpkg", "-o", "-path", "/tmp",
               ")", "-prune", "-o", "-print")  # fmt: skip
    before = host.run(*listing).stdout
    said = host.run("dpkg", "--install", "/root/scd.deb").stdout
    assert f"python3 -m venv {RUNTIME}" in said, "it does not tell what is missing"
    assert "systemctl start scd.socket scd" in said
    assert host.show("scd.service", "ActiveState") == "inactive", "a start was tried that must fail"
    host.run("dpkg", "--purge", "scd")
    left = set(host.run(*listing).stdout.splitlines()) - set(before.splitlines())
    assert left == set()
