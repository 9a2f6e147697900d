"""Behind a real nginx, with the configuration that scd ships: TLS, uploads, polls, results, and who a client is."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import argon2
import httpx2
import pytest

from ..harness import Daemon, run_client, wait_until
from .front import Front, nginx
from .submission import import_archive, leftovers, manifest, member, members

ALICE = {"username": "alice", "key": "alice's own"}


class Site(NamedTuple):
    daemon: Daemon
    front: Front
    directory: Path  # of nginx


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """scd on loopback and on a Unix socket for nginx, which is trusted."""
    directory = tmp_path_factory.mktemp("site")
    daemon = Daemon(
        directory / "scd",
        f'[users.alice]\npassword_hash = "{argon2.PasswordHasher().hash(ALICE["key"])}"\n',
        server='trusted_proxies = ["unix"]\naccel = "/scd-results/"\nmax_upload = "30MiB"\n',
    )
    text = daemon.file.read_text()
    daemon.file.write_text(text.replace('/scd.sock"]', f'/scd.sock", "unix:{daemon.state}/http.sock"]'))
    daemon.start()
    with nginx(directory / "nginx", daemon, f"unix:{daemon.state}/http.sock") as front:
        yield Site(daemon, front, directory / "nginx")
    daemon.end_everything()


def finished(site: Site) -> str:
    job_hash: str = site.front.submit(manifest("chain"), import_archive(), **ALICE).json()["job_hash"]
    assert site.front.wait(job_hash, credentials=ALICE)["status"] == "completed"
    return job_hash


def test_the_real_client_through_nginx(site: Site, tmp_path: Path) -> None:
    """Over TLS, with a held poll behind every answer, and results that nginx sends."""
    report = run_client(
        tmp_path / "run", "chain", site.front, username=ALICE["username"], password=ALICE["key"]
    )  # fmt: skip
    assert report["error"] == ""
    assert set(report["statuses"].values()) == {"success"}
    assert (tmp_path / "run" / "build" / "top" / "job0" / "top.pkg.json").exists(), "the results did not come back"


def test_results_are_sent_by_nginx_and_charged_whole(site: Site) -> None:
    job_hash = finished(site)
    before = charged(site)
    direct = site.daemon.post(f"/get_results/{job_hash}.tar.gz", ALICE)
    answer = site.front.post(f"/get_results/{job_hash}.tar.gz", ALICE)
    assert answer.status_code == 200
    assert answer.content == direct.content, "nginx sent another file than scd"
    assert any(name.endswith("top.pkg.json") for name in members(answer.content))
    assert "accept-ranges" in answer.headers, "scd sent it, not nginx"
    assert "accept-ranges" not in direct.headers
    assert answer.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-disposition"] == f'attachment; filename="{job_hash}.tar.gz"'
    wait_until(lambda: charged(site) == before + 2 * len(direct.content), "the two downloads are not charged")


def charged(site: Site) -> int:
    (row,) = site.daemon.rows("SELECT coalesce(sum(result_bytes), 0) AS bytes FROM ledger")
    return int(row["bytes"])


def test_nobody_asks_nginx_for_results_by_himself(site: Site) -> None:
    job_hash = finished(site)
    (archive, *_) = site.daemon.job_directory(job_hash).joinpath("archives").iterdir()
    where = archive.relative_to(site.daemon.jobs)
    for path in (f"/scd-results/{where}", f"/scd-results/../scd-results/{where}", f"//scd-results/{where}"):
        for method in ("GET", "POST"):
            answer = httpx2.request(method, f"{site.front.url}{path}", verify=site.front.verify)
            assert answer.status_code in (403, 404, 405), path
            assert answer.content != archive.read_bytes()


def test_a_link_that_took_a_results_place_is_not_handed_over(site: Site, tmp_path: Path) -> None:
    job_hash = finished(site)
    secret = tmp_path / "secret"
    secret.write_text("not for clients")
    for archive in site.daemon.job_directory(job_hash).joinpath("archives").iterdir():
        archive.unlink()
        archive.symlink_to(secret)
    secret.chmod(0o600)
    answer = site.front.post(f"/get_results/{job_hash}.tar.gz", ALICE)
    assert answer.status_code >= 400
    assert b"not for clients" not in answer.content
    assert secret.stat().st_mode & 0o777 == 0o600, "the link's target was opened to the group"


def test_only_what_is_fetched_is_opened_to_the_group(site: Site) -> None:
    job_hash = finished(site)
    archives = site.daemon.job_directory(job_hash) / "archives"
    (first,) = archives.glob("0.*")
    assert first.stat().st_mode & 0o077 == 0
    site.front.post(f"/get_results/{job_hash}.tar.gz", ALICE)
    assert first.stat().st_mode & 0o777 == 0o640
    others = [path for path in archives.iterdir() if path != first]
    assert others
    assert all(path.stat().st_mode & 0o077 == 0 for path in others)
    assert archives.stat().st_mode & 0o777 == 0o710, "the group may list it, or cannot get through"


def test_the_administrators_requests_do_not_come_by_the_proxy(site: Site) -> None:
    """Its Unix socket is not scdctl's."""
    job_hash = finished(site)
    answer = site.front.post(f"/admin/cancel/{job_hash}")
    assert answer.status_code == 403
    assert "the first Unix socket in [server] listen" in answer.json()["message"]
    assert site.front.post("/admin/fix").status_code == 403
    transport = httpx2.HTTPTransport(uds=f"{site.daemon.state}/http.sock")
    with httpx2.Client(transport=transport) as past_nginx:
        assert past_nginx.post("http://localhost/admin/fix").status_code == 403


