"""The status page as an attacker meets it: its answers, sessions, forms, and what a job's words do to a page."""

import contextlib
import io
import re
import socket
import tarfile
from collections.abc import Callable, Iterator

import httpx2
import pytest
from argon2 import PasswordHasher

from ..harness import Daemon, Json, wait_until
from ..integration.submission import collected, import_archive, manifest
from .judge import Judge
from .test_openapi import FAULT, PAGES, described
from .wire import Answer, Request

NewDaemon = Callable[..., Daemon]
UNKNOWN = "0" * 32
PASSWORD = "correct horse"
FOREIGN = {"Origin": "http://evil.example"}
JOB, NODE = "/job/{job_hash}", "/job/{job_hash}/node/{n}"

Visit = tuple[str, str, int, httpx2.Response]


def users(*names: str) -> str:
    hashed = PasswordHasher(time_cost=1, memory_cost=64).hash(PASSWORD)
    return "".join(f'[users."{name}"]\npassword_hash = "{hashed}"\n' for name in names)


def token_in(page: httpx2.Response) -> str:
    (token, *_) = re.findall(r'name="token" value="([0-9a-f]{64})"', page.text)
    return str(token)


@contextlib.contextmanager
def logged_in(daemon: Daemon, user: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=daemon.url, timeout=30) as browser:
        form = {"token": token_in(browser.get("/login")), "username": user, "password": PASSWORD}
        assert browser.post("/login", data=form).status_code == 303
        yield browser


@contextlib.contextmanager
def watched(daemon: Daemon, path: str, count: int) -> Iterator[None]:
    """So many open streams of events."""
    made = []
    try:
        for _ in range(count):
            made.append(socket.create_connection(("127.0.0.1", daemon.port), 10))
            made[-1].sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert made[-1].recv(100).startswith(b"HTTP/1.1 200 "), "a stream was refused before there were too many"
        yield
    finally:
        for one in made:
            one.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, str, str]]:
    """A daemon without users, one job that ended before its last start, and one that runs."""
    daemon = Daemon(tmp_path_factory.mktemp("lab"), "").start()
    done = str(daemon.submit(manifest("chain"), import_archive()).json()["job_hash"])
    daemon.wait(done)
    daemon.stop()
    daemon.start()
    script = "script=sleep 600"
    slow = str(daemon.submit(manifest("work", script), collected("work", script)).json()["job_hash"])
    daemon.wait_for_node(slow, "work0", "running")
    yield daemon, done, slow
    daemon.end_everything()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(
        tmp_path_factory.mktemp("closed"), users("alice", "bob") + "[users.bob.limits]\nmax_result = 1000\n"
    )
    yield daemon.start()
    daemon.end_everything()


def submit_as(daemon: Daemon, user: str) -> str:
    answer = daemon.submit(manifest("chain"), import_archive(), username=user, key=PASSWORD)
    job_hash = str(answer.json()["job_hash"])
    daemon.wait(job_hash, credentials={"username": user, "key": PASSWORD})
    return job_hash


def test_each_status_that_is_described_can_be_had(lab: tuple[Daemon, str, str], closed: Daemon) -> None:
    """And has a type that is described, and shows nothing of scd's inside."""
    judge, provoked = Judge(), set()
    for path, method, status, response in visits(*lab, closed):
        assert response.status_code == status, f"{method} {path}: {response.status_code} {response.text[:300]}"
        answer = Answer(status, {key.lower(): value for key, value in response.headers.items()}, response.content)
        assert judge.problem(Request(b"", path, method), answer) is None, (path, method, status)
        provoked.add((path, method, status))
    assert provoked == {known for known in described() if known[:2] in PAGES and known[2] != FAULT}


def visits(daemon: Daemon, done: str, slow: str, closed: Daemon) -> Iterator[Visit]:
    """Each answer of each page; what deletes and cancels comes last."""
    with httpx2.Client(base_url=daemon.url) as browser, httpx2.Client(base_url=closed.url) as guest:
        yield from _visits(daemon, browser, guest, done, slow)
    his = submit_as(closed, "bob")
    with logged_in(closed, "bob") as bob:
        for path, rest in ((f"{JOB}/results.tar.gz", ""), (f"{NODE}/results.tar.gz", "/node/1")):
            yield path, "get", 503, bob.get(f"/job/{his}{rest}/results.tar.gz")


