"""A gateway with several Unix accounts: real ones, a real launcher that is root, and a real scd that is not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ..gateway import (
    ALICE,
    BOB,
    NOBODYS,
    SCD,
    Gateway,
    accounts,
    as_account,
    gid,
    owner_of,
    passage,
    place,
    run_as,
    started,
    uid,
    who,
    why_not,
)  # fmt: skip
from ..harness import ROOT, run_client, wait_until
from ..keys import Pair, make_pair
from .submission import collected, manifest, member, set_value

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module")
def somewhere() -> Iterator[Path]:
    with accounts(), place() as directory:
        yield directory


@pytest.fixture(scope="module")
def key(somewhere: Path) -> Pair:
    """carol's."""
    return make_pair(somewhere / "carol")


@pytest.fixture(scope="module")
def gateway(somewhere: Path, key: Pair) -> Iterator[Gateway]:
    made = Gateway(somewhere / "gateway", f'[users.carol]\npublic_key = "{key.public}"\naccount = "{BOB}"\n')
    with started(made):
        yield made


def test_each_job_runs_under_its_users_account(gateway: Gateway) -> None:
    jobs = {"alice": gateway.running("alice", "sleep 60"), "bob": gateway.running("bob", "sleep 60")}
    assert owner_of(gateway.pid) == uid(SCD)
    for user, account in (("alice", ALICE), ("bob", BOB)):
        for kind in ("shim", "runner", "started"):
            pid = gateway.pid_of(jobs[user], kind)
            assert owner_of(pid) == uid(account), kind
            status = Path(f"/proc/{pid}/status").read_text()
            assert "NoNewPrivs:\t1" in status
            assert f"Groups:\t{gid(account)} \n" in status, "it kept a group of root's"
    for user, job_hash in jobs.items():
        gateway.cancel(user, job_hash)
        assert gateway.finish(user, job_hash)["status"] == "canceled"


def test_results_come_back_and_time_and_memory_are_known(gateway: Gateway) -> None:
    job_hash = gateway.start_job("alice", "echo hello >out; sleep 2.5")
    assert gateway.finish("alice", job_hash)["status"] == "completed"
    assert gateway.result("alice", job_hash) == "hello\n"
    whole = gateway.post(f"/get_results/{job_hash}.tar.gz", who("alice"))
    assert whole.status_code == 200
    (attempt,) = gateway.rows("SELECT * FROM attempts WHERE job_hash = ? AND step = 'work'", job_hash)
    assert attempt["cpu_seconds"] > 0
    assert attempt["peak_bytes"] > 2**20
    assert attempt["read_bytes"] > 0


def test_the_real_client_gets_its_flow(gateway: Gateway, tmp_path: Path) -> None:
    report = run_client(tmp_path, "chain", gateway, username="bob", password="bob-secret")
    assert set(report["statuses"].values()) == {"success"}, report["log"]
    owners = {path.lstat().st_uid for path in (gateway.job_directory(report["job_hash"]) / "work").rglob("*")}
    assert owners == {uid(BOB)}


def test_what_a_node_has_written_so_far_can_be_fetched(gateway: Gateway) -> None:
    job_hash = gateway.running("alice", "echo early >out; sleep 60")
    time.sleep(0.5)
    assert gateway.result("alice", job_hash) == "early\n"
    archives = gateway.job_directory(job_hash) / "archives"
    assert not list(archives.glob("*snapshot*")), "it was made for one request"
    gateway.cancel("alice", job_hash)
    gateway.finish("alice", job_hash)


