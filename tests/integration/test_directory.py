"""Users of the site's own directory, in a real one: PAM with a file of passwords, LDAP by a slapd with TLS."""

import base64
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..harness import Daemon, free_port, wait_until
from .people import PASSWORD, pam_service, why_no_pam
from .submission import collected, manifest

NewDaemon = Callable[..., Daemon]
WRONG = "Wrong user name or key."


def try_people(daemon: Daemon) -> None:
    """alice is in the directory; others are not, or may not, and are told the same."""
    alice = {"username": "alice", "key": PASSWORD}
    assert daemon.post("/check_server/", alice).json()["user_info"]
    for user, key in (("alice", "wrong"), ("nobody", PASSWORD), ("Alice", PASSWORD), ("alice", PASSWORD + "\0"),
                      ("expired", PASSWORD), ("*", PASSWORD), ("alice,ou=people", PASSWORD)):  # fmt: skip
        answer = daemon.post("/check_server/", {"username": user, "key": key})
        assert (answer.status_code, answer.json()["message"]) == (403, WRONG), user
    job_hash = daemon.submit(manifest("chain"), collected("chain"), **alice).json()["job_hash"]
    assert daemon.wait(job_hash, credentials=alice)["status"] == "completed"
    assert daemon.rows("SELECT user FROM jobs") == [{"user": "alice"}]
    assert PASSWORD not in daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()


# -- PAM


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    if why_no_pam():
        pytest.skip(why_no_pam())
    with pam_service(tmp_path / "passwords", "alice", "expired") as name:
        yield name


def test_pam(new_daemon: NewDaemon, service: str) -> None:
    """Its account lines too: who is expired has the right password, and does not get in."""
    try_people(new_daemon(f'[auth.pam]\nservice = "{service}"\n'))


# -- LDAP


_SLAPD = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {place}/slapd.pid
TLSCertificateFile {place}/certificate.pem
TLSCertificateKeyFile {place}/key.pem
security simple_bind=128
database mdb
maxsize 10485760
suffix "dc=example,dc=org"
directory {place}/data
access to attrs=userPassword by anonymous auth
"""
_PEOPLE = """
dn: dc=example,dc=org
objectClass: domain
dc: example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: uid=alice,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: alice
cn: alice
sn: alice
userPassword:: {password}
"""


class Slapd:
    """A real LDAP server with a certificate of its own; it refuses a password that comes without TLS."""

    def __init__(self, place: Path):
        self.place = place
        self.port, self.tls_port = free_port(), free_port()
        (place / "data").mkdir(parents=True)
        (place / "slapd.conf").write_text(_SLAPD.format(place=place))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "certificate.pem"],
            cwd=place, check=True, capture_output=True,
        )  # fmt: skip
        people = _PEOPLE.format(password=base64.b64encode(PASSWORD.encode()).decode())
        add = ["slapadd", "-f", str(place / "slapd.conf")]
        subprocess.run(add, input=people, text=True, check=True, capture_output=True)
        self.start()

    def start(self) -> None:
        urls = f"ldap://127.0.0.1:{self.port}/ ldaps://127.0.0.1:{self.tls_port}/"
        command = ["slapd", "-d", "0", "-f", str(self.place / "slapd.conf"), "-h", urls]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(lambda: answers(self.tls_port), "slapd does not listen")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def slapd(tmp_path: Path) -> Iterator[Slapd]:
    pytest.importorskip("ldap", reason="python-ldap is not installed")
    if shutil.which("slapd") is None:
        pytest.skip("slapd is not installed")
    server = Slapd(tmp_path / "ldap")
    yield server
    server.stop()


@pytest.mark.parametrize("scheme", ["ldaps", "ldap"])
def test_ldap(new_daemon: NewDaemon, slapd: Slapd, scheme: str) -> None:
    port = slapd.tls_port if scheme == "ldaps" else slapd.port
    table = f'[auth.ldap]\nuri = "{scheme}://127.0.0.1:{port}"\ndn = "uid={{user}},ou=people,dc=example,dc=org"\n'
    daemon = new_daemon(f'{table}ca = "{slapd.place}/certificate.pem"\n')
    try_people(daemon)

    slapd.stop()
    down = daemon.post("/check_server/", {"username": "alice", "key": "another one"})
    assert down.status_code == 503, "who cannot be asked for is not refused"
    assert int(down.headers["retry-after"]) > 0
    assert daemon.post("/check_server/", {"username": "alice", "key": PASSWORD}).status_code == 200, "for minutes"
    slapd.start()
    assert daemon.post("/check_server/", {"username": "alice", "key": "another one"}).status_code == 403

    other = new_daemon(table)  # the system's authorities do not know this server
    untrusted = other.post("/check_server/", {"username": "alice", "key": PASSWORD})
    assert untrusted.status_code == 503, "a password was sent to a server that nobody vouches for"
    assert "auth.ldap" in other.log.read_text()
