"""What a node sees of the machine it runs on, and what it can do to it. With real nodes that try."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..harness import RUNTIME, Daemon, can_isolate, wait_until
from .submission import collected, manifest, member, set_value

NewDaemon = Callable[..., Daemon]

sandboxed = pytest.mark.skipif(not can_isolate(), reason="bubblewrap is not installed, or may not make namespaces here")
MANY = "[local]\ncores = 64\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("scd"), MANY)
    yield daemon.start()
    daemon.end_everything()


def start(daemon: Daemon, script: str) -> str:
    option = f"script={script}"
    cfg = set_value(manifest("work", option), 1, "option", "scheduler", "cores")  # or it takes the whole machine
    response = daemon.submit(cfg, collected("work", option))
    assert response.status_code == 200, response.text
    return str(response.json()["job_hash"])


def output(daemon: Daemon, script: str) -> str:
    """What a node's script prints."""
    job_hash = start(daemon, f"({script}) >out 2>&1; true")
    answer = daemon.wait(job_hash)
    assert answer["status"] == "completed", answer
    return result(daemon, job_hash)


def result(daemon: Daemon, job_hash: str) -> str:
    return member(daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"}).content, "/out").decode()


def seen(daemon: Daemon, *places: object) -> list[str]:
    """Which of these a node finds."""
    script = "; ".join(f"[ -e {place} ] && echo {place}" for place in places)
    return output(daemon, script).split()


@contextlib.contextmanager
def canary(address: str = "127.0.0.1") -> Iterator[tuple[int, list[object]]]:
    """A server on this machine, and who called it."""
    callers: list[object] = []

    def sing() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, caller = server.accept()
                callers.append(caller)
                connection.close()

    server = socket.create_server((address, 0))
    thread = threading.Thread(target=sing)
    thread.start()
    try:
        yield server.getsockname()[1], callers
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def call(port: int) -> str:
    return f"python3 -c \"import socket; socket.create_connection(('127.0.0.1', {port}), 3); print('connected')\""


@sandboxed
def test_a_node_sees_nothing_of_the_server_and_of_other_jobs(daemon: Daemon) -> None:
    other = start(daemon, "true")
    daemon.wait(other)
    directory = daemon.job_directory(other)
    (daemon.directory / "secret").write_text("tweet")
    hidden = [
        daemon.state / "scd.db", daemon.state / "scd.sock", daemon.file, daemon.log, daemon.directory / "secret",
        directory, directory / "work", directory / "archives", daemon.state / "spool" / "staging",
    ]  # fmt: skip
    assert all(place.exists() for place in hidden)
    assert seen(daemon, *hidden) == []


@sandboxed
def test_a_node_sees_of_its_own_job_only_the_working_directory(daemon: Daemon) -> None:
    job_hash = start(daemon, "ls -A $HOME/.. >out; ls -A $HOME/../.. >>out; ls -A $HOME/../../.. >>out")
    daemon.wait(job_hash)
    assert result(daemon, job_hash).split() == ["work", job_hash, job_hash[:2]]


@sandboxed
def test_a_node_sees_nothing_of_other_users(daemon: Daemon) -> None:
    hidden = ["/etc/shadow", "/etc/gshadow", "/etc/ssh", "/etc/sudoers", "/etc/cron.d", "/home", "/run", "/srv", "/mnt",
              "/media", "/boot", "/opt", "/var/lib", "/var/log", "/sys/fs", "/sys/class", "/dev/kmsg"]  # fmt: skip
    prefixes = subprocess.run(
        [RUNTIME, "-c", "import sys; print(sys.prefix, sys.base_prefix)"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert seen(daemon, *(place for place in hidden if not any(at.startswith(place) for at in prefixes))) == []
    if Path("/etc/shadow").exists():
        names = [line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()]
        assert len(output(daemon, "cat /etc/passwd").splitlines()) <= 3 < len(names)


@sandboxed
def test_where_the_runtime_lies_nothing_else_is_seen(daemon: Daemon) -> None:
    """As in a home directory that has a Python in it: the neighbours are not seen."""
    top = Path("/", *Path(os.path.realpath(RUNTIME)).parts[1:2])
    if top in (Path("/usr"), Path("/tmp")):
        pytest.skip("this Python is the system's")
    script = "import sys; print(sys.prefix, sys.base_prefix, *sys.path)"
    places = subprocess.run([RUNTIME, "-I", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    own = {Path(place).parts[2] for place in places if top in Path(place).parents}
    assert set(output(daemon, f"ls -A {top}").split()) == own


@sandboxed
def test_a_node_writes_nowhere_else(daemon: Daemon) -> None:
    cache = daemon.directory / "cache"
    system = [Path(place) for place in ("/", "/usr", "/usr/bin", "/etc", "/var", "/etc/alternatives")]
    places = [*system, Path(RUNTIME).parent, cache, daemon.directory, daemon.state, daemon.state / "spool"]
    script = "; ".join(f"touch {place}/scd-canary && echo wrote {place}" for place in places[:-3])
    # Only here, where they lie below /tmp: the way to the working directory leads through the job's own one.
    script += "".join(f"; touch {place}/scd-canary" for place in places[-3:])
    script += "; chmod 777 /usr; rm -rf /etc/passwd; mount -o remount,rw / && echo remounted; echo done"
    printed = output(daemon, script)
    assert "wrote" not in printed, printed
    assert "remounted" not in printed
    assert printed.endswith("done\n")
    assert not [place for place in places if (place / "scd-canary").exists()]
    assert output(daemon, "touch $HOME/x /tmp/x /var/tmp/y /dev/shm/z && echo wrote") == "wrote\n"


@sandboxed
def test_the_cache_is_there_to_be_read(daemon: Daemon) -> None:
    package = daemon.directory / "cache" / "pdk"
    package.mkdir(parents=True)
    (package / "cells.lib").write_text("gates")
    printed = output(daemon, f"cat {package}/cells.lib; echo poison >{package}/cells.lib; rm -rf {package}")
    assert printed.startswith("gates")
    assert (package / "cells.lib").read_text() == "gates"


@sandboxed
def test_tmp_is_the_jobs_own_and_goes_with_it(daemon: Daemon) -> None:
    first = start(daemon, "echo $TMPDIR >out; echo mine >/tmp/scd-canary; sleep 1; cat /tmp/scd-canary >>out")
    daemon.wait_for_node(first, "work0", "running")
    assert seen(daemon, "/tmp/scd-canary") == []
    assert not Path("/tmp/scd-canary").exists()
    assert daemon.wait(first)["status"] == "completed"
    assert result(daemon, first).split() == ["/tmp", "mine"]
    wait_until(lambda: not (daemon.job_directory(first) / "tmp").exists(), "the job's /tmp stays on the disk")


@sandboxed
def test_the_environment_is_clean(new_daemon: NewDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCD_CANARY", "tweet")
    names = {line.partition("=")[0] for line in output(new_daemon(), "env").splitlines()}
    assert names == {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "PWD", "SCD_ATTEMPT"}


@sandboxed
def test_a_node_sees_only_the_processes_of_its_job(daemon: Daemon) -> None:
    other = start(daemon, "sleep 30305")
    daemon.wait_for_node(other, "work0", "running")
    printed = output(daemon, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "scd.runner.serve" in printed
    assert "scd.daemon" not in printed
    assert "scd.launcher.shim" not in printed
    assert "30305" not in printed
    daemon.post("/cancel_job/", {"job_hash": other})
    daemon.wait(other)


@sandboxed
def test_a_node_has_no_privileges(daemon: Daemon) -> None:
    printed = output(daemon, "cat /proc/self/status; cat /proc/self/oom_score_adj; ulimit -c; unshare -U true")
    for line in printed.splitlines():
        if line.startswith("Cap"):
            assert line.split()[1] == "0" * 16, line
    assert "NoNewPrivs:\t1" in printed
    assert printed.splitlines()[-3:-1] == ["500", "0"], "it goes before the daemon when memory runs out; no core files"
    assert "unshare failed" in printed


@sandboxed
def test_a_node_cannot_kill_its_runner(daemon: Daemon) -> None:
    job_hash = start(daemon, "kill -9 1; kill -9 -1; true")
    daemon.wait(job_hash)
    assert [record["type"] for record in daemon.journal(job_hash)].count("runner") == 1


@sandboxed
def test_a_node_cannot_speak_for_its_runner(daemon: Daemon) -> None:
    """By its channel to the shim it could end itself there, and go on uncharged."""
    take = (
        "import ctypes, os; fd = os.pidfd_open(1); print([ctypes.CDLL(None).syscall(438, fd, n, 0) for n in range(32)])"
    )
    job_hash = start(daemon, f"(ls -l /proc/[0-9]*/fd; python3 -c '{take}'; cat /proc/1/maps; sleep 1) >out 2>&1; true")
    daemon.wait_for_node(job_hash, "work0", "running")
    runner = daemon.pid_of(job_hash, "runner")
    number = Path(f"/proc/{runner}/cmdline").read_text().split("\0")[-2]
    channel = os.readlink(f"/proc/{runner}/fd/{number}") if os.geteuid() == 0 else "(only root can see it)"
    daemon.wait(job_hash)
    printed = result(daemon, job_hash)
    assert channel not in printed
    assert re.search(r"'/proc/1/fd\S*': Permission denied", printed), printed
    assert f"[{', '.join(['-1'] * 32)}]" in printed
    assert "cat: /proc/1/maps: Permission denied" in printed


@sandboxed
def test_without_a_network_a_node_reaches_nobody(daemon: Daemon) -> None:
    with canary() as (port, callers):
        printed = output(daemon, call(port))
    assert "connected" not in printed
    assert "refused" in printed, "it has a loopback, and nobody is there"
    assert callers == []
    own = "s = socket.create_server(('localhost', 0)); socket.create_connection(s.getsockname()); print('own')"
    assert output(daemon, f'python3 -c "import socket; {own}"') == "own\n", "tools that talk to themselves work"


@sandboxed
def test_with_the_machines_network_it_does(new_daemon: NewDaemon) -> None:
    with canary() as (port, callers):
        assert output(new_daemon('[local]\nnetwork = "host"'), call(port)) == "connected\n"
    assert len(callers) == 1


@sandboxed
def test_further_directories_are_shown_read_only(new_daemon: NewDaemon, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "tool").write_text("#!/bin/sh\necho it works\n")
    (tools / "tool").chmod(0o755)
    (tmp_path / "neighbour").touch()
    daemon = new_daemon(f'[local]\nreadonly = ["{tools}"]')
    assert output(daemon, f"{tools}/tool; ls {tmp_path}; touch {tools}/x").splitlines()[0] == "it works"
    assert seen(daemon, tmp_path / "neighbour") == []
    assert [path.name for path in tools.iterdir()] == ["tool"]


EVASIVE = (
    'python3 -c "import os; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); '
    "os.execve('/bin/sleep', ['sleep', '{time}'], {{}})\""
)


def sleepers(time: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes() == f"sleep\0{time}\0".encode():
                    found.add(int(entry.name))
    return found


def test_a_process_that_hides_ends_with_its_node(daemon: Daemon) -> None:
    """Forked twice, with a session of its own and an empty environment."""
    job_hash = start(daemon, EVASIVE.format(time=30401) + "; sleep 1")
    wait_until(lambda: sleepers(30401), "it never ran")
    daemon.wait_for_node(job_hash, "work0", "success")
    wait_until(lambda: not sleepers(30401), "it outlives its node", timeout=5)


@pytest.mark.parametrize("victim", ["shim", "runner"])
def test_everything_ends_with_the_jobs_keepers(daemon: Daemon, victim: str) -> None:
    job_hash = start(daemon, EVASIVE.format(time=30402) + "; sleep 30403")
    wait_until(lambda: sleepers(30402) and sleepers(30403), "they never ran")
    os.kill(daemon.pid_of(job_hash, victim), signal.SIGKILL)
    wait_until(lambda: not sleepers(30402) | sleepers(30403), f"they outlive the {victim}", timeout=5)
    assert daemon.wait(job_hash)["message"] == f"work/0 the job's {victim} was killed"


@sandboxed
def test_the_sandbox_lives_without_the_daemon(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = start(daemon, "sleep 3; ls -A $HOME/.. >out")
    daemon.wait_for_node(job_hash, "work0", "running")
    node = daemon.pid_of(job_hash, "started")
    namespace = os.readlink(f"/proc/{node}/ns/pid")
    assert namespace != os.readlink("/proc/self/ns/pid")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert os.readlink(f"/proc/{node}/ns/pid") == namespace
    assert daemon.wait(job_hash)["status"] == "completed"
    assert result(daemon, job_hash) == "work\n"
    assert len(daemon.rows("SELECT * FROM attempts WHERE step = 'work'")) == 1


@sandboxed
def test_a_nodes_process_is_known_to_the_host(daemon: Daemon) -> None:
    """What the job calls it inside is another pid; the one that is written down can be charged and killed."""
    job_hash = start(daemon, "echo $PPID >out; sleep 3")
    daemon.wait_for_node(job_hash, "work0", "running")
    node = daemon.pid_of(job_hash, "started")
    (line,) = (line for line in Path(f"/proc/{node}/status").read_text().splitlines() if line.startswith("NSpid"))
    daemon.wait(job_hash)
    assert line.split()[1] == str(node)
    assert line.split()[-1] == result(daemon, job_hash).strip()


BOMB = """python3 - <<END
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.05)
END"""


def test_a_fork_bomb_hits_its_own_job(tmp_path: Path) -> None:
    with unprivileged(tmp_path, f"{MANY}processes = 150\n") as daemon:
        neighbour = start(daemon, "sleep 4; for i in 1 2 3 4 5; do (true); done; echo unhurt >out")
        daemon.wait_for_node(neighbour, "work0", "running")
        bomb = start(daemon, BOMB)
        wait_until(lambda: len(processes_of(daemon, bomb)) > 100, "the bomb does not go off")
        time.sleep(1)
        count = len(processes_of(daemon, bomb))
        assert count <= 150, count
        assert daemon.post("/check_server/").json()["status"] == "ready"
        assert daemon.wait(neighbour)["status"] == "completed"
        assert result(daemon, neighbour) == "unhurt\n"
        daemon.post("/cancel_job/", {"job_hash": bomb})
        assert daemon.wait(bomb)["status"] == "canceled"
        wait_until(lambda: not processes_of(daemon, bomb), "what it forked is still there")


@contextlib.contextmanager
def unprivileged(directory: Path, config: str) -> Iterator[Daemon]:
    """A daemon that is not root's: the kernel limits nothing for root."""
    if not can_isolate():
        pytest.skip("no sandbox here")
    daemon = Daemon(directory, config)
    if os.geteuid() == 0:
        try:
            subprocess.run([RUNTIME, "-c", "import scd.daemon"], user="nobody", cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no other account can run this Python with scd")
        daemon = Daemon(Path("/tmp") / f"scd-nobody-{os.getpid()}", config)
        daemon.directory.chmod(0o755)
        daemon.file.write_text(daemon.file.read_text().replace('user = "root"', 'user = "nobody"'))
    try:
        yield daemon.start()
    finally:
        daemon.end_everything()
        subprocess.run(["rm", "-rf", str(daemon.directory)], check=True)


def processes_of(daemon: Daemon, job_hash: str) -> list[str]:
    """All that runs in the sandbox of a job."""
    try:
        namespace = os.readlink(f"/proc/{daemon.pid_of(job_hash, 'runner')}/ns/pid")
    except (OSError, IndexError):  # it has ended, or has not begun
        return []
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == namespace:
                found.append(entry.name)
    return found


# -- a daemon that cannot isolate


def refusal(daemon: Daemon, *wrapper: str, **env: str) -> str:
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "scd.daemon", "-c", str(daemon.file)],
        capture_output=True, text=True, timeout=60, env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == 78, done.stderr
    return done.stderr


def isolating(directory: Path, local: str = "") -> Daemon:
    return Daemon(directory, f'[local]\nisolation = "auto"\n{local}')


def test_without_bubblewrap_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    text = refusal(isolating(tmp_path), PATH=str(tmp_path / "bin"))
    assert "bwrap is not installed. Install it: apt install bubblewrap." in text
    assert 'set [local] isolation = "none"' in text


@sandboxed
def test_without_user_namespaces_it_does_not_start(tmp_path: Path) -> None:
    blocked = ("bwrap", "--dev-bind", "/", "/", "--unshare-user", "--disable-userns")
    if subprocess.run([*blocked, "true"], capture_output=True).returncode:
        pytest.skip("this bubblewrap cannot turn them off")
    text = refusal(isolating(tmp_path), *blocked)
    assert "local.isolation: no sandbox can be made here (bwrap: " in text
    assert 'set [local] isolation = "none"' in text


@sandboxed
def test_check_config_tries_the_sandbox_too(tmp_path: Path) -> None:
    daemon = isolating(tmp_path)
    check = [sys.executable, "-m", "scd.daemon", "-c", str(daemon.file), "--check-config"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "The configuration is good.\n"), done.stderr
    (tmp_path / "bin").mkdir()
    done = subprocess.run(
        check, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": str(tmp_path / "bin")}
    )
    assert done.returncode == 78
    assert "bwrap is not installed" in done.stderr


@sandboxed
@pytest.mark.parametrize("shown", ["state", ".", "..", "state/spool", "state/spool/jobs"])
def test_a_directory_that_would_show_the_database_is_refused(tmp_path: Path, shown: str) -> None:
    place = os.path.normpath(tmp_path / "scd" / shown)
    (tmp_path / "scd" / "state" / "spool" / "jobs").mkdir(parents=True)
    text = refusal(isolating(tmp_path / "scd", f'readonly = ["{place}"]'))
    assert f"local.readonly: {place} would show {tmp_path}/scd/" in text


def test_without_a_sandbox_if_that_is_said(new_daemon: NewDaemon) -> None:
    daemon = new_daemon('[local]\nisolation = "none"\n')
    assert "local.isolation is none: every job can do what scd's account can" in daemon.log.read_text()
    assert seen(daemon, daemon.file) == [str(daemon.file)]