def test_users_cannot_read_signal_or_see_each_other(gateway: Gateway) -> None:
    """From inside a node, and as the account outside all sandboxes."""
    victim = gateway.running("bob", "echo secret >precious; sleep 60")
    directory = gateway.job_directory(victim)
    pids = [gateway.pid_of(victim, kind) for kind in ("shim", "runner", "started")] + [gateway.pid]
    probe = (
        f"cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ls -R {directory}; "
        + "; ".join(f"kill -9 {pid}; ls /proc/{pid}" for pid in pids)
    )  # fmt: skip
    inside = gateway.output("alice", probe)
    for sign in ("precious", "sleep 60", "scd.daemon", "scd.launcher", "events.jsonl"):
        assert sign not in inside.replace(probe, "").replace(str(directory), ""), inside
    private = ("work", "tmp", "control", "archives", "upload")
    for path in (gateway.state, gateway.state / "spool" / "jobs", directory, *(directory / name for name in private)):
        assert run_as(ALICE, f"ls {path}").returncode, f"{path} can be listed"
    files = [path for name in private for path in (directory / name).rglob("*") if not path.is_dir()]
    assert len(files) > 5
    files += [gateway.state / "scd.db", gateway.state / "scd.sock"]
    for path in files:
        assert run_as(ALICE, f"cat {path}").returncode, f"{path} can be read"
        assert run_as(ALICE, f"echo x >>{path}").returncode, f"{path} can be written"
    assert run_as(ALICE, f"rm -rf {directory}").returncode
    for pid in pids:
        assert run_as(ALICE, f"kill -9 {pid}").returncode
        for look in ("cat {}/environ", "cat {}/mem", "cat {}/io", "ls {}/cwd/", "ls {}/root/", "ls {}/fd/"):
            assert run_as(ALICE, look.format(f"/proc/{pid}")).returncode, look
    for user in (ALICE, NOBODYS):
        talk = f"import socket; socket.socket(socket.AF_UNIX).connect('{directory}/control/shim.sock')"
        assert "PermissionError" in run_as(user, f'/usr/bin/python3 -c "{talk}"').stderr
    assert gateway.node_state(victim) == "running"
    assert gateway.post(f"/get_results/{victim}.tar.gz", who("alice")).status_code == 403
    gateway.cancel("bob", victim)
    gateway.finish("bob", victim)


def test_a_deleted_job_leaves_nothing(gateway: Gateway) -> None:
    """Also one that has locked its own directories."""
    job_hash = gateway.start_job(
        "alice", "mkdir -p deep/deeper; touch deep/deeper/x; chmod 0 deep/deeper deep; echo >out"
    )
    gateway.finish("alice", job_hash)
    wait_until(
        lambda: gateway.rows("SELECT disk_bytes FROM jobs WHERE job_hash = ?", job_hash)[0]["disk_bytes"] is not None,
        "it is not measured",
    )
    (row,) = gateway.rows("SELECT disk_bytes FROM jobs WHERE job_hash = ?", job_hash)
    directory = gateway.job_directory(job_hash)
    seen = sum(path.lstat().st_blocks * 512 for path in directory.rglob("*") if not path.is_dir())
    assert abs(row["disk_bytes"] - seen) < 2**20, "but for what its shim held for a moment"
    assert seen > 2**21
    run_as(ALICE, f"chmod 0 {directory}/work")
    answer = gateway.post("/delete_job", {"job_hash": job_hash, **who("alice")})
    assert answer.status_code == 200, answer.text
    assert not directory.exists()
    assert list((gateway.state / "spool" / "staging").iterdir()) == []


def test_a_job_is_resumed_under_its_account(gateway: Gateway) -> None:
    script = "[ -e $HOME/again ] && echo again >out || { touch $HOME/again; exit 3; }"
    job_hash = gateway.start_job("alice", script)
    assert gateway.finish("alice", job_hash)["status"] == "failed"
    cfg = set_value(manifest("work", f"script={script}"), 1, "option", "scheduler", "cores")
    response = gateway.submit(cfg, None, job_hash=job_hash, **who("alice"))
    assert response.status_code == 200, response.text
    answer = gateway.finish("alice", job_hash)
    assert answer["status"] == "completed", answer
    assert gateway.result("alice", job_hash) == "again\n"
    assert (gateway.job_directory(job_hash) / "upload" / "manifest-2.json").lstat().st_uid == uid(ALICE)


