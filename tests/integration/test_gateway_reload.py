"""A gateway takes a changed configuration: a real scd-launcher and a real scd are told by SIGHUP, and go on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ..gateway import (
    ALICE,
    BOB,
    NOBODYS,
    PREFIX,
    SCD,
    Gateway,
    accounts,
    as_account,
    passage,
    password_hash,
    place,
    said_of_reloads,
    started,
    uid,
    who,
    why_not,
)  # fmt: skip
from ..harness import ROOT, wait_until
from .submission import collected, manifest

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

DAVE = f'[users.dave]\npassword_hash = "{password_hash("dave")}"\naccount = "{NOBODYS}"\n'


@pytest.fixture(scope="module")
def somewhere() -> Iterator[Path]:
    with accounts(), place() as directory:
        yield directory


@pytest.fixture(scope="module")
def shared(somewhere: Path) -> Iterator[Gateway]:
    with started(Gateway(somewhere / "gateway")) as made:
        yield made


@pytest.fixture
def gateway(shared: Gateway) -> Iterator[Gateway]:
    """As it was configured at its start, also afterwards."""
    text = shared.file.read_text()
    yield shared
    os.chown(shared.file, 0, -1)
    shared.file.write_text(text)
    assert shared.reload_launcher().endswith("the configuration is reloaded")
    shared.reload_scd()


def add(gateway: Gateway, more: str) -> None:
    gateway.file.write_text(f"{gateway.file.read_text()}\n{more}")


def change(gateway: Gateway, old: str, new: str) -> None:
    text = gateway.file.read_text()
    assert old in text
    gateway.file.write_text(text.replace(old, new))


def scdctl_reload(gateway: Gateway) -> "subprocess.CompletedProcess[str]":
    command = [*passage(gateway.directory), sys.executable, "-m", "scd.cli.main", "-c", str(gateway.file), "reload"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def check(account: str) -> bytes:
    return json.dumps({"request": "check", "account": account}).encode()


# -- accounts that come and go


def test_an_account_that_is_added_runs_jobs_and_one_that_is_taken_out_none(gateway: Gateway) -> None:
    text = gateway.file.read_text()
    assert b"no user has the account" in gateway.ask(check(NOBODYS))
    add(gateway, DAVE)
    assert b"no user has the account" in gateway.ask(check(NOBODYS)), "it was told nothing yet"
    assert gateway.reload_launcher() == "scd-launcher: the configuration is reloaded"
    assert "the configuration is reloaded" in gateway.reload_scd()
    assert gateway.output("dave", "id -u").strip() == str(uid(NOBODYS))
    gateway.file.write_text(text)
    assert gateway.reload_launcher() == "scd-launcher: the configuration is reloaded"
    for request in ("check", "adopt"):
        fields = {"job_hash": "0" * 32} if request == "adopt" else {}
        answer = gateway.ask(json.dumps({"request": request, "account": NOBODYS, **fields}).encode())
        assert b"no user has the account" in answer, "it runs jobs of an account that was taken out"
    assert "the configuration is reloaded" in gateway.reload_scd()
    refused = gateway.submit(manifest("work", "script=true"), collected("work", "script=true"), **who("dave"))
    assert refused.status_code == 403
    assert gateway.output("alice", "id -u").strip() == str(uid(ALICE)), "the others' jobs run no more"


def test_scd_waits_a_moment_for_a_launcher_that_is_told_after_it(gateway: Gateway) -> None:
    """Taken at once, the user's first jobs would be refused."""
    add(gateway, DAVE)
    before = len(said_of_reloads(gateway.log))
    os.kill(gateway.pid, signal.SIGHUP)
    time.sleep(1)  # of the five that it waits
    assert len(said_of_reloads(gateway.log)) == before, "it does not ask the launcher"
    gateway.reload_launcher()
    wait_until(lambda: len(said_of_reloads(gateway.log)) > before, "scd says nothing")
    assert "the configuration is reloaded" in said_of_reloads(gateway.log)[-1]
    assert gateway.output("dave", "id -u").strip() == str(uid(NOBODYS))


def test_scd_takes_no_account_that_the_launcher_does_not_take(gateway: Gateway) -> None:
    add(gateway, DAVE)
    done = scdctl_reload(gateway)
    assert done.returncode != 0
    assert "Nothing has changed: scd-launcher has not taken this configuration" in done.stderr
    assert "systemctl reload scd" in done.stderr
    answer = gateway.submit(manifest("work", "script=true"), collected("work", "script=true"), **who("dave"))
    assert answer.status_code == 403, "a half of it was taken"
    change(gateway, f'account = "{NOBODYS}"', f'account = "{PREFIX}-none"')
    gateway.reload_launcher()
    assert f"there is no Unix account '{PREFIX}-none' (useradd {PREFIX}-none)" in gateway.logs_of_launcher()
    assert f"there is no Unix account '{PREFIX}-none'" in scdctl_reload(gateway).stderr


