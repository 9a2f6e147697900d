import asyncio
import logging
import threading
import time
from collections.abc import Mapping

import argon2
import pytest

from scd.auth import Authenticator
from scd.config import Auth, Config, User
from scd.errors import Busy, ConfigError, TooManyFailures, Unauthorized

pytestmark = pytest.mark.anyio

# Cheap to make and to check; the parameters stand in the hash itself.
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
USERS = {name: User(password_hash=CHEAP.hash(password)) for name, password in [("alice", "secret"), ("bob", "b\0x")]}
WRONG = "Wrong user name or key."
NEEDED = "This server needs a user name and a password (set them with: sc-remote -configure)."


def make(users: Mapping[str, User] = USERS, *, required: bool = True) -> Authenticator:
    return Authenticator(Config(users=dict(users), auth=Auth(required=required)))


async def login(auth: Authenticator, username: str | None, key: str | None, address: str = "192.0.2.1") -> str:
    return (await auth.authenticate(username, key, address)).user


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
    assert await login(make({}, required=False), *credentials) == ""


async def test_the_right_password() -> None:
    passwords = make()
    assert await login(passwords, "alice", "secret") == "alice"
    assert await login(passwords, "bob", "b\0x") == "bob"


@pytest.mark.parametrize(
    ("username", "key"),
    [("alice", "Secret"), ("alice", "secret "), ("alice", "b\0x"), ("Alice", "secret"), ("carol", "secret"),
     ("alice", USERS["alice"].password_hash), ("alice", "\ud800"), ("\ud800", "x")],
)  # fmt: skip
@pytest.mark.parametrize("required", [True, False])
async def test_wrong_credentials(username: str, key: str, required: bool) -> None:
    """One text for both mistakes: a stranger does not learn who has an account."""
    with pytest.raises(Unauthorized) as caught:
        await login(make(required=required), username, key)
    assert caught.value.message == WRONG
    assert caught.value.http_status == 403


@pytest.mark.parametrize("credentials", [(None, None), ("", ""), ("alice", None), ("alice", ""), (None, "secret")])
async def test_missing_credentials(credentials: tuple[str | None, str | None]) -> None:
    with pytest.raises(Unauthorized) as caught:
        await login(make(), *credentials)
    assert caught.value.message == NEEDED


async def test_where_nobody_has_to_log_in_half_a_login_is_still_refused() -> None:
    passwords = make(required=False)
    assert await login(passwords, None, None) == ""
    with pytest.raises(Unauthorized, match="needs a user name and a password"):
        await login(passwords, "alice", None)


