"""Whose word counts about where a request comes from."""

import asyncio
import os
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from scd.web.peers import Peers, Trusted, is_admin, is_proxied, plain_address

ADMIN = "/run/scd/scd.sock"
OTHER = "/run/scd/http.sock"
PROXIES = ("127.0.0.1", "10.0.0.0/8", "fd00::/8", "unix")


def look(
    *headers: tuple[str, str], client: tuple[str, int] | None = ("127.0.0.1", 5), trusted: tuple[str, ...] = PROXIES,
    server: tuple[str, int | None] = ("127.0.0.1", 8080), scheme: str = "http",
    account: int | None = None,
) -> Scope:  # fmt: skip
    """A request's scope as the application gets it."""
    seen: list[Scope] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: dict[str, Any] = {
        "type": "http", "server": server, "client": client, "scheme": scheme, "state": {"peer": account},
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }  # fmt: skip
    asyncio.run(Peers(inner, Trusted(trusted), ADMIN)(scope, None, None))  # type: ignore[arg-type]
    return seen[0]


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7"], "192.0.2.7"),  # what the client wrote stands in front
        (["203.0.113.9", "192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.1.2.3"], "192.0.2.7"),  # a proxy behind a proxy
        (["192.0.2.7, 10.1.2.3,127.0.0.1"], "192.0.2.7"),
        (["10.1.2.3"], "10.1.2.3"),  # a client on a proxy's machine
        (["2001:db8::1"], "2001:db8::1"),
        (["2001:DB8:0::1"], "2001:db8::1"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, ::ffff:10.1.2.3"], "192.0.2.7"),
        ([], "127.0.0.1"),
        ([""], "127.0.0.1"),
        (["unknown"], "127.0.0.1"),
        (["192.0.2.7, unknown"], "127.0.0.1"),
        (["192.0.2.7, unknown, 10.1.2.3"], "10.1.2.3"),
        (["192.0.2.7:5678"], "127.0.0.1"),
        (["192.0.2.7\n"], "192.0.2.7"),
        (["1.2.3", "\u0661.2.3.4".encode().decode("latin-1")], "127.0.0.1"),
        ([","] * 1000, "127.0.0.1"),
    ],
)  # fmt: skip
def test_what_a_trusted_proxy_says_of_its_client(forwarded: list[str], client: str) -> None:
    scope = look(*(("x-forwarded-for", value) for value in forwarded))
    assert scope["client"] == (client, 0)
    assert is_proxied(scope)


@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "fe80::1"])
def test_nobody_elses_word_counts(peer: str) -> None:
    scope = look(("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "https"), client=(peer, 5))
    assert scope["client"] == (peer, 0)
    assert scope["scheme"] == "http"
    assert not is_proxied(scope)


def test_a_proxys_address_may_come_as_ipv6() -> None:
    assert look(("x-forwarded-for", "192.0.2.7"), client=("::ffff:127.0.0.1", 5))["client"] == ("192.0.2.7", 0)


@pytest.mark.parametrize(
    ("said", "scheme"), [("https", "https"), ("HTTPS", "https"), ("http", "http"), ("ftp", "http"), ("", "http")]
)
def test_the_scheme(said: str, scheme: str) -> None:
    assert look(("x-forwarded-proto", said))["scheme"] == scheme


def test_the_administrators_socket_is_the_first_one_alone() -> None:
    headers = ("x-forwarded-for", "192.0.2.7")
    for account in (0, os.geteuid()):
        scope = look(headers, client=None, server=(ADMIN, None), account=account)
        assert (is_admin(scope), is_proxied(scope), scope["client"]) == (True, False, None)
    scope = look(headers, client=None, server=(ADMIN, None), account=4711)
    assert (is_admin(scope), is_proxied(scope), scope["client"]) == (False, False, ("account 4711", 0))
    scope = look(headers, client=None, server=(OTHER, None), account=0)
    assert (is_admin(scope), is_proxied(scope), scope["client"]) == (False, True, ("192.0.2.7", 0))
    scope = look(headers, client=None, server=(OTHER, None), trusted=("127.0.0.1",))
    assert (is_admin(scope), is_proxied(scope), scope["client"]) == (False, False, None)
    assert not is_admin(look(server=(ADMIN, 80), account=0)), "a host that is called as the socket is"


@pytest.mark.parametrize(
    "text", ["", "x", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.4/8", "[::1]", " 1.2.3.4", "4" * 500]
)
def test_what_is_no_address(text: str) -> None:
    assert plain_address(text) == ""
