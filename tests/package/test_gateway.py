"""A gateway with Slurm, all of it services of systemd, set up by docs/ADMIN.md's own commands.

Each test goes on where the one before it ended.
"""

import json
import re
import textwrap
from collections.abc import Iterator

import pytest

from .. import machine
from ..harness import ROOT, wait_until
from . import debian
from .booted import CREDENTIALS, RUNTIME, client, finish, install, listed, node

_HEADING = "## A gateway with Unix accounts and Slurm\n"
_PASSWORD = "secret"
# It claims more than this machine has. Slurm resolves no name where there is no address but loopback's.
_CLUSTER = """\
ClusterName=test
SlurmctldHost=gate
SlurmUser=slurm
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=gate CPUs=4 RealMemory=16000
PartitionName=compute Nodes=gate Default=YES
"""
# /shared is a file system of another machine, which takes its time. Those of overlays number files anew at each boot.
_INSTALL = f"""
{install(RUNTIME)}
chroot . ip address add 192.0.2.1/32 dev lo
echo "192.0.2.1 gate" >> etc/hosts
echo gate > etc/hostname
mkdir -p "$PLACE/export" export shared
mount --bind "$PLACE/export" export
echo "/export /shared none bind,_netdev,x-systemd.requires=late.service 0 0" > etc/fstab
printf '[Unit]\\nDefaultDependencies=no\\n[Service]\\nType=oneshot\\nExecStart=/bin/sleep 3\\n' \
    > usr/lib/systemd/system/late.service
"""
# Who it is, and each time that it runs.
_WHO = "id -u >>../../../../../runs"


