import pytest

from scd.auth import throttle as throttle_
from scd.auth.throttle import Throttle, place_of
from scd.errors import TooManyFailures


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(clock)


def tries(throttle: Throttle, count: int, user: str = "alice", address: str = "192.0.2.1") -> int:
    """How many of so many tries in a row need not wait."""
    free = 0
    for _ in range(count):
        try:
            free += throttle.admit(user, address) == 0
        except TooManyFailures:
            continue
    return free


def admitted(throttle: Throttle, user: str, address: str) -> bool:
    try:
        throttle.admit(user, address)
    except TooManyFailures:
        return False
    return True


def test_ten_tries_are_free(throttle: Throttle) -> None:
    assert tries(throttle, 50) == 10


def test_guesses_in_an_hour(throttle: Throttle, clock: Clock) -> None:
    """Somebody who takes every try that he gets has one in five seconds of one user, and one a second of all."""
    one = every = 0
    for second in range(3600):
        clock.now += 1
        one += admitted(throttle, "alice", "192.0.2.1")
        every += sum(admitted(throttle, f"user{second}-{number}", "192.0.2.2") for number in range(5))
    assert 720 <= one <= 740
    assert 3600 <= every <= 3640


def test_refusals_do_not_add_up(throttle: Throttle, clock: Clock) -> None:
    """However long somebody was refused, the next try is a few seconds away."""
    tries(throttle, 10_000)
    clock.now += 10
    assert throttle.admit("alice", "192.0.2.1") <= 5


def test_many_addresses_at_one_user(throttle: Throttle) -> None:
    """Each new one still has tries, so that the user gets in from wherever he is; but fewer."""
    for number in range(10):
        tries(throttle, 10, address=f"198.51.100.{number}")
    assert tries(throttle, 50, address="203.0.113.1") == 2
    assert tries(throttle, 50, "bob", "203.0.113.1") == 10


def test_where_somebody_was_right_before_an_attack_costs_nothing(throttle: Throttle) -> None:
    throttle.admit("alice", "192.0.2.1")
    throttle.succeeded("alice", "192.0.2.1")
    for number in range(10):
        tries(throttle, 10, address=f"198.51.100.{number}")
    tries(throttle, 100, "nobody", "192.0.2.1")
    assert throttle.is_known("alice", "192.0.2.1")
    assert tries(throttle, 10) == 10


def test_success_is_no_try(throttle: Throttle) -> None:
    """Users of a whole laboratory may come from one address."""
    for number in range(1000):
        assert throttle.admit(f"user{number}", "192.0.2.1") == 0
        throttle.succeeded(f"user{number}", "192.0.2.1")


def test_what_was_not_decided_is_no_try(throttle: Throttle) -> None:
    for _ in range(1000):
        assert throttle.admit("alice", "192.0.2.1") == 0
        throttle.take_back("alice", "192.0.2.1")


def test_its_memory_is_bounded(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle_, "_MOST", 50)
    for number in range(500):
        throttle.admit("x" * 1000 + str(number), f"10.0.{number // 250}.{number % 250}")
        throttle.succeeded(f"user{number}", f"10.0.{number // 250}.{number % 250}")
        throttle.shall_tell(f"10.0.{number // 250}.{number % 250}")
    tables = (throttle._pairs._until, throttle._addresses._until, throttle._users._until, throttle._good,
              throttle._told)  # fmt: skip
    assert [len(table) <= 50 for table in tables] == [True] * 5
    assert all(len(key) < 100 for table in tables for key in table)


@pytest.mark.parametrize(
    ("address", "place"),
    [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
     ("fe80::1%eth0", "fe80::/64"), ("", "local"), ("nonsense", "local")],
)  # fmt: skip
def test_what_counts_as_one_address(address: str, place: str) -> None:
    assert place_of(address) == place


def test_the_log_hears_of_an_address_once_in_a_while(throttle: Throttle, clock: Clock) -> None:
    assert [throttle.shall_tell("192.0.2.1") for _ in range(3)] == [True, False, False]
    assert throttle.shall_tell("192.0.2.2")
    clock.now += 11
    assert throttle.shall_tell("192.0.2.1")
