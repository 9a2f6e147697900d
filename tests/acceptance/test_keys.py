"""Users with a key, as they see it: results come as ever, and nobody else can read what their jobs leave behind."""

import base64
import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from ..encrypted import bob, content, credentials, fetch, holding, resume, submit, wait_until_sealed
from ..harness import ROOT, RUNTIME, Daemon, run_client, start_client, wait_until
from ..keys import Pair, make_pair
from .test_jobs import wait_for_job

NewDaemon = Callable[..., Daemon]

IN_RTL, IN_LOG, IN_OUTPUT, IN_REASON = (f"canary-{what}" for what in ("rtl", "log", "output", "reason"))
SCRIPT = f"echo {IN_LOG}; echo {IN_OUTPUT} > said; until [ -e $HOME/go ]; do sleep 0.1; done"
WRONG = "These files are encrypted to another key than the one that was sent."


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Made as the manual says."""
    file = tmp_path_factory.mktemp("bob") / "scd-key"
    command = [sys.executable, "-m", "scd.cli.main", "keygen", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    public = " ".join(file.with_name("scd-key.pub").read_text().split()[:2])
    return Pair(file, public, file.read_text())


def parts_of_the_secret(pair: Pair) -> list[bytes]:
    """Any of these would give the key away: as it is sent, as the file has it, and as the curve's own bytes."""
    lines = pair.private.splitlines()[1:-1]
    blob = base64.b64decode("".join(lines))
    point = base64.b64decode(pair.public.split()[1])[-32:]
    at = blob.rindex(point)
    seed = blob[at - 32 : at]
    middle = len(pair.sent) // 2
    return [pair.sent[middle : middle + 60].encode(), lines[2].encode(), seed, seed.hex().encode()]


def say_go(daemon: Daemon, job_hash: str) -> None:
    (daemon.job_directory(job_hash) / "work" / "go").touch()


# -- what is on the disk


def test_a_run_leaves_nothing_that_others_can_read(tmp_path: Path, new_daemon: NewDaemon, pair: Pair) -> None:
    daemon = new_daemon(bob(pair))
    client = start_client(
        tmp_path / "client", "work", daemon, f"script={SCRIPT}", f"note={IN_RTL}", username="bob", password=pair.sent
    )
    job_hash = wait_for_job(daemon)
    wait_until(lambda: list(daemon.job_directory(job_hash).rglob("said")), "the node does not run")
    canaries = (IN_RTL, IN_LOG, IN_OUTPUT)
    found = {word for _, word in holding(daemon, *canaries)}
    assert found == {repr(word.encode()) for word in canaries}, "this test would not find what it looks for"
    seen = processes(daemon)
    say_go(daemon, job_hash)
    out, _ = client.communicate(timeout=120)

    report = json.loads((tmp_path / "client" / "report.json").read_text())
    assert set(report["statuses"].values()) == {"success"}, out
    said = tmp_path / "client/build/top/job0/work/0/said"
    assert said.read_text().strip() == IN_OUTPUT, "the results did not arrive"

    wait_until_sealed(daemon, job_hash)
    assert holding(daemon, *canaries) == set()
    left = {path.name for path in daemon.job_directory(job_hash).rglob("*") if path.is_file()}
    assert "import.tar.gz.age" in left
    assert {name for name in left if not name.endswith(".age")} == {"events.jsonl", "shim.json", "lock"}
    assert IN_OUTPUT in content(fetch(daemon, pair, job_hash, node="work0"), "/said")
    assert IN_LOG in content(fetch(daemon, pair, job_hash, node="work0"), "/work.log")
    assert daemon.progress(job_hash, **credentials(pair))["status"] == "completed"

    secret = parts_of_the_secret(pair)
    assert holding(daemon, *secret) == set(), "the private key was written down"
    assert [part for part in secret for text in seen if part in text] == [], "a process shows the private key"
    assert str(pair.file).encode() not in b"".join(seen)


