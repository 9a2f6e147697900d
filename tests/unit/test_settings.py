"""A changed configuration is taken whole or not at all."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from scd.config import Config, Settings, fingerprint, load
from scd.errors import ConfigError
from scd.reload import Reload
from scd.web.login import Login

pytestmark = pytest.mark.anyio
HASH = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$aGFzaA"
USERS = f'[users.alice]\npassword_hash = "{HASH}"\n'

Write = Callable[[str], Settings]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """The settings of a file that was just written."""

    def write(text: str) -> Settings:
        (tmp_path / "scd.toml").write_text(f'[paths]\nstate = "{tmp_path}"\n{text}')
        return Settings(load(tmp_path / "scd.toml"), tmp_path / "scd.toml")

    return write


async def test_what_can_change_is_taken_and_the_rest_is_named(write: Write) -> None:
    settings = write(USERS)
    told: list[Config] = []
    write(
        '[server]\nlisten = ["127.0.0.1:9999"]\nterms = "be kind"\ndrain = "later"\n[local]\ncores = 3\nprocesses = 7\n'
        f'[limits]\nmax_jobs = 5\n[groups.vlsi]\n{USERS}groups = ["vlsi"]\n'
    )
    waiting = await Reload(settings, told.append)()
    assert waiting == ("server.listen", "local.processes")
    config = settings.config
    assert (settings.terms, config.server.drain, config.cores) == ("be kind", "later", 3)
    assert config.limits_of("alice").max_jobs == 5
    assert [budget.group for budget in settings.budgets_of("alice")] == ["", "vlsi"]
    assert config.server.listen != ("127.0.0.1:9999",)
    assert config.local.processes == 4096
    assert told == [config], "who keeps a part of the configuration was not told"


async def test_what_slurm_gives_can_change_and_how_it_is_asked_waits(write: Write) -> None:
    settings = write(f'{USERS}[slurm]\npartition = "compute"\n')
    write(
        f'{USERS}[slurm]\npartition = "fast"\nqueues = ["fast"]\nmax_memory = "8GiB"\nmax_time = "1h"\n'
        'allow_options = ["--qos"]\nparallel = 4\npoll_interval = 9\n'
    )
    assert await Reload(settings, lambda _: None)() == ("slurm.poll_interval", "slurm.parallel")
    slurm = settings.config.slurm
    assert slurm is not None
    assert (slurm.partition, slurm.queues, slurm.allow_options) == ("fast", ("fast",), ("--qos",))
    assert (int(slurm.max_memory), float(slurm.max_time), slurm.parallel) == (8 * 2**30, 3600.0, 8)


@pytest.mark.parametrize(("before", "after"), [("", "[slurm]\n"), ("[slurm]\n", "")])
async def test_whether_there_is_slurm_waits(write: Write, before: str, after: str) -> None:
    settings = write(USERS + before)
    had = settings.config.slurm
    write(USERS + after)
    assert await Reload(settings, lambda _: None)() == ("slurm",)
    assert settings.config.slurm == had


async def test_accounts_of_jobs_can_change(write: Write) -> None:
    settings = write(f'{USERS}[local]\naccount = "guest"\n')
    write(f'{USERS}[local]\naccount = "{{user}}"\nmin_uid = 2000\naccount_groups = ["course"]\n')
    assert await Reload(settings, lambda _: None)() == ()
    local = settings.config.local
    assert (local.own_accounts, local.min_uid, local.account_groups) == (True, 2000, ("course",))
    assert settings.config.account_of("alice") == "alice"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[limits]\nmax_jobs = -1", r"limits\.max_jobs: must be 0 or more"),
        ("[limits]\nmax_job = 1", r"limits\.max_job: there is no such key"),
        ("[limits", "not valid TOML"),
        (f'{USERS}groups = ["vlsi"]', r"users\.alice\.groups: there is no \[groups\.vlsi\.limits\]"),
        (f'{USERS}account = "alice"', "decided at start; restart scd"),
        ('[server]\nterms_file = "/nowhere/terms"', r"server\.terms_file: /nowhere/terms cannot be read"),
    ],
)
async def test_a_bad_file_changes_nothing_and_says_why(
    write: Write, caplog: pytest.LogCaptureFixture, text: str, reason: str
) -> None:
    settings = write(f'[server]\nterms = "old"\n{USERS}')
    before = settings.config
    Path(before.paths.state, "scd.toml").write_text(f'[paths]\nstate = "{before.paths.state}"\n{text}')
    with pytest.raises(ConfigError, match=reason):
        await Reload(settings, lambda _: pytest.fail("told of nothing"))()
    assert settings.config is before
    assert settings.terms == "old"
    assert "the old one stays in force" in caplog.text


async def test_what_listens_to_the_network_is_not_opened_to_everybody(write: Write) -> None:
    """The new file alone would be good: it does not listen to the network any more. But scd still does."""
    settings = write(f'[server]\nlisten = ["0.0.0.0:8080"]\n{USERS}')
    write("")
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0:8080' is open to other machines"):
        await Reload(settings, lambda _: None)()
    assert settings.config.auth_required


async def test_two_at_once_take_turns(write: Write) -> None:
    settings = write(USERS)
    write('[server]\nterms = "new"\n')
    reload = Reload(settings, lambda _: None)
    assert list(await asyncio.gather(reload(), reload())) == [(), ()]
    assert settings.terms == "new"


async def test_a_key_that_cannot_be_used_changes_nothing(write: Write) -> None:
    """The file is good as far as it can be read; only the login finds that out."""
    settings = write(USERS)
    login, before = Login(settings.config), settings.config
    write('[users.bob]\npublic_key = "ssh-ed25519 AAAA"\n')
    with pytest.raises(ConfigError, match=r"users\.bob\.public_key: cannot be used"):
        await Reload(settings, login.use, lambda _: pytest.fail("told of something"))()
    assert settings.config is before


def test_what_the_launcher_must_know_is_told_apart(tmp_path: Path) -> None:
    """By their fingerprints, of which each of these is another."""
    texts = [
        "[slurm]\n", '[slurm]\nmax_memory = "4GiB"\n', '[slurm]\nmax_memory = "8GiB"\n', '[slurm]\nmax_time = "1h"\n',
        '[slurm]\nqueues = ["a"]\n', "", "[licenses]\nvcs = 2\n", '[local]\naccount = "nobody"\n',
        "[local]\nmin_uid = 2000\n", f'{USERS}account = "nobody"\n', f'{USERS}account = "daemon"\n',
    ]  # fmt: skip
    file = tmp_path / "scd.toml"

    def of(text: str) -> str:
        file.write_text(text)
        return fingerprint(load(file))

    assert len({of(text) for text in texts}) == len(texts)
    assert of('[slurm]\nmax_memory = "4GiB"\n') == of('[slurm]\nmax_memory = "4096MiB"\n')
    assert of("") == of('[server]\nterms = "be kind"\n[limits]\nmax_jobs = 3\n'), "other changes need no launcher"