async def test_a_verified_password_is_not_checked_again_for_a_while(
    checks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client sends it with every poll, and a check takes tens of milliseconds."""
    passwords = make()
    for _ in range(3):
        assert await login(passwords, "alice", "secret") == "alice"
    assert len(checks) == 1
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 301)
    assert await login(passwords, "alice", "secret") == "alice"
    assert len(checks) == 2, "remembered for ever"


async def test_a_wrong_password_is_not_remembered(checks: list[int]) -> None:
    passwords = make()
    for password in ("wrong", "wrong", "secret"):
        if password == "secret":
            assert await login(passwords, "alice", password) == "alice"
        else:
            with pytest.raises(Unauthorized):
                await login(passwords, "alice", password)
    assert len(checks) == 3


async def test_what_was_verified_does_not_vouch_for_another_pair() -> None:
    """Name and password of one request must not be cut apart in another way by the next."""
    passwords = make()
    await login(passwords, "alice", "secret")
    await login(passwords, "bob", "b\0x")
    for username, key in [("alices", "ecret"), ("alic", "esecret"), ("bob\0b", "x"), ("bobb", "\0x")]:
        with pytest.raises(Unauthorized):
            await login(passwords, username, key)


async def test_an_unknown_user_costs_a_check_too(checks: list[int]) -> None:
    """Else the time of an answer would tell who has an account."""
    with pytest.raises(Unauthorized):
        await login(make(), "nobody", "secret")
    assert len(checks) == 1


async def test_checks_do_not_hold_up_the_event_loop(checks: list[int]) -> None:
    await login(make(), "alice", "secret")
    assert checks != [threading.get_ident()], "checked on the event loop's own thread"


@pytest.mark.parametrize("damaged", ["$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$", "$argon2x"])
async def test_a_damaged_hash_lets_nobody_in(damaged: str) -> None:
    with pytest.raises(Unauthorized, match=f"^{WRONG}$"):
        await login(make({"alice": User(password_hash=damaged)}), "alice", "secret")


# -- another configuration at runtime


async def test_what_changed_is_not_remembered(checks: list[int]) -> None:
    auth = make()
    for name, key in (("alice", "secret"), ("bob", "b\0x")):
        await login(auth, name, key)
    checks.clear()
    auth.use(Config(users={"alice": User(password_hash=CHEAP.hash("new")), "bob": USERS["bob"]}))
    with pytest.raises(Unauthorized):
        await login(auth, "alice", "secret")
    assert await login(auth, "alice", "new") == "alice"
    checks.clear()
    assert await login(auth, "bob", "b\0x") == "bob"
    assert checks == [], "who did not change is remembered"
    auth.use(Config(users={"alice": USERS["alice"]}))
    with pytest.raises(Unauthorized):
        await login(auth, "bob", "b\0x")


async def test_a_configuration_that_cannot_be_used_changes_nothing() -> None:
    auth = make()
    broken = {"alice": User(password_hash=CHEAP.hash("new")), "eve": User(public_key="ssh-ed25519 AAAA")}
    with pytest.raises(ConfigError, match=r"users\.eve\.public_key"):
        auth.use(Config(users=broken))
    assert await login(auth, "alice", "secret") == "alice"


# -- guessing


async def test_a_guesser_waits_and_nobody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tries are free. The next ones wait some seconds, and what comes beside a waiting one is refused."""
    auth, waits = make(), list[float]()
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for number in range(10):
        with pytest.raises(Unauthorized):
            await login(auth, "alice", f"guess {number}")
    assert max(waits) == 0
    with pytest.raises(Unauthorized):
        await login(auth, "alice", "guess 10")
    assert 4 < waits[-1] <= 5
    with pytest.raises(TooManyFailures) as refused:
        await login(auth, "alice", "guess 11")
    assert refused.value.http_status == 429, "the client takes 429 for busy, and asks again"
    assert 1 <= (refused.value.retry_after or 0) <= 10
    waits.clear()
    assert await login(auth, "alice", "secret", "192.0.2.2") == "alice"
    assert await login(auth, "bob", "b\0x") == "bob"
    assert max(waits) == 0, "a stranger's guesses cost a user time"


async def test_the_right_password_is_let_in_after_many_wrong_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    auth, waited = make(), list[float]()
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for _ in range(10):
        with pytest.raises(Unauthorized):
            await login(auth, "alice", "wrong")
    assert await login(auth, "alice", "secret") == "alice"
    assert waited[-1] <= 5, "the client gives up after ten seconds"
    waited.clear()
    with pytest.raises(Unauthorized):
        await login(auth, "alice", "wrong again")
    assert waited == [0.0], "what was tried before is forgiven"


async def test_a_verified_user_does_not_notice_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while he is remembered, nor when he has to be checked again: strangers wait in another queue."""
    slow = threading.Event()
    real = argon2.PasswordHasher.verify
    auth = make()
    await login(auth, "alice", "secret")

    def verify(self: argon2.PasswordHasher, hash: str, password: str) -> bool:  # noqa: A002
        if password.startswith("guess"):
            slow.wait(30)
        return real(self, hash, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", verify)
    attack = [asyncio.create_task(login(auth, f"user{number}", "guess", f"198.51.{number}.1")) for number in range(100)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        assert await login(auth, "alice", "secret") == "alice"
        auth._verified.clear()
        assert await login(auth, "alice", "secret") == "alice"
    slow.set()
    results = await asyncio.gather(*attack, return_exceptions=True)
    assert all(isinstance(result, Unauthorized) for result in results)


async def test_what_waits_for_a_check_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = threading.Event()

    def verify(*_: object) -> bool:
        slow.wait(30)
        return False

    monkeypatch.setattr(argon2.PasswordHasher, "verify", verify)
    auth = make()
    attack = [
        asyncio.create_task(login(auth, f"u{number}", "guess", f"10.{number // 250}.{number % 250}.1"))
        for number in range(300)
    ]
    done, waiting = await asyncio.wait(attack, return_when=asyncio.FIRST_COMPLETED)
    errors = [task.exception() for task in done]
    assert errors, "all 300 wait"
    assert all(isinstance(error, Busy) and error.http_status == 503 for error in errors)
    slow.set()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_failed_logins_are_logged_for_fail2ban(caplog: pytest.LogCaptureFixture) -> None:
    """With the name of a user. What is nobody's name may be somebody's password, or a stranger's forged address."""
    auth = make()
    for name in ("alice", "address=1.2.3.4", "hunter2"):
        with pytest.raises(Unauthorized):
            await login(auth, name, "hunter2", "198.51.100.7")
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines == [f"login failed: address=198.51.100.7 user={name}" for name in ("alice", "(unknown)", "(unknown)")]
    assert "hunter2" not in caplog.text


async def test_an_attack_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    auth = make()
    guesses = [login(auth, "x" * 4000, "guess") for _ in range(500)]
    results = await asyncio.gather(*guesses, return_exceptions=True)
    assert sum(isinstance(result, TooManyFailures) for result in results) > 480
    assert len(caplog.records) < 20
    assert len(caplog.text) < 5000
