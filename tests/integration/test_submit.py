"""remote_run: every answer of the specification, retries, resumes, and what a bad submission leaves behind."""

import json
import os
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from ..harness import Daemon, Json, wait_until
from .submission import import_archive, leftovers, manifest, set_value

NewDaemon = Callable[..., Daemon]


def multipart(*parts: tuple[str, bytes]) -> tuple[bytes, bytes]:
    """A body and its content type, with the parts in the given order."""
    body = b"".join(
        b'--frontier\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n' % (n, n, content)
        for name, content in parts
        for n in [name.encode()]
    )
    return body + b"--frontier--\r\n", b"multipart/form-data; boundary=frontier"


def params(cfg: Json | None = None, **fields: str) -> bytes:
    return json.dumps({"cfg": manifest("chain") if cfg is None else cfg, "params": fields}).encode()


def post(daemon: Daemon, *parts: tuple[str, bytes]) -> httpx2.Response:
    body, kind = multipart(*parts)
    return httpx2.post(f"{daemon.url}/remote_run/", content=body, headers={"content-type": kind.decode()}, timeout=60)


def message(response: httpx2.Response, status: int) -> str:
    assert response.status_code == status, response.text
    answer = response.json()
    assert sorted(answer) == ["message", "status", "success"], "every error has one shape"
    assert answer["success"] is False
    return str(answer["message"])


def test_a_job_is_started(daemon: Daemon) -> None:
    response = daemon.submit(manifest("chain"), import_archive())
    assert response.status_code == 200, response.text
    answer = response.json()
    assert sorted(answer) == ["interval", "job_hash", "message"]
    assert answer["interval"] == 0
    assert answer["job_hash"] in answer["message"]
    assert daemon.wait(answer["job_hash"])["status"] == "completed"


def test_an_acknowledged_job_is_on_the_disk(daemon: Daemon) -> None:
    archive = import_archive()  # each has the second in which it was made
    job_hash = daemon.submit(manifest("chain"), archive).json()["job_hash"]
    directory = daemon.job_directory(job_hash)
    assert (directory / "upload" / "import.tar.gz").read_bytes() == archive
    assert json.loads((directory / "upload" / "manifest-1.json").read_bytes()) == manifest("chain")
    assert daemon.rows("SELECT state FROM jobs WHERE job_hash = ?", job_hash)
    daemon.wait(job_hash)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], "The part params is missing."),
        ([("import", b"x")], "The first part must be params, not 'import'."),
        ([("params", b"{")], "Invalid parameters: Input data was truncated."),
        ([("params", b"[]")], "Invalid parameters: Expected `object`, got `array`."),
        ([("params", b'{"params": {}}')], "Invalid parameters: Object missing required field `cfg`."),
        ([("params", b'{"cfg": 3}')], "The manifest is not one of SiliconCompiler: Expected `object`, got `int`."),
        (
            [("params", b'{"cfg": {}, "params": {"job_hash": 3}}')],
            "Invalid parameters: Expected `str | null`, got `int`",
        ),
        ([("params", b'{"cfg": {}, "params": {"job_hash": "A"}}')], "Invalid parameters: a job_hash has 32 characters"),
        (
            [("params", b'{"cfg": {}, "params": {"username": "a b"}}')],
            "Invalid parameters: a username holds no white space",
        ),
        ([("params", b'{"cfg": ' + b"[" * 5000 + b"]" * 5000 + b"}")], "nested too deep"),
        ([("params", b"\xff\xfe")], "Invalid parameters: "),
    ],
)
def test_what_is_wrong_is_said(daemon: Daemon, parts: list[tuple[str, bytes]], expected: str) -> None:
    text = message(post(daemon, *parts), 400)
    assert expected in text or ("recursion" in text.lower() and "nested" in expected)
    assert leftovers(daemon.state / "spool") == []


def test_a_missing_import_without_a_job_to_resume(daemon: Daemon) -> None:
    text = message(post(daemon, ("params", params())), 400)
    assert text == "The part import is missing, and no job_hash says which job to resume."


def test_another_part_than_import(daemon: Daemon) -> None:
    assert "must be import, not 'other'" in message(post(daemon, ("params", params()), ("other", b"x")), 400)
    extra = post(daemon, ("params", params()), ("import", import_archive()), ("more", b"x"))
    assert "The part 'more' is not expected." in message(extra, 400)
    assert leftovers(daemon.state / "spool") == []