def test_files_of_an_account_are_encrypted_and_resumed(gateway: Gateway, key: Pair) -> None:
    """The account removes its tree itself; what is left is scd's, and says nothing to the account."""
    carol = {"username": "carol", "key": key.sent}
    option = "script=echo canary > out"
    cfg = manifest("work", option)
    cfg["option"]["to"]["node"]["*"] = {"*": {"value": ["work"], "signature": [None]}}
    job_hash = gateway.submit(cfg, collected("work", option), **carol).json()["job_hash"]
    directory = gateway.job_directory(job_hash)

    def is_sealed() -> bool:
        return bool(gateway.rows("SELECT sealed FROM jobs WHERE job_hash = ?", job_hash)[0]["sealed"])

    for resumed in (False, True):
        if resumed:
            assert gateway.submit(manifest("work", option), None, job_hash=job_hash, **carol).status_code == 200, (
                gateway.logs()
            )
        assert gateway.wait(job_hash, credentials=carol)["status"] == "completed", gateway.logs()
        wait_until(is_sealed, f"the job is not encrypted:\n{gateway.logs()}")
        assert list((directory / "work").iterdir()) == []
        files = [path for name in ("upload", "archives") for path in (directory / name).iterdir()]
        assert files
        assert {(path.suffix, path.stat().st_uid) for path in files} == {(".age", uid(SCD))}
        answer = gateway.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0", **carol})
        assert member(answer.content, "/out") == b"canary\n"
    attempts = gateway.rows("SELECT step, count(*) AS n FROM attempts WHERE job_hash = ? GROUP BY step", job_hash)
    assert {row["step"]: row["n"] for row in attempts if row["step"]} == {"get": 1, "work": 1, "after": 1}


@pytest.mark.parametrize("victim", ["scd", "launcher", "both"])
def test_nodes_go_on_without_the_two(gateway: Gateway, victim: str) -> None:
    job_hash = gateway.running("bob", "sleep 3; echo survived >out")
    node = gateway.pid_of(job_hash, "started")
    if victim != "launcher":
        gateway.stop(signal.SIGKILL)
    if victim != "scd":
        gateway.kill_launcher()
    time.sleep(0.3)
    assert owner_of(node) == uid(BOB)
    if victim != "scd":
        gateway.start_launcher()
    if victim != "launcher":
        super(Gateway, gateway).start()
    assert gateway.finish("bob", job_hash)["status"] == "completed", gateway.logs()
    assert gateway.result("bob", job_hash) == "survived\n"
    assert len(gateway.rows("SELECT * FROM attempts WHERE job_hash = ? AND step = 'work'", job_hash)) == 1


def test_jobs_wait_for_a_launcher_that_is_down(gateway: Gateway) -> None:
    gateway.kill_launcher()
    job_hash = gateway.start_job("alice", "echo late >out")
    time.sleep(2)
    answer = gateway.progress(job_hash, **who("alice"))
    assert answer["status"] == "running", answer
    gateway.start_launcher()
    assert gateway.finish("alice", job_hash)["status"] == "completed"


def test_what_the_launcher_starts_hears_a_hangup(gateway: Gateway) -> None:
    job_hash = gateway.running("alice", "sleep 30")
    ignored = next(line.split()[1] for line in Path(f"/proc/{gateway.pid_of(job_hash, 'started')}/status").read_text()
                   .splitlines() if line.startswith("SigIgn:"))  # fmt: skip
    assert not int(ignored, 16) & 1, "a node ignores SIGHUP"
    gateway.cancel("alice", job_hash)
    gateway.finish("alice", job_hash)


# -- who asks the launcher for what


def start_request(**changes: object) -> bytes:
    whole = {
        "request": "start", "job_hash": "0" * 32, "account": ALICE, "design": "d", "jobname": "j", "runtime": "default",
    }  # fmt: skip
    return json.dumps({key: value for key, value in (whole | changes).items() if value is not None}).encode()


