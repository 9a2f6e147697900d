"""Whose job it is, who may say so, and how: each user and nobody at each endpoint, over TCP and to a real daemon."""

import itertools
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import argon2
import httpx2
import pytest

from ..harness import ROOT, Daemon, wait_until
from ..keys import Pair, make_pair
from .submission import collected, import_archive, manifest

NewDaemon = Callable[..., Daemon]
QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
NOT_YOURS, WRONG = "This job belongs to another user.", "Wrong user name or key."
NEEDED = "This server needs a user name and a password (set them with: sc-remote -configure)."

JOB_ENDPOINTS = ("/check_progress/", "/cancel_job/", "/delete_job/", "/get_results/{}.tar.gz", "/remote_run/")


class People:
    """alice has a password, bob a key; nobody is anonymous."""

    def __init__(self, pair: Pair):
        self.pair = pair
        self.config = (
            f'[users.alice]\npassword_hash = "{QUICK.hash("alice-secret")}"\n'
            f'[users.bob]\npublic_key = "{pair.public}"\n'
        )
        self.credentials: dict[str, dict[str, str]] = {
            "alice": {"username": "alice", "key": "alice-secret"},
            "bob": {"username": "bob", "key": pair.sent},
            "nobody": {},
        }


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return People(make_pair(tmp_path_factory.mktemp("keys") / "bob"))


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory, people: People) -> Iterator[Daemon]:
    """Users, and nobody has to be one."""
    daemon = Daemon(tmp_path_factory.mktemp("open"), f"[auth]\nrequired = false\n{people.config}")
    yield daemon.start()
    daemon.end_everything()


@pytest.fixture(scope="module")
def closed_house(tmp_path_factory: pytest.TempPathFactory, people: People) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("closed"), people.config)
    yield daemon.start()
    daemon.end_everything()


@pytest.fixture(scope="module")
def jobs(open_house: Daemon, people: People) -> dict[tuple[str, str], str]:
    """By owner and kind a job that ended, and one that was deleted."""
    found = {}
    for owner, credentials in people.credentials.items():
        for kind in ("ended", "deleted"):
            response = open_house.submit(manifest("chain"), collected("chain"), **credentials)
            found[owner, kind] = response.json()["job_hash"]
            assert open_house.wait(found[owner, kind], credentials=credentials)["status"] == "completed"
        assert open_house.post("/delete_job/", {"job_hash": found[owner, "deleted"], **credentials}).status_code == 200
    return found


def ask(daemon: Daemon, endpoint: str, job_hash: str, credentials: dict[str, str]) -> httpx2.Response:
    if endpoint == "/remote_run/":
        return daemon.submit(manifest("chain"), None, job_hash=job_hash, **credentials)
    return daemon.post(endpoint.format(job_hash), {"job_hash": job_hash, **credentials})


@pytest.mark.parametrize("endpoint", JOB_ENDPOINTS)
@pytest.mark.parametrize("kind", ["ended", "deleted"])
@pytest.mark.parametrize(("owner", "other"), list(itertools.permutations(("alice", "bob", "nobody"), 2)))
def test_another_users_job(
    open_house: Daemon,
    people: People,
    jobs: dict[tuple[str, str], str],
    owner: str,
    other: str,
    kind: str,
    endpoint: str,
) -> None:
    """One answer for all that is not one's own. 403, since the client polls for ever at any other."""
    response = ask(open_house, endpoint, jobs[owner, kind], people.credentials[other])
    assert (response.status_code, response.json()["message"]) == (403, NOT_YOURS), response.text


@pytest.mark.parametrize("owner", ["alice", "bob", "nobody"])
def test_ones_own_job_after_all_those_requests(
    open_house: Daemon, people: People, jobs: dict[tuple[str, str], str], owner: str
) -> None:
    credentials = people.credentials[owner]
    for kind in ("ended", "deleted"):
        assert open_house.progress(jobs[owner, kind], **credentials)["status"] == "completed"
    assert ask(open_house, "/get_results/{}.tar.gz", jobs[owner, "ended"], credentials).status_code == 200
    assert "is not running: it is completed" in ask(open_house, "/cancel_job/", jobs[owner, "ended"], credentials).text
    assert "was deleted" in ask(open_house, "/remote_run/", jobs[owner, "deleted"], credentials).text