def test_no_multipart_at_all(daemon: Daemon) -> None:
    response = httpx2.post(f"{daemon.url}/remote_run/", content=b"{}")
    assert message(response, 400) == "remote_run takes multipart/form-data with the parts params and import."


def test_an_empty_import_that_repeats_nothing(daemon: Daemon) -> None:
    cfg = set_value(manifest("chain"), "nothing", "option", "jobname")
    text = message(post(daemon, ("params", params(cfg)), ("import", b"")), 400)
    assert text.startswith("The import is empty, and no earlier submission of this job waits for its answer.")


@pytest.mark.parametrize(
    ("keypath", "value", "expected"),
    [
        (("option", "jobname"), "../x", "cannot be a directory name"),
        (("option", "jobname"), "a/b", "cannot be a directory name"),
        (("option", "jobname"), "..", "cannot be a directory name"),
        (("option", "jobname"), "a\x00b", "cannot be a directory name"),
        (("option", "jobname"), "a\nb", "cannot be a directory name"),
        (("option", "design"), "x" * 5000, "must have 1 to 128 characters"),
        (("option", "design"), "", "has no value for option,design"),
        (("option", "flow"), "absent", "selects the flow 'absent' but does not hold it"),
        (("option", "scheduler", "name"), "docker", "does not run nodes by the scheduler 'docker'"),
        (("option", "scheduler", "name"), "slurm", "has no Slurm cluster"),
    ],
)
def test_names_that_cannot_be(daemon: Daemon, keypath: tuple[str, ...], value: str, expected: str) -> None:
    cfg = set_value(manifest("chain"), value, *keypath)
    if keypath[-1] == "design" and not value:
        cfg["option"]["design"]["node"] = {"*": {"*": {"value": None}}}
    assert expected in message(post(daemon, ("params", params(cfg)), ("import", import_archive())), 400)


def test_nodes_that_the_client_cannot_tell_apart(daemon: Daemon) -> None:
    cfg = manifest("chain")
    flow = cfg["flowgraph"]["chain"]
    flow["syn"] = {"10": flow["s0"]["0"]}
    flow["syn1"] = {"0": flow["s0"]["0"]}
    text = message(post(daemon, ("params", params(cfg)), ("import", import_archive())), 400)
    assert "syn/10 and syn1/0 are both 'syn10' to the client" in text
    cfg = manifest("chain")
    cfg["flowgraph"]["chain"]["status"] = {"": cfg["flowgraph"]["chain"]["s0"]["0"]}
    assert "400" not in message(post(daemon, ("params", params(cfg)), ("import", import_archive())), 400)


def test_a_schema_that_no_runtime_has_is_rejected_with_both_versions(daemon: Daemon) -> None:
    cfg = set_value(manifest("chain"), "99.0.0", "schemaversion")
    response = daemon.submit(cfg, import_archive())
    assert response.status_code == 200, response.text
    answer = daemon.wait(response.json()["job_hash"])
    assert answer["status"] == "rejected"
    assert "manifest has schema version 99.0.0, and this server runs SiliconCompiler 0." in answer["message"]


def test_an_upload_that_is_no_archive_is_rejected_with_a_reason(daemon: Daemon) -> None:
    job_hash = daemon.submit(manifest("chain"), b"this is not a gzip file").json()["job_hash"]
    answer = daemon.wait(job_hash)
    assert answer["status"] == "rejected"
    assert answer["message"].startswith("The upload was refused: the archive is damaged")


def test_an_archive_that_leads_outside_is_rejected(daemon: Daemon) -> None:
    job_hash = daemon.submit(manifest("chain"), import_archive({"../../../../escaped": b"x"})).json()["job_hash"]
    answer = daemon.wait(job_hash)
    assert answer["status"] == "rejected"
    assert "leads out of the job's directory" in answer["message"]
    # Unlike rglob this bears that other jobs' directories go meanwhile.
    assert not any("escaped" in (*directories, *files) for _, directories, files in os.walk(daemon.directory))


def test_an_upload_that_is_cut_off_leaves_nothing(daemon: Daemon) -> None:
    before = daemon.rows("SELECT count(*) AS n FROM jobs")
    body, kind = multipart(("params", params()), ("import", b"x" * 3_000_000))
    with socket.create_connection(("127.0.0.1", daemon.port)) as client:
        head = b"POST /remote_run/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        client.sendall(head % (kind, len(body)) + body[:2_500_000])
        deadline = time.monotonic() + 10
        while not leftovers(daemon.state / "spool") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert leftovers(daemon.state / "spool"), "the upload is not streamed to the disk"
    deadline = time.monotonic() + 10
    while leftovers(daemon.state / "spool") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert leftovers(daemon.state / "spool") == [], "an aborted upload left files"
    assert daemon.rows("SELECT count(*) AS n FROM jobs") == before
    assert "Traceback" not in daemon.log.read_text(), "a client that leaves is no error of scd"


