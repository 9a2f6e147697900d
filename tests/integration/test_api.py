"""check_server, check_progress, cancel_job, delete_job and get_results, each answer of the specification."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import argon2
import httpx2
import pytest

from ..harness import Daemon, Json, wait_until
from .submission import collected, manifest, member, members

NewDaemon = Callable[..., Daemon]
UNKNOWN = "0" * 32
ENDPOINTS = ("/check_server", "/check_progress", "/cancel_job", "/delete_job", f"/get_results/{UNKNOWN}.tar.gz")
# The client's own set: any other word crashes it.
NODE_WORDS = {"pending", "queued", "running", "success", "error", "skipped", "timeout"}


def start(daemon: Daemon, flow: str = "chain", *options: str, **params: str) -> str:
    response = daemon.submit(manifest(flow, *options), collected(flow, *options), **params)
    assert response.status_code == 200, response.text
    return str(response.json()["job_hash"])


def finished(daemon: Daemon, flow: str = "chain", *options: str, **params: str) -> str:
    job_hash = start(daemon, flow, *options, **params)
    daemon.wait(job_hash, credentials=params)
    return job_hash


def refused(response: httpx2.Response, status: int) -> str:
    assert response.status_code == status, response.text
    answer = response.json()
    assert sorted(answer) == ["message", "status", "success"], "every error has one shape"
    assert answer["success"] is False
    return str(answer["message"])


# -- check_server


def test_check_server_for_anybody(daemon: Daemon) -> None:
    answer = daemon.post("/check_server/").json()
    assert sorted(answer) == ["progress_interval", "status", "terms", "versions"]
    assert answer["status"] == "ready"
    assert answer["terms"] == ""
    assert sorted(answer["versions"]) == ["sc", "sc_schema", "sc_server"]
    assert re.fullmatch(r"0\.3[78]\.\d+", answer["versions"]["sc"])


def test_check_server_says_what_the_configuration_says(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(
        server='terms = "Be kind."\nprogress_interval = 3\npre_upload = { message = "Wait.", delay = "2s" }'
    )
    answer = daemon.post("/check_server/").json()
    assert answer["terms"] == "Be kind."
    assert answer["progress_interval"] == 3
    assert answer["pre_upload"] == {"message": "Wait.", "delay": 2}


@pytest.mark.parametrize("path", ENDPOINTS)
def test_trailing_slash_or_none(daemon: Daemon, path: str) -> None:
    """A redirect would turn the client's POST into a GET."""
    body = {"job_hash": UNKNOWN}
    without, with_slash = daemon.post(path, body), daemon.post(f"{path}/", body)
    assert without.status_code == with_slash.status_code
    assert without.status_code in (200, 404)
    assert without.json() == with_slash.json()


def test_other_methods_and_paths(daemon: Daemon) -> None:
    assert refused(httpx2.get(f"{daemon.url}/check_server/"), 405) == "Method Not Allowed"
    assert refused(daemon.post("/nothing"), 404) == "Not Found"
    said = refused(daemon.post("/admin/cancel/" + UNKNOWN), 403)
    assert said == "This is for the first Unix socket in [server] listen only."


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"3", b'"x"', b"null", b'{"username": 3}', b'{"username": "a;b"}', b'{"username": "a\\n"}',
     b'{"key": []}', b'{"job_hash": "x"}', b"\xff", b'{"a":' * 5000, b'{"job_hash": "' + b"0" * 32 + b'\\n"}',
     b'{"node": "' + b"x" * 5000 + b'"}'],
)  # fmt: skip
def test_malformed_bodies(daemon: Daemon, path: str, body: bytes) -> None:
    text = refused(httpx2.post(f"{daemon.url}{path}", content=body), 400)
    assert text.startswith("Invalid parameters: "), text


def test_an_answer_comes_at_once(daemon: Daemon) -> None:
    """Also the second one of a connection: its body once waited 40 ms for the client to acknowledge its headers."""
    times = []
    with httpx2.Client() as client:
        for _ in range(10):
            begin = time.monotonic()
            assert client.post(f"{daemon.url}/check_server/").status_code == 200
            times.append(time.monotonic() - begin)
    assert min(times[1:]) < 0.03, times


