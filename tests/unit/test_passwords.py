import threading

import argon2
import pytest

from scd.auth import Passwords
from scd.config import User
from scd.errors import Unauthorized

pytestmark = pytest.mark.anyio

# Cheap to make and to check; the parameters stand in the hash itself.
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
USERS = {name: User(password_hash=CHEAP.hash(password)) for name, password in [("alice", "secret"), ("bob", "b\0x")]}
WRONG = "Wrong user name or key."
NEEDED = "This server needs a user name and a password (set them with: sc-remote -configure)."


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The thread of each check of a hash."""
    found: list[int] = []
    real = argon2.PasswordHasher.verify

    def verify(self: argon2.PasswordHasher, hash: str, password: str) -> bool:  # noqa: A002
        found.append(threading.get_ident())
        return real(self, hash, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", verify)
    return found


@pytest.mark.parametrize("credentials", [(None, None), ("alice", "anything"), ("", "")])
async def test_without_users_everybody_is_anonymous(credentials: tuple[str | None, str | None]) -> None:
    assert await Passwords({}, required=False).authenticate(*credentials) == ""


async def test_the_right_password() -> None:
    passwords = Passwords(USERS, required=True)
    assert await passwords.authenticate("alice", "secret") == "alice"
    assert await passwords.authenticate("bob", "b\0x") == "bob"


@pytest.mark.parametrize(
    ("username", "key"),
    [("alice", "Secret"), ("alice", "secret "), ("alice", "b\0x"), ("Alice", "secret"), ("carol", "secret"),
     ("alice", USERS["alice"].password_hash), ("alice", "\ud800"), ("\ud800", "x")],
)  # fmt: skip
@pytest.mark.parametrize("required", [True, False])
async def test_wrong_credentials(username: str, key: str, required: bool) -> None:
    """One text for both mistakes: a stranger does not learn who has an account."""
    with pytest.raises(Unauthorized) as caught:
        await Passwords(USERS, required=required).authenticate(username, key)
    assert caught.value.message == WRONG
    assert caught.value.http_status == 403


@pytest.mark.parametrize("credentials", [(None, None), ("", ""), ("alice", None), ("alice", ""), (None, "secret")])
async def test_missing_credentials(credentials: tuple[str | None, str | None]) -> None:
    with pytest.raises(Unauthorized) as caught:
        await Passwords(USERS, required=True).authenticate(*credentials)
    assert caught.value.message == NEEDED


async def test_where_nobody_has_to_log_in_half_a_login_is_still_refused() -> None:
    passwords = Passwords(USERS, required=False)
    assert await passwords.authenticate(None, None) == ""
    with pytest.raises(Unauthorized, match="needs a user name and a password"):
        await passwords.authenticate("alice", None)


async def test_a_verified_password_is_not_checked_again_for_a_while(
    checks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client sends it with every poll, and a check takes tens of milliseconds."""
    passwords = Passwords(USERS, required=True)
    for _ in range(3):
        assert await passwords.authenticate("alice", "secret") == "alice"
    assert len(checks) == 1
    import time

    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 301)
    assert await passwords.authenticate("alice", "secret") == "alice"
    assert len(checks) == 2, "remembered for ever"


async def test_a_wrong_password_is_not_remembered(checks: list[int]) -> None:
    passwords = Passwords(USERS, required=True)
    for password in ("wrong", "wrong", "secret"):
        if password == "secret":
            assert await passwords.authenticate("alice", password) == "alice"
        else:
            with pytest.raises(Unauthorized):
                await passwords.authenticate("alice", password)
    assert len(checks) == 3


async def test_what_was_verified_does_not_vouch_for_another_pair() -> None:
    """Name and password of one request must not be cut apart in another way by the next."""
    passwords = Passwords(USERS, required=True)
    await passwords.authenticate("alice", "secret")
    await passwords.authenticate("bob", "b\0x")
    for username, key in [("alices", "ecret"), ("alic", "esecret"), ("bob\0b", "x"), ("bobb", "\0x")]:
        with pytest.raises(Unauthorized):
            await passwords.authenticate(username, key)


async def test_an_unknown_user_costs_a_check_too(checks: list[int]) -> None:
    """Else the time of an answer would tell who has an account."""
    with pytest.raises(Unauthorized):
        await Passwords(USERS, required=True).authenticate("nobody", "secret")
    assert len(checks) == 1


async def test_checks_do_not_hold_up_the_event_loop(checks: list[int]) -> None:
    await Passwords(USERS, required=True).authenticate("alice", "secret")
    assert checks != [threading.get_ident()], "checked on the event loop's own thread"


@pytest.mark.parametrize("damaged", ["$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$", "$argon2x"])
async def test_a_damaged_hash_lets_nobody_in(damaged: str) -> None:
    with pytest.raises(Unauthorized, match=f"^{WRONG}$"):
        await Passwords({"alice": User(password_hash=damaged)}, required=True).authenticate("alice", "secret")