def test_only_scd_is_answered(gateway: Gateway) -> None:
    check = json.dumps({"request": "check", "account": ALICE}).encode()
    assert json.loads(gateway.ask(check)).keys() == {"value"}
    for account in (ALICE, NOBODYS):
        assert gateway.ask(check, account) == b""
    gateway.socket.chmod(0o666)  # were it open to all, the kernel's word for the caller would still count
    try:
        assert gateway.ask(check, ALICE) == b""
        assert gateway.ask(check, "root") == b""
    finally:
        gateway.socket.chmod(0o600)


@pytest.mark.parametrize(
    "message",
    [
        b"x", b"[]", b"{}", b"null", b"\xff\xfe", b'{"a":' * 9000, b"x" * 66000,
        b'{"request": "shell", "argv": ["sh"]}',
        start_request(argv=["sh"]), start_request(job_hash="0" * 31), start_request(job_hash="0" * 32 + "\n"),
        start_request(job_hash="../" + "0" * 29), start_request(job_hash="0" * 30 + "/."), start_request(job_hash=7),
        start_request(account="../root"), start_request(account="root\n"), start_request(account=""),
        start_request(design="x" * 5000), start_request(design="a\0b"), start_request(runtime=None),
        b'{"request": "empty", "staged": "../jobs/00"}', b'{"request": "empty", "staged": "..0123456789abcd"}',
        b'{"request": "usage", "account": "ALICE", "pids": ["1"]}',
        b'{"request": "alive", "account": "ALICE", "pid": 1, "ticks": 1}',
        b'{"request": "cancel", "account": "ALICE", "ids": ["--user=root"]}',
    ],
    ids=range(25),
)  # fmt: skip
def test_a_malformed_request_is_refused(gateway: Gateway, message: bytes) -> None:
    answer = gateway.ask(message.replace(b"ALICE", ALICE.encode()))
    assert json.loads(answer).keys() == {"error"}, answer


@pytest.mark.parametrize("account", ["root", SCD, NOBODYS, "daemon", "scd-test-no-such"])
@pytest.mark.parametrize("request_", ["check", "adopt", "start", "usage", "alive"])
def test_an_account_of_nobodys_list_is_refused(gateway: Gateway, request_: str, account: str) -> None:
    fields: dict[str, object] = {  # type: ignore[assignment]
        "check": {}, "adopt": {"job_hash": "0" * 32}, "usage": {"pids": [1]},
        "alive": {"pid": 1, "ticks": 1, "boot": ""},
        "start": {"job_hash": "0" * 32, "design": "d", "jobname": "j", "runtime": "default"},
    }[request_]  # fmt: skip
    answer = json.loads(gateway.ask(json.dumps({"request": request_, "account": account, **fields}).encode()))
    assert "no user has the account" in answer["error"]


def plant(gateway: Gateway, name: str = "f" * 32) -> Path:
    """A job's directory that is all scd's, as the daemon would make it, or one who has taken it over."""
    directory = gateway.job_directory(name)
    for path in (
        directory.parent,
        directory,
        *(directory / inner for inner in ("upload", "work", "control", "archives")),
    ):
        path.mkdir(exist_ok=True)
        path.chmod(0o711)
        os.chown(path, uid(SCD), gid(SCD))
    return directory


def adopt(gateway: Gateway, job_hash: str = "f" * 32, account: str = ALICE) -> str:
    request = {"request": "adopt", "job_hash": job_hash, "account": account}
    return str(json.loads(gateway.ask(json.dumps(request).encode())).get("error", ""))