def _visits(daemon: Daemon, browser: httpx2.Client, guest: httpx2.Client, done: str, slow: str) -> Iterator[Visit]:

    def get(path: str, status: int, url: str, client: httpx2.Client = browser) -> Visit:
        return path, "get", status, client.get(url)

    def from_elsewhere(path: str, url: str) -> Visit:
        return path, "get", 403, browser.get(url, headers=FOREIGN)

    def post(path: str, status: int, url: str, form: Json, client: httpx2.Client = browser) -> Visit:
        return path, "post", status, client.post(url, data=form)

    under = {
        JOB: "", f"{JOB}/events": "/events", f"{JOB}/results.tar.gz": "/results.tar.gz", f"{NODE}/log": "/node/1/log",
        f"{NODE}/log/events": "/node/1/log/events", f"{NODE}/results.tar.gz": "/node/1/results.tar.gz",
    }  # fmt: skip
    for path, rest in under.items():
        yield get(path, 303, f"/job/{done}{rest}", guest)
        yield get(path, 400, f"/job/x{rest}")
        yield from_elsewhere(path, f"/job/{done}{rest}")
        yield get(path, 404, f"/job/{UNKNOWN}{rest}")
    yield get("/", 200, "/?state=completed")
    yield get("/", 303, "/", guest)
    yield get("/", 400, "/?state=odd")
    yield from_elsewhere("/", "/")
    yield get("/login", 200, "/login", guest)
    yield get("/login", 303, "/login")
    yield from_elsewhere("/login", "/login")
    static = str(re.findall(r'href="(/static/[^"]*css)"', browser.get("/").text)[0])
    yield get("/static/{digest}/{name}", 200, static)
    yield from_elsewhere("/static/{digest}/{name}", static)
    yield get("/static/{digest}/{name}", 404, static.replace("scd.css", "../pages.py"))
    yield get(JOB, 200, f"/job/{done}")
    yield get(f"{JOB}/events", 204, f"/job/{done}/events")
    yield get(f"{JOB}/results.tar.gz", 200, f"/job/{slow}/results.tar.gz")
    yield get(f"{NODE}/log", 200, f"/job/{done}/node/1/log")
    yield get(f"{NODE}/log/events", 200, f"/job/{done}/node/1/log/events")
    yield get(f"{NODE}/results.tar.gz", 200, f"/job/{done}/node/1/results.tar.gz")
    with watched(daemon, f"/job/{slow}/events", 20):
        yield get(f"{JOB}/events", 503, f"/job/{slow}/events")
        yield get(f"{NODE}/log/events", 503, f"/job/{slow}/node/2/log/events")
    token, good = {"token": token_in(browser.get(f"/job/{slow}"))}, {"username": "alice", "password": PASSWORD}
    many = {f"field{number}": "" for number in range(20)}
    urls = {"/login": "/login", f"{JOB}/cancel": f"/job/{slow}/cancel", f"{JOB}/delete": f"/job/{done}/delete",
            "/logout": "/logout"}  # fmt: skip
    for path, url in urls.items():
        yield post(path, 400, url, many)
        yield post(path, 403, url, {"token": "x", **good}, guest if path == "/login" else browser)
        yield post(path, 413, url, {"token": "x" * 20_000})
        if path.startswith(JOB):
            yield post(path, 404, url.replace(done, UNKNOWN).replace(slow, UNKNOWN), token)
        yield post(path, 303, url, {**token, **good})
    yield post("/login", 303, "/login", {"token": token_in(guest.get("/login")), **good}, guest)
    yield get(f"{JOB}/events", 200, f"/job/{slow}/events")