def processes(daemon: Daemon) -> list[bytes]:
    """Arguments and environments of all that the daemon has started, and its own."""
    found = []
    for pid, what in itertools.product(daemon.processes(), ("cmdline", "environ")):
        try:
            found.append(Path(f"/proc/{pid}/{what}").read_bytes())
        except OSError:
            continue
    assert len(found) >= 4, "the daemon and the job's processes should be here"
    return found


def test_a_failure_is_told_to_the_owner_and_not_written_down(tmp_path: Path, new_daemon: NewDaemon, pair: Pair) -> None:
    """A tool's last words may hold the design."""
    daemon = new_daemon(bob(pair))
    report = run_client(
        tmp_path / "client", "work", daemon, f"script=echo {IN_REASON}; exit 3", username="bob", password=pair.sent
    )
    assert report["statuses"]["work/0"] == "error"
    job_hash = report["job_hash"]
    wait_until_sealed(daemon, job_hash)
    assert holding(daemon, IN_REASON) == set()
    answer = daemon.progress(job_hash, **credentials(pair))
    assert answer["status"] == "failed"
    assert "its log says why" in daemon.rows("SELECT reason FROM jobs")[0]["reason"]
    assert IN_REASON in content(fetch(daemon, pair, job_hash, node="work0"), "sc_work_0.log")


def test_results_are_fetched_again_as_the_status_page_says(tmp_path: Path, new_daemon: NewDaemon, pair: Pair) -> None:
    """A browser's session does not hold the key: no link leads to what it cannot open, and the page says what does."""
    daemon = new_daemon(bob(pair))
    place = tmp_path / "client"
    report = run_client(place, "work", daemon, f"script=echo {IN_OUTPUT} > said", username="bob", password=pair.sent)
    job_hash = report["job_hash"]
    wait_until_sealed(daemon, job_hash)

    with httpx2.Client(base_url=daemon.url, follow_redirects=True) as browser:
        token = re.findall(r'name="token" value="([^"]+)"', browser.get("/login").text)[0]
        form = {"username": "bob", "password": pair.sent, "token": token}
        assert browser.post("/login", data=form).status_code == 200
        page = browser.get(f"/job/{job_hash}").text
        assert "encrypted to your key, which this page does not hold" in page
        assert "sc-remote -reconnect -cfg build/DESIGN/JOBNAME/sc_remote.pkg.json" in page
        assert re.findall(r'href="[^"]*(?:results|/log)[^"]*"', page) == [], "links that lead to nothing"
        (node,) = daemon.rows("SELECT n FROM nodes WHERE step = 'work'")
        for path in ("results.tar.gz", f"node/{node['n']}/results.tar.gz", f"node/{node['n']}/log"):
            refused = browser.get(f"/job/{job_hash}/{path}")
            assert refused.status_code in (403, 404)
            assert "encrypted to" in refused.text, "an old link does not say what is wrong"

    shutil.rmtree(place / "build/top/job0/work")
    command = [str(Path(RUNTIME).with_name("sc-remote")), "-credentials", str(place / "credentials"), "-reconnect"]
    done = subprocess.run(
        [*command, "-cfg", "build/top/job0/sc_remote.pkg.json"], cwd=place, capture_output=True, text=True, timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(place), "LANG": "C.UTF-8"},
    )  # fmt: skip
    said = place / "build/top/job0/work/0/said"
    assert said.exists(), f"{done.stdout}{done.stderr}"
    assert said.read_text().strip() == IN_OUTPUT


# -- crashes