def test_scd_is_not_ahead_of_a_launcher_that_refuses_the_file(gateway: Gateway) -> None:
    """It would ask for what the launcher knows nothing of, and jobs would fail of it."""
    add(gateway, DAVE)
    gateway.file.chmod(0o666)
    try:
        assert "can be written by others" in gateway.reload_launcher()
        assert "the configuration is not reloaded" in gateway.reload_scd()
    finally:
        gateway.file.chmod(0o644)


def test_what_does_not_concern_accounts_needs_no_launcher(gateway: Gateway) -> None:
    gateway.kill_launcher()
    try:
        change(gateway, "[server]\n", '[server]\nterms = "be kind"\n')
        assert "the configuration is reloaded" in gateway.reload_scd()
        assert gateway.post("/check_server/", who("alice")).json()["terms"] == "be kind"
    finally:
        gateway.start_launcher()


def test_an_account_that_was_made_anew_is_tried_anew(gateway: Gateway) -> None:
    """Its number is another, and what was found out for the old one lies where it cannot look."""
    add(gateway, DAVE)
    gateway.reload_launcher()
    gateway.reload_scd()
    assert gateway.output("dave", "id -u").strip() == str(uid(NOBODYS))
    home, old = gateway.run / "accounts" / NOBODYS, uid(NOBODYS)
    new = next(number for number in range(20000, 60000) if not _is_taken(number))
    number_anew(new)
    try:
        job_hash = gateway.start_job("dave", "true")
        assert gateway.finish("dave", job_hash)["status"] == "failed"
        (row,) = gateway.rows("SELECT reason FROM jobs WHERE job_hash = ?", job_hash)
        assert f"{home} is another account's; remove it" in row["reason"]
        shutil.rmtree(home)
        assert gateway.output("dave", "id -u").strip() == str(new)
    finally:
        number_anew(old)
        shutil.rmtree(home)


def number_anew(number: int) -> None:
    """Once none of its processes is left, not even one that is about to end."""
    command = ["usermod", "--uid", str(number), NOBODYS]
    wait_until(lambda: subprocess.run(command, capture_output=True).returncode == 0, "its processes do not end", 60)


def _is_taken(number: int) -> bool:
    return subprocess.run(["getent", "passwd", str(number)], capture_output=True).returncode == 0


# -- what is refused


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("[users.dave", "scd.toml: not valid TOML"),
        ("[limits]\nmax_job = 1", "limits.max_job: there is no such key"),
        (f"[limits]\nmax_jobs = {'9' * 5000}", "integer string conversion"),
        (DAVE.replace(NOBODYS, "root"), "users.dave.account: jobs do not run as root"),
        (DAVE.replace(NOBODYS, SCD), f"users.dave.account: jobs do not run as {SCD}"),
    ],
    ids=["toml", "key", "number", "root", "scd"],
)
def test_a_wrong_file_leaves_the_old_one_in_force(gateway: Gateway, more: str, reason: str) -> None:
    text = gateway.file.read_text()
    add(gateway, more)
    said = gateway.reload_launcher()
    assert said.startswith("scd-launcher: the configuration is not reloaded, the old one stays in force: ")
    assert reason in said
    assert gateway.output("alice", "id -u").strip() == str(uid(ALICE))
    gateway.file.write_text(text + DAVE)
    assert gateway.reload_launcher() == "scd-launcher: the configuration is reloaded", "it does not mend"
    assert json.loads(gateway.ask(check(NOBODYS))) == {"value": True}


def test_a_file_that_others_can_write_is_not_obeyed(gateway: Gateway) -> None:
    """As at its start; also one that came to it since, and its directory."""
    add(gateway, DAVE)
    os.chown(gateway.file, uid(SCD), -1)
    assert f"{gateway.file} can be written by others than root" in gateway.reload_launcher()
    os.chown(gateway.file, 0, -1)
    more = gateway.directory / "conf.d"
    more.mkdir(exist_ok=True)
    try:
        for directory in (more, gateway.directory):
            directory.chmod(0o777)
            (more / "more.toml").write_text("")
            assert f"{directory} can be written by others than root" in gateway.reload_launcher()
            directory.chmod(0o755)
        (more / "more.toml").chmod(0o666)
        assert f"{more}/more.toml can be written by others than root" in gateway.reload_launcher()
    finally:
        gateway.directory.chmod(0o755)
        shutil.rmtree(more)
    assert b"no user has the account" in gateway.ask(check(NOBODYS)), "it obeys whoever wrote that"


def test_the_launcher_opens_no_file_that_it_does_not_need(gateway: Gateway) -> None:
    """Root would wait for ever for who writes into that."""
    fifo = gateway.directory / "terms"
    os.mkfifo(fifo)
    change(gateway, "[server]\n", f'[server]\nterms_file = "{fifo}"\n')
    try:
        assert gateway.reload_launcher() == "scd-launcher: the configuration is reloaded"
    finally:
        fifo.unlink()