def test_a_session_is_its_users_and_ends(closed: Daemon) -> None:
    hers = submit_as(closed, "alice")
    with logged_in(closed, "alice") as alice, logged_in(closed, "bob") as bob:
        assert hers[:8] in alice.get("/").text
        assert hers[:8] not in bob.get("/").text
        for path in ("", "/events", "/results.tar.gz", "/node/1/log", "/node/1/results.tar.gz"):
            assert bob.get(f"/job/{hers}{path}").status_code == 403, path
        form = {"token": token_in(bob.get("/"))}
        assert bob.post(f"/job/{hers}/delete", data=form).status_code == 403
        stolen = alice.cookies["scd_session"]
        assert alice.post("/logout", data={"token": token_in(alice.get("/"))}).status_code == 303
    late = httpx2.get(f"{closed.url}/job/{hers}", headers={"Cookie": f"scd_session={stolen}"})
    assert late.headers["location"] == f"/login?next=/job/{hers}", "the session outlived its logout"


def test_the_cookie_is_for_the_browser_alone(closed: Daemon) -> None:
    with httpx2.Client(base_url=closed.url) as browser:
        before = browser.get("/login")
        form = {"token": token_in(before), "username": "alice", "password": PASSWORD}
        cookie = browser.post("/login", data=form).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert cookie.split(";")[0] not in before.headers["set-cookie"], "a token from before the login is a session's"


def test_a_wrong_password_is_told_as_the_client_is(closed: Daemon) -> None:
    by_api = closed.post("/check_progress/", {"username": "alice", "key": "wrong", "job_hash": UNKNOWN}).json()[
        "message"
    ]
    for name, password in (("alice", "wrong"), ("nobody", "wrong"), ("alice", ""), ("", "")):
        with httpx2.Client(base_url=closed.url) as browser:
            form = {"token": token_in(browser.get("/login")), "username": name, "password": password}
            answer = browser.post("/login", data=form)
            assert answer.status_code == 403
            assert by_api in answer.text
            assert browser.get("/").status_code == 303
    assert "wrong" not in closed.log.read_text(), "a password was logged"


@pytest.mark.parametrize(
    "after", ["//evil.example", "https://evil.example/", "/\\evil.example", "/static/x", "javascript:x"]
)
def test_a_login_leads_nowhere_else(closed: Daemon, after: str) -> None:
    with httpx2.Client(base_url=closed.url) as browser:
        form = {"token": token_in(browser.get("/login", params={"next": after})), "next": after}
        answer = browser.post("/login", data={**form, "username": "alice", "password": PASSWORD})
    assert answer.headers["location"] == "/"


def test_a_form_of_another_browser_does_nothing(closed: Daemon) -> None:
    hers = submit_as(closed, "alice")
    with logged_in(closed, "alice") as alice, logged_in(closed, "alice") as again, logged_in(closed, "bob") as bob:
        for other in (again, bob):
            form = {"token": token_in(other.get("/"))}
            assert alice.post(f"/job/{hers}/delete", data=form).status_code == 403
        assert alice.get(f"/job/{hers}").status_code == 200
        own = {"token": token_in(alice.get("/"))}
        assert alice.post(f"/job/{hers}/delete", data=own, headers=FOREIGN).status_code == 403
        assert alice.post(f"/job/{hers}/delete", data=own).status_code == 303
        assert "A deleted job" in alice.get(f"/job/{hers}").text


@pytest.mark.parametrize(
    "path", ["/", "/job/{job}", "/job/{job}/node/1/log", "/job/x", "/job/{job}/node/1/results.tar.gz"]
)
def test_no_page_can_be_framed_or_run_a_script_of_its_own(lab: tuple[Daemon, str, str], path: str) -> None:
    daemon, done, _ = lab
    headers = httpx2.get(f"{daemon.url}{path.format(job=done)}").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


def test_downloads_are_the_clients_and_charged(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    done = str(daemon.submit(manifest("chain"), import_archive()).json()["job_hash"])
    daemon.wait(done)
    by_client = daemon.post(f"/get_results/{done}.tar.gz", {"node": "s00"}).content
    page = httpx2.get(f"{daemon.url}/job/{done}/node/1/results.tar.gz")
    assert page.content == by_client
    assert page.headers["content-disposition"] == 'attachment; filename="top-job0-s0-0.tar.gz"'
    charged = "SELECT result_bytes FROM ledger WHERE result_bytes = ?"
    wait_until(lambda: len(daemon.rows(charged, len(by_client))) == 2, "a download from the page is not charged")
    with tarfile.open(fileobj=io.BytesIO(page.content)) as tar:
        assert any(name.endswith("sc_s0_0.log") for name in tar.getnames())