@pytest.mark.parametrize("trap", ["link", "hard link", "foreign", "directory link", "frame link", "pipe"])
def test_nothing_that_is_not_scds_is_given_away(gateway: Gateway, somewhere: Path, trap: str) -> None:
    """A daemon that was taken over plants what root shall give to an account."""
    directory = plant(gateway)
    precious = somewhere / "precious"
    precious.write_text("root's")
    precious.chmod(0o600)
    target = directory / "upload" / "import.tar.gz"
    match trap:
        case "link":
            target.symlink_to(precious)
        case "hard link":
            os.link(precious, target)
        case "foreign":
            target.write_text("root's too")
        case "directory link":
            (directory / "work").rmdir()
            (directory / "work").symlink_to("/etc")
        case "frame link":
            subprocess.run(["rm", "-rf", directory], check=True)
            directory.symlink_to("/etc")
        case "pipe":
            os.mkfifo(target)
            os.chown(target, uid(SCD), uid(SCD))
    before = [path.stat() for path in (precious, Path("/etc"), Path("/etc/passwd"))]
    try:
        assert adopt(gateway), "it was done"
        after = [path.stat() for path in (precious, Path("/etc"), Path("/etc/passwd"))]
        assert [(s.st_uid, s.st_gid, s.st_mode) for s in before] == [(s.st_uid, s.st_gid, s.st_mode) for s in after]
        if not directory.is_symlink():
            assert {path.lstat().st_uid for path in directory.rglob("*")} <= {0, uid(SCD)}
    finally:
        subprocess.run(["rm", "-rf", directory], check=True)


def test_a_job_stays_with_its_account(gateway: Gateway) -> None:
    directory = plant(gateway)
    try:
        assert adopt(gateway) == ""
        assert adopt(gateway) == "", "again is no harm"
        assert "another account's" in adopt(gateway, account=BOB)
        refusal = json.loads(gateway.ask(start_request(job_hash="f" * 32, account=BOB)))
        assert "is not" in refusal["error"]
        modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in directory.iterdir()}
        assert modes == {
            "upload": "0o711", "work": "0o700", "tmp": "0o700", "control": "0o2750", "archives": "0o2770"
        }  # fmt: skip
    finally:
        subprocess.run(["rm", "-rf", directory], check=True)


def test_links_in_a_job_lead_its_removal_nowhere(gateway: Gateway, somewhere: Path) -> None:
    """Removed and measured by its own account, which also could not do more if it tried."""
    job_hash = gateway.start_job("alice", "echo >out")
    gateway.finish("alice", job_hash)
    precious = somewhere / "alices"
    precious.mkdir()
    (precious / "file").write_text("kept")
    os.chown(precious, uid(ALICE), -1)
    directory = gateway.job_directory(job_hash)
    run_as(ALICE, f"cd {directory}/work; ln -s {precious} a; ln -s /etc/passwd b; ln -s / c; ln -s {precious}/file d")
    # The journal and an archive too: whoever can log in as alice can do that.
    run_as(ALICE, f"cd {directory}/archives; for f in *; do ln -sf {gateway.state}/scd.db $f; done")
    answer = gateway.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0", **who("alice")})
    assert answer.status_code == 404, "scd follows no link of an account"
    assert gateway.post("/delete_job", {"job_hash": job_hash, **who("alice")}).status_code == 200
    assert not directory.exists()
    assert (precious / "file").read_text() == "kept"
    assert (gateway.state / "scd.db").exists()