@pytest.mark.parametrize("moment", ["before the first file", "between two files", "within a file"])
def test_a_daemon_killed_while_it_encrypts(new_daemon: NewDaemon, pair: Pair, moment: str) -> None:
    """At its next start it goes on: all is encrypted in the end, and all can still be fetched."""
    daemon = new_daemon(bob(pair))
    script = "script=head -c 30000000 /dev/urandom > noise; sha256sum < noise > sum"
    for _ in range(20):
        job_hash = submit(daemon, pair, script)
        kill_when(daemon, job_hash, moment)
        if not daemon.rows("SELECT sealed FROM jobs WHERE job_hash = ?", job_hash)[0]["sealed"]:
            break
        daemon.start()  # it was quicker than this test
    else:
        pytest.fail("the daemon was never caught while it encrypted")
    daemon.start()
    wait_until_sealed(daemon, job_hash)
    archives = daemon.job_directory(job_hash) / "archives"
    assert all(path.name.endswith(".tar.gz.age") and path.name[0] != "." for path in archives.iterdir())
    assert not any((daemon.job_directory(job_hash) / "work").iterdir())
    got = fetch(daemon, pair, job_hash, node="work0")
    with tarfile.open(fileobj=io.BytesIO(got), mode="r:gz") as tar:
        (name,) = [name for name in tar.getnames() if name.endswith("/noise")]
        file = tar.extractfile(name)
        assert file is not None
        assert content(got, "/sum").split()[0] == hashlib.sha256(file.read()).hexdigest()
    for node in ("get0", "after0"):
        fetch(daemon, pair, job_hash, node=node)
    fetch(daemon, pair, job_hash)
    assert "Traceback" not in daemon.log.read_text()


def kill_when(daemon: Daemon, job_hash: str, moment: str) -> None:
    """SIGKILL as soon as the job's directory looks like that."""
    directory = daemon.job_directory(job_hash)

    def has_come() -> bool:
        names = os.listdir(directory / "archives")
        match moment:
            case "before the first file":
                ended = daemon.rows("SELECT 1 FROM jobs WHERE job_hash = ? AND ended IS NOT NULL", job_hash)
                return bool(ended) and is_emptied(directory / "work")
            case "between two files":
                return any(name.endswith(".age") and name[0] != "." for name in names)
            case _:
                return any(name.endswith(".age") and name[0] == "." for name in names)

    deadline = time.monotonic() + 90
    while not has_come():
        assert time.monotonic() < deadline, f"nothing of job {job_hash} is encrypted:\n{daemon.log.read_text()}"
        time.sleep(0.0005)
    daemon.stop(signal.SIGKILL)


def is_emptied(work: Path) -> bool:
    """Whether the job's tree is gone; while it is being replaced by an empty one there is none at all."""
    try:
        return not any(work.iterdir())
    except FileNotFoundError:
        return True


# -- resume


def test_an_encrypted_job_is_resumed_by_the_client(tmp_path: Path, new_daemon: NewDaemon, pair: Pair) -> None:
    """What was done is not done again, and the next node finds its inputs."""
    daemon = new_daemon(bob(pair))
    options = (f"script=echo {IN_OUTPUT} > said", f"note={IN_RTL}")
    first = run_client(tmp_path, "work", daemon, *options, "to=get", username="bob", password=pair.sent)
    assert first["statuses"] == {"get/0": "success", "work/0": "pending", "after/0": "pending"}, first["log"]
    wait_until_sealed(daemon, first["job_hash"])
    note = tmp_path / "build/top/job0/sc_remote.pkg.json"
    second = run_client(tmp_path, "work", daemon, f"manifest={note}", "to=after", username="bob", password=pair.sent)
    assert second["job_hash"] == first["job_hash"], f"a new job was made:\n{second['log']}"
    assert set(second["statuses"].values()) == {"success"}, second["log"]
    attempts = daemon.rows("SELECT step, count(*) AS n FROM attempts WHERE step <> '' GROUP BY step")
    assert {row["step"]: row["n"] for row in attempts} == {"get": 1, "work": 1, "after": 1}
    wait_until_sealed(daemon, first["job_hash"])
    assert holding(daemon, IN_RTL, IN_OUTPUT, *parts_of_the_secret(pair)) == set()
    assert IN_OUTPUT in content(fetch(daemon, pair, first["job_hash"], node="work0"), "/said")