def test_limits_are_checked_before_the_upload_is_taken(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[limits]\nmax_nodes = 4\n")
    text = message(post(daemon, ("params", params()), ("import", import_archive())), 403)
    assert text == "Too many nodes in flowgraph: 5, and 4 are allowed."


def test_an_upload_that_is_too_large(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(server='max_upload = "1MiB"\nmax_manifest = "1MiB"')
    announced = post(daemon, ("params", params()), ("import", b"x" * 5_000_000))
    assert message(announced, 413) == "The upload is larger than the 1MiB allowed here."
    body, kind = multipart(("params", params()), ("import", b"x" * 1_500_000))
    streamed = httpx2.post(
        f"{daemon.url}/remote_run/", content=iter([body]), headers={"content-type": kind.decode()}, timeout=30
    )
    assert message(streamed, 413) == "The upload is larger than the 1MiB allowed here."
    large = set_value(manifest("chain"), "x" * 2_000_000, "option", "alias")
    body, kind = multipart(("params", params(large)))
    streamed = httpx2.post(
        f"{daemon.url}/remote_run/", content=iter([body]), headers={"content-type": kind.decode()}, timeout=30
    )
    assert message(streamed, 413) == "The manifest is larger than the 1MiB allowed here."
    assert leftovers(daemon.state / "spool") == []


def test_compute_time_that_is_used_up(new_daemon: NewDaemon) -> None:
    daemon = new_daemon('[limits]\ncompute_time = "10ms"\n')
    daemon.wait(daemon.submit(manifest("chain"), import_archive()).json()["job_hash"])
    text = message(daemon.submit(manifest("chain"), import_archive()), 400)
    assert text.startswith(
        "The account is out of compute time: 00:00:00 of 00:00:00 core time used. The period ends 20"
    )


def test_bandwidth_that_is_used_up(new_daemon: NewDaemon) -> None:
    daemon = new_daemon('[limits]\nbandwidth = "10KiB"\n')
    job_hash = daemon.submit(manifest("chain"), import_archive()).json()["job_hash"]
    daemon.wait(job_hash)
    assert daemon.post(f"/get_results/{job_hash}.tar.gz").status_code == 200, "an admitted job always delivers"
    text = message(daemon.submit(manifest("chain"), import_archive()), 400)
    assert text.startswith("The account is out of bandwidth: ")
    assert "of 10KiB downloaded" in text


def test_a_draining_server_takes_no_jobs(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(server='drain = "until noon"')
    assert daemon.post("/check_server/").json()["status"] == "draining: until noon"
    text = message(daemon.submit(manifest("chain"), import_archive()), 400)
    assert text == "This server takes no new jobs at the moment: until noon"


def test_a_repeated_submission_gets_the_job_that_the_first_one_made(new_daemon: NewDaemon) -> None:
    """The client gives up an answer after 10 s and posts again, its file at the end; also after a restart of scd."""
    daemon = new_daemon()
    body, kind = multipart(("params", params()), ("import", import_archive()))
    busy = sqlite3.connect(daemon.state / "scd.db", isolation_level=None)
    busy.execute("BEGIN IMMEDIATE")  # the daemon cannot commit, and so cannot answer
    with socket.create_connection(("127.0.0.1", daemon.port)) as client:
        head = b"POST /remote_run/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        client.sendall(head % (kind, len(body)) + body)
        deadline = time.monotonic() + 10
        while not list(daemon.state.glob("spool/jobs/*/*")) and time.monotonic() < deadline:
            time.sleep(0.02)
    time.sleep(0.3)
    assert daemon.rows("SELECT 1 FROM jobs") == [], "a job was committed beside another writer"
    busy.execute("ROLLBACK")
    busy.close()
    deadline = time.monotonic() + 15
    while not (rows := daemon.rows("SELECT job_hash FROM jobs")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (row,) = rows
    daemon.stop()
    daemon.start()
    again = post(daemon, ("params", params()), ("import", b""))
    assert again.status_code == 200, again.text
    assert again.json()["job_hash"] == row["job_hash"]
    assert len(daemon.rows("SELECT 1 FROM jobs")) == 1
    assert post(daemon, ("params", params()), ("import", b"")).status_code == 400, "now it has been answered"


def test_a_repetition_while_the_first_upload_is_still_being_taken(daemon: Daemon) -> None:
    cfg = set_value(manifest("chain"), "slow", "option", "jobname")
    body, kind = multipart(("params", params(cfg)), ("import", import_archive()))
    answers: list[httpx2.Response] = []
    with socket.create_connection(("127.0.0.1", daemon.port)) as first:
        head = b"POST /remote_run/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        first.sendall(head % (kind, len(body)) + body[:-40])
        time.sleep(0.5)
        second = threading.Thread(target=lambda: answers.append(post(daemon, ("params", params(cfg)), ("import", b""))))
        second.start()
        time.sleep(0.5)
        first.sendall(body[-40:])
        second.join(20)
        reply = first.recv(65536)
    job_hash = json.loads(reply.split(b"\r\n\r\n")[1])["job_hash"]
    assert answers[0].status_code == 200, answers[0].text
    assert answers[0].json()["job_hash"] == job_hash
    assert len(daemon.rows("SELECT 1 FROM jobs WHERE jobname = 'slow'")) == 1


def test_bytes_in_the_import_always_make_a_new_job(daemon: Daemon) -> None:
    first = daemon.submit(manifest("chain"), import_archive({"a.v": b"1"})).json()["job_hash"]
    second = daemon.submit(manifest("chain"), import_archive({"a.v": b"2"})).json()["job_hash"]
    assert first != second
    third = daemon.submit(manifest("chain"), import_archive(), job_hash=first).json()["job_hash"]
    assert third not in (first, second), "job_hash with an import is a new job"


def test_a_resume_of_what_cannot_be_resumed(daemon: Daemon) -> None:
    unknown = "0" * 32
    text = message(daemon.submit(manifest("chain"), None, job_hash=unknown), 404)
    assert text == f"There is no job {unknown} here to resume. Submit it again with clean set."
    job_hash = daemon.submit(manifest("chain"), import_archive()).json()["job_hash"]
    daemon.wait(job_hash)
    other = set_value(manifest("chain"), "other", "option", "jobname")
    assert "is of top/job0, not of top/other" in message(daemon.submit(other, None, job_hash=job_hash), 400)
    assert daemon.post("/delete_job/", {"job_hash": job_hash}).status_code == 200
    text = message(daemon.submit(manifest("chain"), None, job_hash=job_hash), 400)
    assert text == f"Job {job_hash} was deleted and cannot be resumed. Submit it again with clean set."


def test_a_directory_without_a_row_is_removed_at_start(new_daemon: NewDaemon) -> None:
    """A crash between rename and commit: the client was never answered."""
    daemon = new_daemon()
    daemon.stop()
    orphan = daemon.job_directory("ab" * 16)
    (orphan / "upload").mkdir(parents=True)
    (orphan / "unacknowledged").touch()
    half = daemon.state / "spool" / "staging" / "half"
    half.mkdir()
    daemon.start()
    assert not orphan.exists()
    wait_until(lambda: not half.exists(), "an upload that a crash cut off is still there")


def test_the_manifests_key_is_stored_nowhere(new_daemon: NewDaemon, tmp_path: Path) -> None:
    daemon = new_daemon()
    secret = "hunter2-canary"
    job_hash = daemon.submit(manifest("chain"), import_archive(), username="someone", key=secret).json()["job_hash"]
    daemon.wait(job_hash)
    daemon.stop()
    for path in [*daemon.directory.rglob("*")]:
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), f"the key is in {path}"


def test_an_import_that_does_not_fit_as_it_unpacks(new_daemon: NewDaemon, tmp_path: Path) -> None:
    """It is small on the wire, and would leave less than min_free: other jobs need that."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150m", "scd-test", str(disk)]).returncode != 0:
        pytest.skip("no small disk can be mounted here (it takes root)")
    try:
        daemon = new_daemon(paths=f'spool = "{disk}/spool"\nmin_free = "100MiB"')
        archive = import_archive({"large": bytes(80 * 2**20)})
        assert len(archive) < 2**20, "it is refused as it comes"
        job_hash = daemon.submit(manifest("chain"), archive).json()["job_hash"]
        answer = daemon.wait(job_hash)
        assert answer["status"] == "rejected"
        assert "The upload was refused: the server's disk has no space for it" in answer["message"]
        smaller = daemon.submit(manifest("chain"), import_archive({"large": bytes(20 * 2**20)})).json()["job_hash"]
        assert daemon.wait(smaller)["status"] == "completed"
        daemon.end_everything()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
