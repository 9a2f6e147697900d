"""Which Unix accounts jobs may have, where the directory of the system is stranger than the tests' own accounts."""

import pwd

import pytest

from scd.config import Config, Local
from scd.launcher.accounts import Account, Refused, find

SCD = Account("scd", 950, 950)
EVERYBODY = Config(local=Local(account="{user}"))


def known_as(monkeypatch: pytest.MonkeyPatch, name: str, uid: int, gid: int = 4000) -> None:
    entry = pwd.struct_passwd((name, "x", uid, gid, "", f"/home/{name}", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: entry)


def test_another_spelling_of_a_name_is_not_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some directories know Alice as alice: scd's limits would count two, and the account would have both's jobs."""
    known_as(monkeypatch, "alice", 4711)
    assert find("alice", EVERYBODY, SCD).uid == 4711
    with pytest.raises(Refused, match="the account 'Alice' is 'alice' by its own name"):
        find("Alice", EVERYBODY, SCD)


@pytest.mark.parametrize(("uid", "good"), [(499, False), (500, True), (999, True), (65534, False), (70000, True)])
def test_the_least_uid_is_the_sites_own(monkeypatch: pytest.MonkeyPatch, uid: int, good: bool) -> None:
    """And 65534 is nobody everywhere."""
    known_as(monkeypatch, "alice", uid)
    config = Config(local=Local(account="{user}", min_uid=500))
    if good:
        assert find("alice", config, SCD).uid == uid
    else:
        with pytest.raises(Refused, match="which is no person's"):
            find("alice", config, SCD)


def test_a_group_that_is_not_there_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    known_as(monkeypatch, "alice", 4711)
    config = Config(local=Local(account="{user}", account_groups=("scd-test-no-such-group",)))
    with pytest.raises(Refused, match="in none of the groups"):
        find("alice", config, SCD)


def test_without_own_accounts_a_name_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    known_as(monkeypatch, "alice", 4711)
    with pytest.raises(Refused, match="no user has the account 'alice'"):
        find("alice", Config(local=Local(account="guest")), SCD)
