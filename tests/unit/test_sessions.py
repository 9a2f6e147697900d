"""Sessions of the status page: whose they are, how long, and what ends them."""

from collections.abc import Callable

import pytest

from scd.errors import Forbidden
from scd.web.sessions import Sessions

Clock = Callable[[float], None]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Clock:
    now = [1000.0]
    monkeypatch.setattr("scd.web.sessions.time.monotonic", lambda: now[0])

    def forward(hours: float) -> None:
        now[0] += hours * 3600

    return forward


@pytest.fixture
def credentials() -> dict[str, str]:
    return {"alice": "hash", "bob": "other"}


@pytest.fixture
def found(credentials: dict[str, str]) -> Sessions:
    return Sessions(lambda user: credentials.get(user, ""))


def test_a_token_is_its_users(found: Sessions) -> None:
    alice, bob = found.begin("alice"), found.begin("bob")
    assert (found.user_of(alice), found.user_of(bob)) == ("alice", "bob")
    assert found.user_of("") is None
    assert found.user_of(alice + "x") is None
    assert found.user_of("\udcff") is None
    assert alice not in repr(vars(found)), "what a browser holds is kept as it is"


def test_an_idle_session_ends(found: Sessions, at: Clock) -> None:
    used, idle = found.begin("alice"), found.begin("alice")
    at(5)
    assert found.user_of(used) == "alice"
    assert found.user_of(idle, use=False) == "alice"
    at(5)
    assert found.user_of(used) == "alice"
    assert found.user_of(idle) is None


def test_no_session_lasts_for_ever(found: Sessions, at: Clock) -> None:
    token = found.begin("alice")
    for _ in range(14):
        at(5)
        assert found.user_of(token) == "alice"
    at(5)
    assert found.user_of(token) is None


@pytest.mark.parametrize("now", ["", "another hash"])
def test_a_removed_user_or_a_new_password_ends_it(found: Sessions, credentials: dict[str, str], now: str) -> None:
    hers, his = found.begin("alice"), found.begin("bob")
    credentials["alice"] = now
    assert found.user_of(hers) is None
    assert found.user_of(his) == "bob"


def test_a_user_has_so_many_and_others_lose_none(found: Sessions) -> None:
    his = found.begin("bob")
    hers = [found.begin("alice") for _ in range(25)]
    assert [found.user_of(token) for token in hers] == [None] * 5 + ["alice"] * 20
    assert found.user_of(his) == "bob"


def test_a_form_is_of_one_browser_and_one_process(found: Sessions) -> None:
    mine, other = found.begin("alice"), found.begin("alice")
    found.check_form(mine, found.form_token(mine))
    for token, form_token in ((mine, found.form_token(other)), (mine, ""), ("", found.form_token("")), (mine, "ü"),
                              (mine, Sessions(lambda _: "").form_token(mine))):  # fmt: skip
        with pytest.raises(Forbidden, match="too old"):
            found.check_form(token, form_token)