def test_a_restart_before_a_resume_is_decrypted(new_daemon: NewDaemon, pair: Pair) -> None:
    """The key went with the daemon's memory: the job says so, loses nothing, and is resumed by the next request."""
    daemon = new_daemon(bob(pair))
    script = "script=head -c 30000000 /dev/urandom > noise"
    for _ in range(10):
        job_hash = submit(daemon, pair, script, to="work")
        assert daemon.wait(job_hash, credentials=credentials(pair))["status"] == "completed"
        wait_until_sealed(daemon, job_hash)
        request = threading.Thread(target=resume_or_not, args=(daemon, pair, job_hash, script))
        request.start()
        kill_when_resumed(daemon, job_hash)
        request.join(60)
        daemon.start()
        if daemon.wait(job_hash, credentials=credentials(pair))["status"] == "failed":
            break  # else it was decrypted already
    else:
        pytest.fail("the daemon was never killed before it had decrypted a job")
    reason = daemon.rows("SELECT reason FROM jobs WHERE job_hash = ?", job_hash)[0]["reason"]
    assert "Resume it again: nothing of it is lost." in reason
    wait_until_sealed(daemon, job_hash)
    assert resume(daemon, pair, job_hash, script)[0] == 200
    assert daemon.wait(job_hash, credentials=credentials(pair))["status"] == "completed", daemon.log.read_text()
    attempts = daemon.rows(
        "SELECT step, count(*) AS n FROM attempts WHERE step <> '' AND job_hash = ? GROUP BY step", job_hash
    )
    assert {row["step"]: row["n"] for row in attempts} == {"get": 1, "work": 1, "after": 1}


def resume_or_not(daemon: Daemon, pair: Pair, job_hash: str, script: str) -> None:
    """The daemon is killed meanwhile, and may not have answered."""
    with contextlib.suppress(httpx2.TransportError):
        resume(daemon, pair, job_hash, script)


def kill_when_resumed(daemon: Daemon, job_hash: str) -> None:
    deadline = time.monotonic() + 60
    while not daemon.rows("SELECT 1 FROM jobs WHERE job_hash = ? AND generation = 2", job_hash):
        assert time.monotonic() < deadline, "the resume was not taken"
        time.sleep(0.0005)
    daemon.stop(signal.SIGKILL)


# -- other keys


def test_nobody_else_and_no_other_key(tmp_path: Path, new_daemon: NewDaemon, pair: Pair) -> None:
    """Not somebody else's key; and not the owner's own next one, to which these files are not encrypted."""
    daemon = new_daemon(bob(pair))
    job_hash = submit(daemon, pair, "script=true", to="get")
    assert daemon.wait(job_hash, credentials=credentials(pair))["status"] == "completed"
    wait_until_sealed(daemon, job_hash)
    other = make_pair(tmp_path / "next")
    refused = daemon.post(f"/get_results/{job_hash}.tar.gz", credentials(other))
    assert (refused.status_code, refused.json()["message"]) == (403, "Wrong user name or key.")

    daemon.stop()
    daemon.file.write_text(daemon.file.read_text().replace(pair.public, other.public))
    daemon.start()
    refused = daemon.post(f"/get_results/{job_hash}.tar.gz", credentials(other))
    assert refused.status_code == 403
    assert refused.json()["message"].startswith(WRONG)
    code, message = resume(daemon, other, job_hash, "script=true")
    assert (code, "encrypted to another key of this account" in message) == (400, True), message
    assert daemon.progress(job_hash, **credentials(other))["status"] == "completed", "the job was changed by it"
    assert daemon.post("/delete_job/", {"job_hash": job_hash, **credentials(other)}).status_code == 200


def test_the_clients_own_report_of_a_wrong_key(tmp_path: Path, new_daemon: NewDaemon, pair: Pair) -> None:
    daemon = new_daemon(bob(pair))
    other = make_pair(tmp_path / "other")
    report = run_client(
        tmp_path / "client", "chain", daemon, username="bob", password=other.sent, check=False, timeout=60
    )
    assert "Wrong user name or key." in report["log"]
    assert daemon.rows("SELECT * FROM jobs") == []