def test_a_body_without_end(daemon: Daemon) -> None:
    response = httpx2.post(f"{daemon.url}/check_progress/", content=b'{"key": "' + b"x" * 2_000_000)
    assert refused(response, 413) == "A request to this endpoint may have 1048576 bytes."


# -- check_progress


def test_progress_of_a_running_job(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = start(daemon, "work", "script=sleep 60")
    daemon.wait_for_node(job_hash, "work0", "running")
    time.sleep(1.1)
    answer = daemon.post("/check_progress/", {"job_hash": job_hash, "job_id": "job0"}).json()
    assert answer["status"] == "running"
    nodes = answer["message"]
    assert nodes["null"] == {"status": "success"}, "the set-up manifest can be fetched"
    assert nodes["get0"]["status"] == "success"
    assert nodes["after0"] == {"status": "pending"}
    assert re.fullmatch(r"0:00:\d\d", nodes["work0"]["elapsed_time"])
    assert nodes["work0"]["elapsed_time"] != "0:00:00"
    assert {entry["status"] for entry in nodes.values()} <= NODE_WORDS
    for name, entry in nodes.items():
        assert answer[name]["status"] == entry["status"], "the specification has the entries beside the message"


def test_a_waiting_job_says_where_it_waits(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[local]\ncores = 1\n")
    first = start(daemon, "work", "script=sleep 60")
    daemon.wait_for_node(first, "work0", "running")
    start(daemon)
    third = start(daemon)
    assert daemon.progress(third)["message"] == "queued, position 2"
    assert daemon.progress(third)["status"] == "running", "any other word ends the client's loop"


def test_the_end_is_told_in_the_order_that_the_client_shows(daemon: Daemon) -> None:
    job_hash = start(daemon, "lint", "rtl=bad")
    answers: list[Json] = []
    while not answers or answers[-1]["status"] == "running":
        answers.append(daemon.progress(job_hash))
    states, reason, final = answers[-3:]
    assert states["message"]["lint0"]["status"] == "error", "the final node states once"
    assert reason["message"].startswith("lint/0 slang/lint reported"), "then the reason as a plain string"
    assert reason["status"] == "running"
    assert final["status"] == "failed"
    assert daemon.progress(job_hash)["status"] == "failed"


def test_a_poll_is_held_until_there_is_news(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = start(daemon, "work", "script=sleep 60")
    daemon.wait_for_node(job_hash, "work0", "running")
    daemon.progress(job_hash)
    begin = time.monotonic()
    daemon.progress(job_hash)
    assert 3 < time.monotonic() - begin < 9, "without news an answer is held, but below the client's 10 s"
    held: list[float] = []

    def poll() -> None:
        daemon.progress(job_hash)
        held.append(time.monotonic())

    waiting = threading.Thread(target=poll)
    waiting.start()
    time.sleep(0.7)
    cancelled = time.monotonic()
    daemon.post("/cancel_job/", {"job_hash": job_hash})
    waiting.join(20)
    assert held[0] - cancelled < 4.5, "news did not end the wait"


def test_404_only_for_what_never_was_a_job(daemon: Daemon) -> None:
    response = daemon.post("/check_progress/", {"job_hash": UNKNOWN})
    assert refused(response, 404) == f"There is no job {UNKNOWN} here."
    assert response.json()["status"] == "unknown"
    assert refused(daemon.post("/check_progress/"), 400) == "Invalid parameters: job_hash is missing."


def test_a_job_that_ended_long_ago_answers_at_once(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = finished(daemon)
    daemon.stop()
    daemon.start()
    assert daemon.progress(job_hash) == {"code": 200, "status": "completed", "message": "Job completed."}


# -- cancel_job


def test_cancel_ends_what_runs_within_seconds(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = start(daemon, "work", "script=trap '' TERM; sleep 300 & wait; sleep 300")
    daemon.wait_for_node(job_hash, "work0", "running")
    time.sleep(0.5)
    begin = time.monotonic()
    answer = daemon.post("/cancel_job/", {"job_hash": job_hash})
    assert answer.status_code == 200
    assert answer.json() == {"message": f"Job {job_hash} is being cancelled.", "success": True}
    assert daemon.wait(job_hash)["status"] == "canceled"
    assert time.monotonic() - begin < 15
    (work,) = daemon.rows("SELECT state, reason, ended - started AS ran FROM attempts WHERE step = 'work'")
    assert work["state"] == "error"
    assert work["reason"] == "cancelled: by the user"


def test_cancel_of_a_job_that_ended_names_its_end(daemon: Daemon) -> None:
    job_hash = finished(daemon)
    text = refused(daemon.post("/cancel_job/", {"job_hash": job_hash}), 404)
    assert text == f"Job {job_hash} is not running: it is completed."
    assert "There is no job" in refused(daemon.post("/cancel_job/", {"job_hash": UNKNOWN}), 404)


def test_cancel_of_a_job_that_waits(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[local]\ncores = 1\n")
    first = start(daemon, "work", "script=sleep 60")
    daemon.wait_for_node(first, "work0", "running")
    second = start(daemon)
    assert daemon.post("/cancel_job/", {"job_hash": second}).status_code == 200
    assert daemon.wait(second)["status"] == "canceled"
    assert daemon.rows("SELECT 1 FROM attempts WHERE job_hash = ?", second) == [], "nothing of it was started"


# -- delete_job


def test_delete(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    running = start(daemon, "work", "script=sleep 60")
    daemon.wait_for_node(running, "work0", "running")
    text = refused(daemon.post("/delete_job/", {"job_hash": running}), 400)
    assert text == f"Job {running} is still running; cancel it first."
    daemon.post("/cancel_job/", {"job_hash": running})
    daemon.wait(running)
    answer = daemon.post("/delete_job/", {"job_hash": running})
    assert (answer.status_code, answer.json()) == (200, {"message": f"Job {running} is deleted.", "success": True})
    assert not daemon.job_directory(running).exists()
    assert daemon.progress(running)["status"] == "canceled", "its true status stays known for ever"
    assert "was deleted before" in refused(daemon.post("/delete_job/", {"job_hash": running}), 404)
    assert "was deleted" in refused(daemon.post(f"/get_results/{running}.tar.gz"), 404)
    assert "There is no job" in refused(daemon.post("/delete_job/", {"job_hash": UNKNOWN}), 404)
    assert daemon.rows("SELECT 1 FROM events") == [], "the rows of a deleted job go with it"


# -- get_results


def test_results_are_plain_gzip_archives(daemon: Daemon) -> None:
    job_hash = finished(daemon)
    whole = daemon.post(f"/get_results/{job_hash}.tar.gz")
    assert whole.status_code == 200
    assert "content-encoding" not in whole.headers
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert members(whole.content) == [f"{job_hash}/top/job0/top.pkg.json"]
    assert "__journal__" in json.loads(member(whole.content, "top.pkg.json")), "the manifest as set up"
    node = daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "s10"})
    assert all(name.startswith(f"{job_hash}/top/job0/s1/0/") for name in members(node.content))
    assert f"{job_hash}/top/job0/s1/0/outputs/top.pkg.json" in members(node.content)


def test_top_level_dotfiles_stay(daemon: Daemon) -> None:
    job_hash = finished(daemon, "work", "script=touch .hidden reports/.kept seen")
    names = members(daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"}).content)
    assert f"{job_hash}/top/job0/work/0/seen" in names
    assert f"{job_hash}/top/job0/work/0/reports/.kept" in names
    assert not [name for name in names if name.endswith("/.hidden")]


def test_links_out_of_the_job_do_not_travel(daemon: Daemon) -> None:
    job_hash = finished(daemon, "work", "script=ln -s /etc/passwd stolen; ln -s /nowhere dangling; mkfifo pipe")
    names = members(daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"}).content)
    assert not [name for name in names if name.endswith(("/stolen", "/dangling", "/pipe"))]


def test_results_of_a_node_while_it_runs(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = start(daemon, "work", "script=echo so far > note.txt; sleep 60")
    daemon.wait_for_node(job_hash, "work0", "running")
    time.sleep(1)
    live = daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "work0"})
    assert live.status_code == 200, live.text
    assert member(live.content, "/work/0/note.txt") == b"so far\n"
    assert b"Running in" in member(live.content, "/work/0/sc_work_0.log")
    archives = daemon.job_directory(job_hash) / "archives"
    assert not list(archives.glob("snapshot*")), "the temporary archive is removed"
    assert "There are no results of node after/0 yet." in refused(
        daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "after0"}), 404
    )


def test_results_that_are_not_there(daemon: Daemon) -> None:
    job_hash = finished(daemon)
    assert "has no node 'nothing'" in refused(daemon.post(f"/get_results/{job_hash}.tar.gz", {"node": "nothing"}), 404)
    assert "There is no job" in refused(daemon.post(f"/get_results/{UNKNOWN}.tar.gz"), 404)
    for path in ("x.tar.gz", "..%2f..%2fscd.db", f"{job_hash}", "%00.tar.gz"):
        assert daemon.post(f"/get_results/{path}").status_code in (400, 404)


def test_a_result_over_the_download_limit(new_daemon: NewDaemon) -> None:
    daemon = new_daemon('[limits]\nmax_result = "1KiB"\n')
    job_hash = finished(daemon)
    text = refused(daemon.post(f"/get_results/{job_hash}.tar.gz"), 503)
    assert re.match(r"The results have [0-9.]+KiB, and 1KiB can be downloaded at once\.", text)
    assert f"jobs/{job_hash[:2]}/{job_hash}/archives/" in text, "the administrator finds them"
    assert str(daemon.state) not in text, "a client learns nothing of the server's paths"


def test_a_download_is_charged_by_what_was_sent(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    job_hash = finished(daemon)
    sent = len(daemon.post(f"/get_results/{job_hash}.tar.gz").content)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not daemon.rows("SELECT 1 FROM ledger WHERE result_bytes > 0"):
        time.sleep(0.05)
    assert daemon.rows("SELECT sum(result_bytes) AS n FROM ledger") == [{"n": sent}]


# -- users


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    quick = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    config = "".join(f'[users.{name}]\npassword_hash = "{quick.hash(f"{name}-secret")}"\n' for name in ("alice", "bob"))
    daemon = Daemon(tmp_path_factory.mktemp("users"), config)
    yield daemon.start()
    daemon.end_everything()


ALICE = {"username": "alice", "key": "alice-secret"}


def test_what_a_user_has_left(users: Daemon) -> None:
    job_hash = finished(users, "chain", **ALICE)
    users.post(f"/get_results/{job_hash}.tar.gz", ALICE)
    left = users.post("/check_server/", ALICE).json()["user_info"]
    assert sorted(left) == ["bandwidth_kb", "compute_time"]
    assert 0 < left["compute_time"] <= 100 * 3600 - 0

    def counted() -> bool:  # it is charged by what was sent, so only after the last byte
        left = users.post("/check_server/", ALICE).json()["user_info"]
        return bool(0 < left["bandwidth_kb"] < 20 * 1024 * 1024)

    wait_until(counted, "the download does not count")
    assert "user_info" not in users.post("/check_server/").json()


# -- tricked browsers


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"host": "127.0.0.1:80"}, True),
        ({"host": "[::1]:80"}, True),
        ({"host": "lab.example"}, True),
        ({"host": "evil.example"}, False),
        ({"host": "localhost.evil.example"}, False),
        ({"host": ""}, False),
        ({"host": "[::1"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://localhost"}, False),
        ({"host": "localhost:1234", "origin": "http://localhost:1234"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-origin"}, True),
    ],
)
def test_requests_that_a_page_made_are_refused(guarded: Daemon, headers: dict[str, str], allowed: bool) -> None:
    response = httpx2.post(f"{guarded.url}/check_server/", content=b"{}", headers=headers)
    assert response.status_code == (200 if allowed else 403), response.text
    if not allowed:
        refused(response, 403)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("guarded"), server='hosts = ["lab.example"]')
    yield daemon.start()
    daemon.end_everything()


def test_two_hosts_are_none(guarded: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port)) as client:
        client.sendall(b"POST /check_server HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nContent-Length: 2\r\n\r\n{}")
        assert client.recv(4096).split(b" ")[1] in (b"400", b"403")


# -- the daemon's own health


def test_no_traceback_was_logged(daemon: Daemon, users: Daemon, guarded: Daemon) -> None:
    """The last test of this module: all the requests above went through these daemons."""
    for one in (daemon, users, guarded):
        assert "Traceback" not in one.log.read_text()
        assert httpx2.get(f"{one.url}/healthz").json() == {"status": "ok"}