def test_a_configuration_without_accounts_or_none_at_all_is_refused(gateway: Gateway) -> None:
    text = gateway.file.read_text()
    gateway.file.write_text("\n".join(line for line in text.splitlines() if not line.startswith("account = ")))
    assert "whether jobs have Unix accounts is decided at start" in gateway.reload_launcher()
    gateway.file.unlink()
    assert f"{gateway.file}: there is no such file" in gateway.reload_launcher()
    gateway.file.write_text(text)
    assert json.loads(gateway.ask(check(ALICE))) == {"value": True}


def test_what_is_made_at_the_start_stays_and_is_named(gateway: Gateway) -> None:
    """It is as scd's own: else the launcher would refuse what scd asks for."""
    spool = gateway.state / "spool"
    change(gateway, f'user = "{SCD}"', f'user = "{BOB}"')
    change(gateway, f'account = "{BOB}"', f'account = "{ALICE}"')
    change(gateway, "[paths]\n", f'[paths]\nspool = "{gateway.directory}/elsewhere"\n')
    change(gateway, "cores = 64\n", 'cores = 64\nmemory = "1GiB"\nprocesses = 77\nnetwork = "host"\n')
    change(gateway, str(gateway.socket), f"{gateway.directory}/elsewhere.sock")
    add(gateway, "[slurm]\n")
    said = gateway.reload_launcher()
    assert said.startswith("scd-launcher: the configuration is reloaded; ")
    waiting = {part.removesuffix(" waits for a restart") for part in said.split("; ")[1:]}
    assert waiting == {
        "server.user", "paths.spool", "local.memory", "local.processes", "local.network", "local.launcher", "slurm"
    }  # fmt: skip
    assert b"no user has the account" in gateway.ask(check(BOB)), "what can change was not taken"
    job_hash = gateway.start_job("alice", "true")
    assert gateway.finish("alice", job_hash)["status"] == "completed", gateway.logs()
    assert gateway.job_directory(job_hash).is_relative_to(spool)


# -- what goes on meanwhile


def test_a_request_in_flight_and_a_job_go_on(gateway: Gateway) -> None:
    """The request was begun by the old configuration, which it has to its end."""
    text = gateway.file.read_text()
    job_hash = gateway.running("bob", "sleep 600.75; echo survived >out")
    node = gateway.pid_of(job_hash, "started")
    with subprocess.Popen(
        [*as_account(SCD), "/usr/bin/python3", "-c", _ASK_LATE, str(gateway.socket)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as asking:  # fmt: skip
        assert asking.stdout is not None
        assert asking.stdout.readline() == b"connected\n"
        assert json.loads(gateway.ask(check(BOB))) == {"value": True}  # it came later: so the first is begun
        change(gateway, f'account = "{BOB}"', f'account = "{ALICE}"')
        assert gateway.reload_launcher() == "scd-launcher: the configuration is reloaded"
        assert b"no user has the account" in gateway.ask(check(BOB))
        answer, _ = asking.communicate(check(BOB), timeout=60)
    assert json.loads(answer) == {"value": True}, "a request in flight was given another configuration"
    gateway.file.write_text(text)
    gateway.reload_launcher()
    for process in psutil.Process(node).children(recursive=True):
        if process.cmdline() == ["sleep", "600.75"]:
            process.kill()  # it has slept enough
    assert gateway.finish("bob", job_hash)["status"] == "completed", gateway.logs()
    assert gateway.result("bob", job_hash) == "survived\n"
    assert len(gateway.rows("SELECT * FROM attempts WHERE job_hash = ? AND step = 'work'", job_hash)) == 1


def test_a_burst_of_hangups_loses_no_request(gateway: Gateway) -> None:
    """Each is answered, by the old configuration or by the new one; a real job runs meanwhile too."""
    assert gateway.launcher is not None
    add(gateway, DAVE)
    launcher, before, over = gateway.launcher, len(said_of_reloads(gateway.launcher_log)), threading.Event()

    def hang_up() -> None:
        while not over.wait(0.002):
            launcher.send_signal(signal.SIGHUP)

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        done = subprocess.run(
            [*as_account(SCD), "/usr/bin/python3", "-c", _ASK_OFTEN, str(gateway.socket), "300"],
            input=check(ALICE), capture_output=True, timeout=300,
        )  # fmt: skip
        assert gateway.output("alice", "id -u").strip() == str(uid(ALICE))
    finally:
        over.set()
        thread.join()
    assert done.stdout.split() == [b"300"], done.stderr.decode()
    assert launcher.poll() is None
    assert len(said_of_reloads(gateway.launcher_log)) - before > 3
    wait_until(lambda: json.loads(gateway.ask(check(NOBODYS))) == {"value": True}, "the last of them was not heard")


_ASK_LATE = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
print("connected", flush=True)
s.send(sys.stdin.buffer.read())
sys.stdout.buffer.write(s.recv(65536))
"""

_ASK_OFTEN = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
message = sys.stdin.buffer.read()
def ask(_):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(sys.argv[1])
        s.send(message)
        return s.recv(65536)
with ThreadPoolExecutor(8) as pool:
    print(list(pool.map(ask, range(int(sys.argv[2])))).count(b'{"value":true}'))
"""
