"""Requests that a page in somebody's browser made, or that came by a stranger's DNS."""

import asyncio
import json
import os
import socket
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from scd.web.guard import Guard
from scd.web.peers import Peers, Trusted

TCP: tuple[str, int | None] = ("127.0.0.1", 8080)
UNIX: tuple[str, int | None] = ("/run/scd/scd.sock", None)


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'"passed"'})


def ask(
    *headers: tuple[str, str], server: tuple[str, int | None] | None = TCP, kind: str = "http", method: str = "POST",
    peer: int | None = None,
) -> tuple[int, Any]:  # fmt: skip
    """Status and JSON of the answer. ``peer`` is the account at the other end of a Unix socket."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {
        "type": kind, "method": method, "path": "/check_server/", "server": server, "state": {"peer": peer},
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }  # fmt: skip
    guarded = Peers(Guard(inner, ("scd.lab", "Gate.Lab")), Trusted(()), str(UNIX[0]))
    asyncio.run(guarded(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "LocalHost:8080", "127.0.0.1:8080", "192.0.2.7", "[::1]:8080", "[2001:db8::1]",
     "scd.lab", "SCD.LAB:80", "gate.lab", socket.gethostname(), f"{socket.gethostname()}:8080"],
)  # fmt: skip
def test_hosts_that_are_known(host: str) -> None:
    """An address cannot be rebound to this server by a stranger's DNS; a name can."""
    assert ask(("host", host)) == (200, "passed")


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost",
     "scd.lab.", "[::1", "]", ":8080", "localhost@evil.example", "127.1.evil.example:80", "\xe4"],
)  # fmt: skip
def test_hosts_that_are_not(host: str) -> None:
    status, answer = ask(("host", host))
    assert status == 403, f"{host!r} reached the application"
    assert answer == {
        "message": f"The host {host!r} is not known here. If it is a name of this server, add it to [server] hosts.",
        "status": "rejected", "success": False,
    }  # fmt: skip


def test_no_host_and_two_hosts() -> None:
    assert ask()[0] == 403
    assert ask(("host", "localhost"), ("host", "evil.example"))[0] == 403
    assert ask(("host", "evil.example"), ("host", "localhost"))[0] == 403


@pytest.mark.parametrize(
    ("origin", "host"),
    [("http://localhost:8080", "localhost:8080"), ("https://scd.lab", "scd.lab"), ("http://[::1]:8080", "[::1]:8080"),
     ("http://LOCALHOST:8080", "localhost:8080")],
)  # fmt: skip
def test_its_own_pages_may_ask(origin: str, host: str) -> None:
    assert ask(("host", host), ("origin", origin)) == (200, "passed")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://localhost", "http://localhost:9999", "http://localhost:8080.evil.example",
     "http://[::1", "localhost:8080", "http://evil.example/localhost:8080", "http://127.0.0.1:8080"],
)  # fmt: skip
def test_pages_of_others_may_not(origin: str) -> None:
    status, answer = ask(("host", "localhost:8080"), ("origin", origin))
    assert (status, answer["message"]) == (403, "Requests from pages of other origins are refused.")


@pytest.mark.parametrize(("site", "status"), [
    ("cross-site", 403), ("Cross-Site", 403), ("same-site", 200), ("same-origin", 200), ("none", 200),
])  # fmt: skip
def test_what_the_browser_says_of_the_page(site: str, status: int) -> None:
    found, answer = ask(("host", "localhost"), ("sec-fetch-site", site))
    assert found == status
    if status == 403:
        assert answer["message"] == "Requests from other sites are refused."


def test_no_browser_speaks_over_the_unix_socket() -> None:
    assert ask(("host", "evil.example"), ("origin", "http://evil.example"), server=UNIX, peer=0) == (200, "passed")
    assert ask(server=UNIX, peer=os.geteuid()) == (200, "passed")


def test_a_proxy_at_the_unix_socket_passes_browsers_on() -> None:
    assert ask(("host", "evil.example"), server=UNIX, peer=12345)[0] == 403
    assert ask(("host", "localhost"), server=UNIX, peer=12345) == (200, "passed")


def test_a_server_that_does_not_say_where_it_listens_is_guarded() -> None:
    assert ask(("host", "evil.example"), server=None)[0] == 403


def test_what_is_no_request_passes() -> None:
    assert ask(kind="lifespan") == (200, "passed")


def test_a_link_that_is_followed_from_elsewhere() -> None:
    visit = (("host", "localhost"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"))
    assert ask(*visit, ("sec-fetch-dest", "document"), method="GET") == (200, "passed")
    assert ask(*visit, ("sec-fetch-dest", "document"))[0] == 403, "a form of another site was let through"
    assert ask(*visit, ("sec-fetch-dest", "iframe"), method="GET")[0] == 403
    assert ask(*visit, method="GET")[0] == 403
    assert ask(("host", "evil.example"), *visit[1:], ("sec-fetch-dest", "document"), method="GET")[0] == 403