@pytest.fixture(scope="module")
def host(tree: debian.Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[machine.Machine]:
    if reason := machine.why_not():
        pytest.skip(reason)
    tree.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "slurmctld", "slurmd", "slurm-client",
             "munge", "iproute2")  # fmt: skip
    # It would look for cgroups that it may use, though nothing here asks for any.
    plugin = "disabled" if tree.run("slurmd", "-V").stdout.split()[1] > "23.11" else "cgroup/v1"
    (tree.place / "etc/slurm/slurm.conf").write_text(_CLUSTER)
    (tree.place / "etc/slurm/cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
    with machine.booted(machine.Machine(tmp_path_factory.mktemp("boot"), _INSTALL, tree.place)) as made:
        made.write("/root/credentials", json.dumps(CREDENTIALS | {"username": "alice", "password": _PASSWORD}))
        yield made


def steps() -> list[str]:
    """The indented blocks of docs/ADMIN.md's section."""
    section = (ROOT / "docs" / "ADMIN.md").read_text().split(_HEADING)[1].split("\n## ")[0]
    return [textwrap.dedent(block) for block in re.findall(r"(?:^ {7}.*\n|^\n(?= {7}))+", section, re.MULTILINE)]


def runs(host: machine.Machine, job_hash: str) -> list[str]:
    return host.run("sh", "-c", f"cat /shared/scd/spool/jobs/*/{job_hash}/work/runs").stdout.split()


def queue(host: machine.Machine) -> list[str]:
    """Owner, state and comment of each batch job."""
    return host.run("squeue", "--noheader", "--format=%u %T %k").stdout.splitlines()


def test_as_the_document_says_it_runs_batch_jobs(host: machine.Machine) -> None:
    spool, config, _, start = steps()
    host.run("useradd", "--create-home", "alice")
    host.run("useradd", "--system", "scd-guest")
    host.run("sh", "-ec", spool)
    hashed = host.run("sh", "-c", f"echo {_PASSWORD} | scdctl hash-password").stdout.strip()
    host.write("/etc/scd/conf.d/site.toml", config.replace("$argon2id$...", hashed))
    host.run("chown", "root:scd", "/etc/scd/conf.d/site.toml")
    host.run("chmod", "0640", "/etc/scd/conf.d/site.toml")
    said = host.run("sh", "-ec", start).stdout  # the doctor is its last command, and must be content
    assert "A batch job ran as scd-guest on gate" in said


def test_a_node_is_its_users_batch_job_and_outlives_both_services(host: machine.Machine) -> None:
    with client(host, "own", f"{_WHO}; sleep 600.75; true") as process:
        pid = node(host, "600.75")
        assert host.run("ps", "-o", "user=", "-p", pid).stdout.strip() == "alice"
        assert [line.split()[:2] for line in queue(host)] == [["alice", "RUNNING"]]
        host.systemctl("restart", "scd-launcher")
        host.systemctl("restart", "scd")
        host.systemctl("restart", "scd-launcher", "scd")
        assert node(host, "600.75") == pid, "the node did not survive"
        host.run("kill", pid)  # it has slept enough
        finish(host, "own", process)
    assert [found["attempts"] for found in listed(host, "nodes")] == [1, 1, 1]
    (job,) = listed(host, "jobs")
    assert runs(host, job["job_hash"]) == [host.run("id", "-u", "alice").stdout.strip()]


def test_a_reboot_loses_nothing(host: machine.Machine) -> None:
    """In the middle of a job: one node has run, the next waits in Slurm."""
    with client(host, "waits", f"{_WHO}; sleep 600.25; true"):
        pid = node(host, "600.25")
        host.run("scontrol", "update", "partitionname=compute", "state=down")  # until slurmctld starts anew
        host.run("kill", pid)
        wait_until(lambda: any("PENDING" in line and "node=after/0" in line for line in queue(host)),
                   "the last node was not submitted", 60)  # fmt: skip
        host.run("pkill", "-f", "client.py")  # a user who goes home
    host.reboot()
    units = ("scd", "scd-launcher", "slurmctld", "shared.mount")
    assert [host.show(unit, "ActiveState") for unit in units] == ["active"] * len(units), (
        f"not up again:\n{host.journal()}"
    )
    assert [host.show(unit, "NRestarts") for unit in units[:2]] == ["0", "0"], "they did not wait for the spool"
    wait_until(lambda: {job["status"] for job in listed(host, "jobs")} == {"completed"},
               "the job did not go on after the boot", 60)  # fmt: skip
    assert {found["attempts"] for found in listed(host, "nodes")} == {1}
    assert [len(runs(host, job["job_hash"])) for job in listed(host, "jobs")] == [1, 1]


def test_a_reload_of_scd_reaches_the_launcher(host: machine.Machine) -> None:
    """A new user's first job runs; a wrong file is refused by both, and both go on."""
    units = ("scd", "scd-launcher")
    pids = [host.show(unit, "MainPID") for unit in units]
    host.run("useradd", "dave")
    hashed = host.run("sh", "-c", f"echo {_PASSWORD} | scdctl hash-password").stdout.strip()
    file = "/etc/scd/conf.d/dave.toml"
    host.write(file, f'[users.dave]\npassword_hash = "{hashed}"\naccount = "dave"\n')
    host.run("chown", "root:scd", file)
    host.run("chmod", "0640", file)
    host.systemctl("reload", "scd")
    host.write("/root/credentials", json.dumps(CREDENTIALS | {"username": "dave", "password": _PASSWORD}))
    with client(host, "reloaded", _WHO) as process:
        finish(host, "reloaded", process)
    (job,) = (job for job in listed(host, "jobs") if job["user"] == "dave")
    assert runs(host, job["job_hash"]) == [host.run("id", "-u", "dave").stdout.strip()]
    host.write(file, "[users.dave\n")
    assert host.run("systemctl", "reload", "scd", check=False).returncode == 1
    for unit, said in zip(units, ("the configuration", "scd-launcher: the configuration"), strict=True):
        journal = host.run("journalctl", "--no-pager", "-o", "cat", "-u", unit).stdout
        assert f"{said} is reloaded" in journal
        assert f"{file}: not valid TOML" in journal
    host.run("rm", file)
    host.systemctl("reload", "scd-launcher")
    host.systemctl("reload", "scd")
    assert [host.show(unit, "MainPID") for unit in units] == pids, "a reload was a restart"
    assert [host.show(unit, "ActiveState") for unit in units] == ["active", "active"]