def test_the_proxys_socket_is_for_scds_group(site: Site) -> None:
    assert (site.daemon.state / "http.sock").stat().st_mode & 0o777 == 0o660


def test_pages_of_others_and_other_hosts_are_refused_behind_it_too(site: Site) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert site.front.post("/check_server/", headers=headers).status_code == 403, headers
    own = {"Origin": site.front.url}
    assert site.front.post("/check_server/", headers=own).status_code == 200


def test_a_refusal_comes_before_the_upload_is_sent(site: Site) -> None:
    """nginx passes a request on as it comes, and the answer back before it has all of it."""
    begin = time.monotonic()
    raw = socket.create_connection(("127.0.0.1", site.front.port), 10)
    assert not isinstance(site.front.verify, bool)
    with site.front.verify.wrap_socket(raw, server_hostname="localhost") as one:
        one.sendall(
            b"POST /remote_run/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        answer = one.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert time.monotonic() - begin < 8


def test_an_upload_passes_through_and_lies_nowhere_on_the_way(site: Site) -> None:
    content = os.urandom(20_000_000)
    archive = import_archive({"big": content})
    answer = site.front.submit(manifest("chain"), archive, **ALICE)
    assert answer.status_code == 200
    job_hash = answer.json()["job_hash"]
    taken = site.daemon.job_directory(job_hash) / "upload" / "import.tar.gz"
    assert hashlib.sha256(taken.read_bytes()).digest() == hashlib.sha256(archive).digest()
    spooled = [path for kind in ("client_body", "proxy") for path in (site.directory / kind).rglob("*")]
    assert not [path for path in spooled if path.is_file()]
    assert site.front.wait(job_hash, credentials=ALICE)["status"] == "completed"


def test_an_upload_that_breaks_off_at_nginx_leaves_nothing(site: Site) -> None:
    raw = socket.create_connection(("127.0.0.1", site.front.port), 10)
    assert not isinstance(site.front.verify, bool)
    params = json.dumps({"cfg": manifest("chain"), "params": ALICE}).encode()
    head = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n'
    body = head % b"params" + params + b"\r\n" + head % b"import" + b"x" * 3_000_000
    with site.front.verify.wrap_socket(raw, server_hostname="localhost") as one:
        one.sendall(
            b"POST /remote_run/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body
        )
        wait_until(lambda: leftovers(site.daemon.jobs.parent), "nginx keeps the upload to itself")
    wait_until(lambda: not leftovers(site.daemon.jobs.parent), "what came of a broken upload is still there")


def test_a_direct_client_gets_its_results_from_scd(site: Site) -> None:
    """And cannot pretend to be a proxy."""
    job_hash = finished(site)
    answer = site.daemon.post(f"/get_results/{job_hash}.tar.gz", ALICE, headers={"X-Forwarded-For": "192.0.2.1"})
    assert "x-accel-redirect" not in answer.headers
    assert member(answer.content, "top.pkg.json")