def test_a_daemon_that_was_taken_over_reaches_nothing_of_an_account(gateway: Gateway, somewhere: Path) -> None:
    """It owns the frame around a job's directories, and speaks to the shim: links, other directories, false names."""
    job_hash = gateway.running("alice", "sleep 4; echo >out")
    directory = gateway.job_directory(job_hash)
    precious = somewhere / "hers"
    for path in (precious, precious / "control"):
        path.mkdir()
        os.chown(path, uid(ALICE), -1)
    files = [precious / "file", precious / "control" / "events.jsonl", precious / "import.tar.gz"]
    for path in files:
        path.write_text("kept")
        os.chown(path, uid(ALICE), -1)
        path.chmod(0o600)
    order = {
        "op": "prepare", "name": "x", "archive": f"{'/..' * 20}{precious}/file",
        "manifest": f"{precious}/file", "import": f"{precious}/import.tar.gz",
    }  # fmt: skip
    told = subprocess.run(
        [*as_account(SCD), "/usr/bin/python3", "-c", TELL, str(directory / "control"), json.dumps(order)],
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    wait_until(
        lambda: any(record.get("name") == "x" and record["type"] == "ended" for record in gateway.journal(job_hash)),
        "the order was not taken",
    )
    done = run_as(
        SCD,
        f"set -e; cd {directory}; for n in 1 2 3 4 5; do ln -s {precious}/file archives/.$n.1.tar.gz || true; done; "
        f"mv control aside; ln -s {precious}/control control; sleep 5; rm control; mv aside control",
    )
    assert done.returncode == 0, done.stderr
    gateway.finish("alice", job_hash)
    assert [path.read_text() for path in files] == ["kept"] * 3


TELL = """
import os, socket, sys
os.chdir(sys.argv[1])
s = socket.socket(socket.AF_UNIX)
s.connect("shim.sock")
s.sendall(sys.argv[2].encode() + b"\\n")
"""


def test_figures_are_given_of_the_accounts_own_processes(gateway: Gateway) -> None:
    victim = gateway.running("bob", "sleep 60")
    pid = gateway.pid_of(victim, "started")
    ask = {"request": "usage", "account": ALICE, "pids": [pid, 1, gateway.pid, 0]}
    assert json.loads(gateway.ask(json.dumps(ask).encode())) == {"value": [None] * 4}
    with subprocess.Popen([*as_account(BOB), "sleep", "60"]) as login:  # his too, and no job
        ask["pids"] = [pid, 1, gateway.pid, login.pid]
        mine = json.loads(gateway.ask(json.dumps({**ask, "account": BOB}).encode()))["value"]
        login.kill()
    assert mine[0] is not None
    assert mine[1:] == [None] * 3
    gateway.cancel("bob", victim)
    gateway.finish("bob", victim)


# -- what does not start


def refusal(gateway: Gateway, module: str = "scd.launcher.service") -> str:
    done = subprocess.run(
        [*passage(gateway.directory, gateway.passwd), sys.executable, "-m", module, "-c", str(gateway.file)],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 78, done.stderr
    return done.stderr


def test_without_a_launcher_scd_does_not_start(somewhere: Path) -> None:
    text = refusal(Gateway(somewhere / "alone"), "scd.daemon")
    assert "jobs have accounts of their own, and scd-launcher cannot be asked" in text
    assert "systemctl enable --now scd-launcher" in text


_GIVE = """
import sys
from pathlib import Path
from scd.launcher.accounts import Account, Refused
from scd.launcher.frame import give
uid, gid, scd_uid, scd_gid = map(int, sys.argv[2:])
try:
    give(Path(sys.argv[1]), ("job",), Account("", uid, gid), Account("", scd_uid, scd_gid))
except Refused as refusal:
    print(refusal)
"""


def test_where_root_may_not_change_owners_it_is_said_what_to_do(somewhere: Path) -> None:
    """As on NFS with root_squash."""
    spool = somewhere / "squashed"
    for path in (spool, spool / "job", spool / "job" / "upload"):
        path.mkdir()
        os.chown(path, uid(SCD), gid(SCD))
    done = subprocess.run(
        [*passage(spool), "setpriv", "--bounding-set=-all,+setuid,+setgid", sys.executable, "-c", _GIVE, str(spool),
         *map(str, (uid(ALICE), gid(ALICE), uid(SCD), gid(SCD)))],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert f"may not change owners in {spool}" in done.stdout, done.stderr
    assert "no_root_squash" in done.stdout
    assert (spool / "job" / "work").stat().st_uid == uid(SCD)


def test_check_config_asks_the_launcher(gateway: Gateway) -> None:
    """As root; the launcher answers scd alone."""
    done = gateway.check_config()
    assert (done.returncode, done.stdout) == (0, "The configuration is good.\n"), done.stderr
    assert "scd-launcher: jobs have " in done.stderr or "scd-launcher: each job has " in done.stderr
    text = gateway.file.read_text()
    gateway.file.write_text(f'{text}[users.late]\npassword_hash = "$argon2id$x"\naccount = "{NOBODYS}"\n')
    try:
        done = gateway.check_config()
    finally:
        gateway.file.write_text(text)
    assert done.returncode == 78
    assert f"no user has the account '{NOBODYS}' in the configuration that scd-launcher has read" in done.stderr
    assert "Reload scd-launcher" in done.stderr


def test_check_config_sees_that_the_launcher_knows_no_slurm(somewhere: Path) -> None:
    made = Gateway(somewhere / "slurmless")
    try:
        made.start_launcher()
        made.file.write_text(f"{made.file.read_text()}[slurm]\n")
        done = made.check_config()
    finally:
        made.end_everything()
    assert done.returncode == 78
    assert "the configuration that scd-launcher has read has no [slurm]. Restart it" in done.stderr


def test_the_doctor_says_that_the_launcher_is_not_there(gateway: Gateway) -> None:
    gateway.kill_launcher()
    try:
        command = [sys.executable, "-m", "scd.cli.main", "-c", str(gateway.file), "doctor"]
        wait_until(lambda: httpx2.get(f"{gateway.url}/healthz").status_code == 503, "scd says that it is well")
        done = subprocess.run([*passage(gateway.directory), *command], capture_output=True, text=True, cwd=ROOT)
    finally:
        gateway.start_launcher()
    assert "scd-launcher does not answer" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


def test_a_launcher_from_before_an_upgrade_is_not_talked_to(gateway: Gateway) -> None:
    """It would misunderstand some request in the middle of a job."""
    done = gateway.check_config("import scd; scd.__version__ = '9.9'; from scd.daemon import main; main()")
    assert done.returncode == 78
    assert "scd-launcher is another version than scd, which is 9.9" in done.stderr
    assert "systemctl restart scd-launcher scd" in done.stderr


def test_check_config_misses_a_launcher_that_is_not_there(somewhere: Path) -> None:
    done = Gateway(somewhere / "unlaunched").check_config()
    assert done.returncode == 78
    assert "scd-launcher cannot be asked" in done.stderr


def test_a_configuration_that_others_can_write_is_refused(somewhere: Path) -> None:
    made = Gateway(somewhere / "open")
    os.chown(made.file, uid(SCD), -1)
    assert "can be written by others than root" in refusal(made)
    os.chown(made.file, 0, -1)
    made.directory.chmod(0o777)
    assert "can be written by others than root" in refusal(made)


@pytest.mark.parametrize(
    ("account", "reason"),
    [
        ("root", "jobs do not run as root"), (SCD, f"jobs do not run as {SCD}"),
        ("../x", "not the name of a Unix account"), ("", "is missing, and others have one"),
    ],
)  # fmt: skip
def test_a_configuration_with_a_wrong_account_is_refused(somewhere: Path, account: str, reason: str) -> None:
    made = Gateway(somewhere / "wrong", accounts=(ALICE, account))
    assert reason in refusal(made)
    assert reason in refusal(made, "scd.daemon")


@pytest.mark.parametrize(
    ("numbers", "reason"), [("0:0", "is root"), ("{uid}:12345", "is scd's own"), ("12345:{gid}", "or of its group")]
)
def test_an_account_is_judged_by_its_numbers(somewhere: Path, numbers: str, reason: str) -> None:
    """Whatever it is called; and scd does not start, since the launcher would not take it."""
    made = Gateway(somewhere / f"number-{reason[-5:]}", accounts=(ALICE, "somebody"))
    made.passwd = made.directory / "passwd"
    numbers = numbers.format(uid=uid(SCD), gid=gid(SCD))
    made.passwd.write_text(f"{Path('/etc/passwd').read_text()}somebody:x:{numbers}::/:/bin/sh\n")
    made.passwd.chmod(0o644)
    try:
        made.start_launcher()
        text = refusal(made, "scd.daemon")
        assert "scd-launcher: the account 'somebody' is" in text
        assert reason in text
    finally:
        made.end_everything()