def wrong_credentials(people: People) -> list[dict[str, str]]:
    alice, bob = people.credentials["alice"], people.credentials["bob"]
    return [
        {"username": "alice", "key": "x"}, {"username": "alice", "key": bob["key"]}, {"username": "bob", "key": "x"},
        {"username": "bob", "key": alice["key"]}, {"username": "carol", "key": "x"},
        {"username": "carol", "key": bob["key"]}, {"username": "bob", "key": people.pair.public.split()[1]},
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("house", ["open_house", "closed_house"])
def test_wrong_credentials(request: pytest.FixtureRequest, people: People, house: str, number: int) -> None:
    """The same to the byte, whoever does not exist, whatever scheme he has, whichever job is meant."""
    daemon: Daemon = request.getfixturevalue(house)
    wrong = wrong_credentials(people)[number]
    hashes = ["0" * 32]
    if house == "open_house":
        hashes.append(request.getfixturevalue("jobs")["alice", "ended"])
    for at, job_hash in enumerate(hashes):
        with from_address(daemon, f"127.0.{at + 1}.{number + 1}") as client:  # else these are too many guesses of one
            answers = {ask_from(client, endpoint, job_hash, wrong) for endpoint in ("/check_server/", *JOB_ENDPOINTS)}
        assert answers == {(403, f'{{"message":"{WRONG}","status":"rejected","success":false}}')}


def from_address(daemon: Daemon, address: str) -> httpx2.Client:
    return httpx2.Client(
        base_url=f"http://127.0.0.1:{daemon.port}", timeout=30, transport=httpx2.HTTPTransport(local_address=address)
    )


def ask_from(client: httpx2.Client, endpoint: str, job_hash: str, credentials: dict[str, str]) -> tuple[int, str]:
    if endpoint == "/remote_run/":
        params = json.dumps({"cfg": manifest("chain"), "params": {"job_hash": job_hash, **credentials}})
        response = client.post(endpoint, files={"params": ("params", params)})
    else:
        response = client.post(endpoint.format(job_hash), content=json.dumps({"job_hash": job_hash, **credentials}))
    return response.status_code, response.text


@pytest.mark.parametrize("endpoint", JOB_ENDPOINTS)
def test_without_credentials(closed_house: Daemon, endpoint: str) -> None:
    response = ask(closed_house, endpoint, "0" * 32, {})
    assert (response.status_code, response.json()["message"]) == (403, NEEDED)


def test_a_new_job_without_credentials(closed_house: Daemon, open_house: Daemon) -> None:
    assert closed_house.submit(manifest("chain"), import_archive()).json()["message"] == NEEDED
    response = open_house.submit(manifest("chain"), import_archive())
    assert response.status_code == 200
    assert open_house.rows("SELECT user FROM jobs WHERE job_hash = ?", response.json()["job_hash"]) == [{"user": ""}]


# -- guessing


def test_guesses_are_throttled_and_nobody_else_notices(new_daemon: NewDaemon, people: People) -> None:
    """A hundred at once: some are looked at, the others told to wait. Who has logged in is answered as ever."""
    daemon = new_daemon(people.config)
    alice = people.credentials["alice"]
    assert daemon.post("/check_server/", alice).status_code == 200
    codes: list[int] = []

    def guess(number: int) -> None:
        codes.append(daemon.post("/check_server/", {"username": "bob", "key": f"wrong-secret {number}"}).status_code)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    assert daemon.post("/check_server/", alice).status_code == 200
    assert daemon.post("/check_server/", people.credentials["bob"]).status_code in (200, 429)
    for thread in threads:
        thread.join(60)
    assert set(codes) == {403, 429}
    assert 10 <= codes.count(403) <= 15, "more guesses were looked at than shall be"
    text = daemon.log.read_text()
    assert text.count("login failed: address=127.0.0.1 user=bob") == codes.count(403)
    assert 1 <= text.count("too many failed logins: address=127.0.0.1 user=bob") <= 3
    assert "wrong-secret" not in text

    def bob_gets_in() -> bool:
        response = daemon.post("/check_server/", people.credentials["bob"])
        assert response.status_code in (200, 429), response.text
        return bool(response.status_code == 200)

    wait_until(bob_gets_in, "bob is locked out by somebody who guessed")


# -- plain HTTP


def other_address() -> str:
    """An address of this machine beyond loopback; nothing is sent for it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


@pytest.mark.skipif(not other_address(), reason="this machine has no address but loopback's")
@pytest.mark.parametrize("allowed", [False, True])
def test_passwords_over_plain_http_from_elsewhere(new_daemon: NewDaemon, people: People, allowed: bool) -> None:
    more = "[auth]\nplain_http = true\nrequired = false\n" if allowed else "[auth]\nrequired = false\n"
    daemon = new_daemon(more + people.config, server="")
    daemon.stop()
    daemon.file.write_text(daemon.file.read_text().replace(f"127.0.0.1:{daemon.port}", f"0.0.0.0:{daemon.port}")
                           .replace("required = false", "required = true"))  # fmt: skip
    daemon.start()
    url = f"http://{other_address()}:{daemon.port}"
    for credentials in (people.credentials["alice"], {"username": "alice", "key": "wrong"}):
        answer = httpx2.post(f"{url}/check_server/", json=credentials)
        if allowed:
            assert answer.status_code == (200 if credentials["key"] == "alice-secret" else 403)
        else:
            assert answer.status_code == 403
            text = answer.json()["message"]
            assert f"no password over plain HTTP from {other_address()}" in text
            assert "plain_http = true" in text, "it says what to do"
            assert "tls_certificate" in text
    assert daemon.post("/check_server/", people.credentials["alice"]).status_code == 200, "on loopback nobody listens"
    log = daemon.log.read_text()
    assert f"scd listens on 0.0.0.0:{daemon.port}" in log
    assert ("travel there for everybody to read" in log) == allowed


# -- keys


def test_keygen_makes_what_the_configuration_takes(tmp_path: Path, new_daemon: NewDaemon) -> None:
    file = tmp_path / "bob key"
    done = scdctl("keygen", str(file))
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    line = next(line.strip() for line in done.stdout.splitlines() if "public_key" in line)
    assert f"base64 -w0 {file}" in done.stdout
    daemon = new_daemon(f"[users.bob]\n{line}\n")
    key = subprocess.run(["base64", "-w0", str(file)], capture_output=True, text=True, check=True).stdout
    assert daemon.post("/check_server/", {"username": "bob", "key": key}).status_code == 200
    again = scdctl("keygen", str(file))
    assert again.returncode == 1
    assert "is there already, and is not overwritten" in again.stderr
    assert file.read_text() in done.stdout or "PRIVATE KEY" not in done.stdout, "the secret is on the terminal"


def test_a_key_without_pyrage_is_refused_at_start(tmp_path: Path, people: People) -> None:
    """By a message that says what to install; not at the first login."""
    daemon = Daemon(tmp_path / "scd", people.config)
    without = "import sys; sys.modules['pyrage'] = None; from scd.daemon import main; main()"
    for mode in ([], ["--check-config"]):
        done = subprocess.run(
            [sys.executable, "-c", without, "-c", str(daemon.file), *mode], cwd=ROOT, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        assert done.returncode == 78, done.stderr
        assert "pip install 'scd[keys]'" in done.stderr


def scdctl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "scd.cli.main", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


# -- after all


def test_no_secret_and_no_traceback_was_logged(open_house: Daemon, closed_house: Daemon, people: People) -> None:
    for daemon in (open_house, closed_house):
        text = daemon.log.read_text()
        assert "Traceback" not in text
        for secret in ("alice-secret", people.pair.sent, people.pair.sent[40:80]):
            assert secret not in text
