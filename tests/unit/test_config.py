import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scd.config import Duration, License, load, render
from scd.errors import ConfigError

from .test_documented import keys

Write = Callable[[str], Path]
HASH = "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(text: str) -> Path:
        file = tmp_path / "scd.toml"
        file.write_text(text)
        return file

    return put


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("[limits]\nmax_nodez = 3", "limits.max_nodez", "there is no such key (scd.toml(5) lists them)"),
        ("[nothing]\nx = 3", "nothing", "there is no such key (scd.toml(5) lists them)"),
        ('[limits]\nperiod = "soon"', "limits.period", "not a duration: 'soon'"),
        ('[server]\nmax_upload = "8 XB"', "server.max_upload", "not a size: '8 XB'"),
        ("[server]\nmax_upload = -1", "server.max_upload", "Expected a size, got -1"),
        ('[limits]\nmax_jobs = "x"', "limits.max_jobs", "Expected `int | null`, got `str`"),
        ("limits = 3", "limits", "Expected `object`, got `int`"),
        ('[server]\nlisten = ["8080"]', "server.listen", "not an address: '8080'"),
        ('[server]\nlisten = ["unix:scd.sock"]', "server.listen", "'unix:scd.sock' needs an absolute path"),
        ('[server]\nlisten = ["0.0.0.0:80"]', "server.listen", "'0.0.0.0:80' is open to other machines"),
        ('[server]\nlisten = ["lab:80"]', "server.listen", "'lab:80' is open to other machines"),
        ("[server]\nprogress_interval = 61", "server.progress_interval", "must be 0 to 60 seconds"),
        ('[server]\nroot_path = "/scd/"', "server.root_path", "'/scd/' is not a path as /scd, without a slash"),
        ('[server]\nroot_path = "//evil.example"', "server.root_path", "'//evil.example' is not a path as /scd"),
        ('[server]\nmetrics = ["prometheus.lab"]', "server.metrics", "'prometheus.lab' does not appear"),
        ('[server]\nterms_file = "/nowhere"', "server.terms_file", "/nowhere cannot be read"),
        ('[paths]\nstate = "here"', "paths.state", "must be an absolute path"),
        ("[auth]\nrequired = true", "auth.required", "is true, but there is no [users.NAME]"),
        ('[users.a]\npassword_hash = "secret"', "users.a.password_hash", "is not an argon2 hash"),
        ("[users.a]\nfoo = 1", "users.a.foo", "there is no such key"),
        (f'[users.a]\npassword_hash = "{HASH}"\n[users.a.limits]\nbandwidth = "3 foo"', "users.a.limits.bandwidth",
         "not a size: '3 foo'"),
        ('[dispatch]\ndefault = "slurm"', "dispatch.default", "is slurm, and there is no [slurm]"),
        ('[[dispatch.route]]\nstep = "a"\nexecutor = "slurm"', "dispatch.route", "leads to slurm, and there is no"),
        ('[slurm]\nconf = "/nowhere"', "slurm.conf", "/nowhere cannot be read"),
        ('[slurm]\nallow_options = ["-q"]', "slurm.allow_options", "'-q' is not a long option of sbatch"),
        ('[slurm]\nallow_options = ["--wrap"]', "slurm.allow_options", "--wrap is scd's own to give"),
        ("[slurm]\nmemory_on_oom = 0.5", "slurm.memory_on_oom", "must be 1 to 16"),
        ("[slurm]\nrecord_timeout = 1", "slurm.record_timeout", "must be 15 to 3600"),
        ('[[runtime]]\npython = "/nowhere/python"', "runtime", "/nowhere/python is not a program"),
        (f'[[runtime]]\npython = "{sys.executable}"\n[[runtime]]\npython = "{sys.executable}"', "runtime",
         "two runtimes have the same name"),
        ('[[runtime]]\npython = "/tmp"', "runtime", "/tmp is not a program"),
        ('[[runtime]]\nname = "x"', "runtime[0]", "Object missing required field `python`"),
        ('[[runtime]]\npyton = "x"', "runtime[0].pyton", "there is no such key"),
        ('[server]\nlisten = ["127.0.0.1:99999"]', "server.listen", "not an address: '127.0.0.1:99999'"),
        ('[server]\nlisten = ["127.evil.example:80"]', "server.listen", "'127.evil.example:80' is open to other"),
        ('[server]\nlisten = ["[::]:80"]', "server.listen", "'[::]:80' is open to other machines"),
        ('[server]\ntrusted_proxies = ["proxy"]', "server.trusted_proxies", "'proxy' is not an address, a network as"),
        ('[server]\ntrusted_proxies = ["10.0.0.1/8"]', "server.trusted_proxies", "'10.0.0.1/8' is not an address"),
        ('[server]\ntrusted_proxies = ["unix"]', "server.trusted_proxies", "other machines come by a proxy, and no"),
        ('[server]\naccel = "/scd-results/"', "server.accel", "is for a proxy, and trusted_proxies names none"),
        ('[server]\naccel = "scd-results/"', "server.accel", "'scd-results/' is not a location as /scd-results/"),
        ('[server]\naccel = "/a/\\r\\nX: y/"', "server.accel", "'/a/\\r\\nX: y/' is not a location"),
        ('[server]\ntls_key = "/key"', "server.tls_certificate", "is missing, and there is a tls_key"),
        ("[server]\nlisten = [1]", "server.listen[0]", "Expected `str`, got `int`"),
        ('[server]\npre_upload = { message = "x", dely = 1 }', "server.pre_upload.dely", "there is no such key"),
        ("[server]\nmax_upload = true", "server.max_upload", "Expected a size, got True"),
        ("[limits]\ncompute_time = inf", "limits.compute_time", "Expected a duration, got inf"),
        ("[limits]\nperiod = 0", "limits.period", "must be a second or more"),
        ('[limits]\nperiod = "unlimited"', "limits.period", "Expected a duration, got None"),
        ("[limits]\nmax_jobs = -1", "limits.max_jobs", 'must be 0 or more, or "unlimited"'),
        ("[local]\ncores = -1", "local.cores", "must be 0 (all cores) or more"),
        ('[local]\naccount = "a b"', "local.account", "'a b' is not the name of a Unix account"),
        ('[local]\naccount = "root"', "local.account", "jobs do not run as root"),
        ('[local]\naccount = "scd"', "local.account", "jobs do not run as scd"),
        ('[server]\nuser = "root"\n[local]\naccount = "a"', "server.user", "is root, and jobs have accounts"),
        ('[local]\naccount = "a"\nisolation = "none"', "local.isolation", "is none: jobs of several accounts always"),
        ('[local]\naccount = "a"\nlauncher = "x"', "local.launcher", "must be an absolute path"),
        (f'[users.a]\npassword_hash = "{HASH}"\naccount = "a"\n[users.b]\npassword_hash = "{HASH}"', "users.b.account",
         "is missing, and others have one"),
        ('[local]\naccount = "{user}"', "local.account", 'is "{user}", and nobody has to log in'),
        ('[auth.pam]\n[local]\naccount = "{user}"\nmin_uid = 0', "local.min_uid", "must be 1 or more"),
        ('[auth.pam]\n[local]\naccount = "a"\naccount_groups = ["g"]', "local.account_groups",
         "says who may have an account of his own"),
        ('[auth.pam]\n[users.a]\naccount = "a"', "local.account", "is missing: jobs have accounts, and users of"),
        (f'[local]\naccount = "{{user}}"\n[users."ä"]\npassword_hash = "{HASH}"', "users.ä.account",
         "is missing, and no job runs as a Unix account 'ä'"),
        (f'[local]\naccount = "{{user}}"\n[users.root]\npassword_hash = "{HASH}"', "users.root.account",
         "is missing, and no job runs as a Unix account 'root'"),
        (f'[auth]\nrequired = false\n[users.a]\npassword_hash = "{HASH}"\naccount = "a"', "local.account",
         "is missing: nobody has to log in"),
        ('[local]\nisolation = "no"', "local.isolation", "Invalid enum value 'no'"),
        ('[local]\nnetwork = "loopback"', "local.network", "Invalid enum value 'loopback'"),
        ('[local]\nreadonly = ["tools"]', "local.readonly", "'tools' is not an absolute path"),
        ('[local]\nreadonly = ["/nowhere"]', "local.readonly", "/nowhere is not there"),
        ("[local]\nprocesses = -1", "local.processes", "must be 0 (no limit of the job's own) or more"),
        (f'[users."a b"]\npassword_hash = "{HASH}"', "users.a b", "a user's name holds no white space"),
        (f'[users.""]\npassword_hash = "{HASH}"', "users.", "a user's name holds no white space"),
        ("[licenses]\nvcs = -1", "licenses.vcs.count", "must be 0 (no node may have one) or more"),
        ('[licenses]\nvcs = "4"', "licenses.vcs.count", "Expected `int`, got `str`"),
        ("[licenses.vcs]\ntools = []", "licenses.*", "Object missing required field `count`"),
        ("[licenses.vcs]\ncount = 1\nnumber = 2", "licenses.vcs.number", "there is no such key"),
        ('[licenses]\n"v cs" = 1', "licenses.v cs", "a licence's name holds letters, digits and _.-"),
        ('[licenses.drc]\ncount = 1\ntools = ["a/b/c"]', "licenses.drc.tools", "'a/b/c' is not a tool as vcs, or one"),
        ('[licenses]\nvcs = 1\n[licenses.b]\ncount = 1\ntools = ["vcs"]', "licenses.b.tools",
         "vcs needs vcs already: a node holds one licence"),
        ('[licenses.vcs]\ncount = 1\nslurm = "vcs:2"', "licenses.vcs.slurm", "'vcs:2' is not a licence as Slurm"),
        ('[licenses]\nvcs = 1\n[slurm]\nallow_options = ["--licenses"]', "slurm.allow_options",
         "--licenses is scd's own to give, since there are [licenses]"),
        ("[users]\nalice = 4", "users.alice", "Expected `object`, got `int`"),
        (f'[users."a.b"]\npassword_hash = "{HASH}"\nfoo = 1', "users.a.b.foo", "there is no such key"),
        (f'[users.a.limits]\nfoo = 1\n[users.b]\npassword_hash = "{HASH}"\nfoo = 1', "users.a.limits.foo",
         "there is no such key"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_file_key_and_reason(write: Write, text: str, key: str, reason: str) -> None:
    file = write(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.message.startswith(f"{file}: {key}: {reason}"), caught.value.message
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    "value",
    ['"x"', "5", "-1.5", "nan", "true", "2026-01-01", "12:00:00", "[]", '["x"]', "[1]", "[[]]", "{}", "{x = 1}"],
)
def test_whatever_a_key_is_given_is_taken_or_named(write: Write, value: str) -> None:
    for table, key in keys():
        for line in (f"{table}.{key} = {value}\n", f"[[{table}]]\n{key} = {value}\n"):
            file = write(line)
            refusal = ""
            try:
                load(file)
            except ConfigError as error:
                refusal = error.message
            assert not refusal or refusal.startswith(f"{file}: "), f"{line}: {refusal}"


def test_no_toml(write: Write) -> None:
    file = write("[server\n")
    with pytest.raises(ConfigError, match="not valid TOML") as caught:
        load(file)
    assert str(file) in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path / "scd.toml")


@pytest.mark.parametrize("wrong", ["max_job = 3", 'storage = "10 apples"'])
def test_what_is_wrong_for_all_is_not_said_of_a_user(write: Write, tmp_path: Path, wrong: str) -> None:
    """Whose limits these are, too; he may be in another file."""
    file = write(f'[users.alice]\npassword_hash = "{HASH}"\n')
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "zz.toml").write_text(f"[limits]\n{wrong}\n")
    with pytest.raises(ConfigError, match=rf"conf\.d/zz\.toml: limits\.{wrong.split()[0]}: "):
        load(file)


def test_files_of_conf_d_win_and_are_named(write: Write, tmp_path: Path) -> None:
    file = write('[limits]\nmax_nodes = 1\nmax_jobs = 1\n[server]\nhosts = ["a"]')
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "20.toml").write_text("[limits]\nmax_nodes = 3")
    (tmp_path / "conf.d" / "10.toml").write_text('[limits]\nmax_nodes = 2\n[server]\nhosts = ["b"]')
    config = load(file)
    assert (config.limits.max_nodes, config.limits.max_jobs) == (3, 1)
    assert config.server.hosts == ("a", "b"), "lists are joined"
    (tmp_path / "conf.d" / "30.toml").write_text("[limits]\nbad = 2")
    with pytest.raises(ConfigError, match=r"30\.toml: limits\.bad"):
        load(file)


def test_the_file_is_named_that_has_the_mistake(write: Write, tmp_path: Path) -> None:
    file = write('[server]\nterms = "x"\nlisten = ["127.0.0.1:80"]')
    (tmp_path / "conf.d").mkdir()
    added = tmp_path / "conf.d" / "site.toml"
    for text, key in [
        ('terms = "x"', "terms"),
        ('[[runtime]]\npyton = "x"', "runtime[0].pyton"),
        ("[server]\nhosts = [1]", "server.hosts[0]"),
        ("[local]\ncores = -1", "local.cores"),
    ]:
        added.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load(file)
        assert caught.value.message.startswith(f"{added}: {key}: "), caught.value.message
    added.write_text("")
    file.write_text("[server]\nhosts = [1]")
    added.write_text("[server]\nterms = 'x'")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.message.startswith(f"{file}: server.hosts[0]: "), "the table's other file is not the one"


def test_files_of_conf_d_count_without_a_main_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("scd.config.reading.DEFAULT_FILE", tmp_path / "scd.toml")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "users.toml").write_text(f'[users.a]\npassword_hash = "{HASH}"')
    config = load()
    assert config.auth_required, "a user in conf.d was overlooked, and the server is open to all"
    assert config.paths.state == "/var/lib/scd"


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "scd.toml"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.message.startswith(f"{file}: cannot be read: ")


def test_a_users_limits_are_those_of_all_overridden_key_by_key(write: Write) -> None:
    config = load(write(
        f'[limits]\nmax_nodes = 5\nmax_jobs = 7\n[users.a]\npassword_hash = "{HASH}"\n'
        '[users.a.limits]\nmax_jobs = "unlimited"\n'
    ))  # fmt: skip
    assert (config.limits_of("a").max_nodes, config.limits_of("a").max_jobs) == (5, None)
    assert config.limits_of("somebody").max_jobs == 7


def test_a_lab_box_counts_nothing_unless_told(write: Write) -> None:
    config = load(write('[limits]\nbandwidth = "1GiB"'))
    assert not config.auth_required
    assert (config.limits.compute_time, config.limits.max_jobs) == (None, None)
    assert config.limits.bandwidth == 2**30
    users = load(write(f'[users.a]\npassword_hash = "{HASH}"'))
    assert users.auth_required
    assert users.limits.compute_time == Duration(360000)


def test_without_any_file_it_is_a_lab_box_on_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("scd.config.reading.DEFAULT_FILE", tmp_path / "absent.toml")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = load()
    assert config.paths.state == str(tmp_path / "state" / "scd")
    assert config.server.listen == ("127.0.0.1:8080", f"unix:{tmp_path}/state/scd/scd.sock")
    assert [runtime.python for runtime in config.runtime] == [sys.executable]


def test_users_open_the_door(write: Write) -> None:
    config = load(write(f'[server]\nlisten = ["0.0.0.0:80", "[::]:80"]\n[users.a]\npassword_hash = "{HASH}"'))
    assert config.tcp_addresses == [("0.0.0.0", 80), ("::", 80)]


def test_what_is_shown_reads_back_and_hides_hashes(write: Write, tmp_path: Path) -> None:
    text = "[server]\nmax_upload = 1234567\n"
    text += f'pre_upload = {{ message = "Wait", delay = "5250ms" }}\n[users.a]\npassword_hash = "{HASH}"\n'
    config = load(write(text))
    shown = render(config)
    assert HASH not in shown
    again = tmp_path / "again.toml"
    again.write_text(shown.replace('"(set)"', f'"{HASH}"'))
    assert load(again) == config


def test_whose_account_a_job_has(write: Write) -> None:
    hashed = f'password_hash = "{HASH}"\n'
    config = load(write(f'[local]\naccount = "guest"\n[users.a]\n{hashed}account = "alice"\n[users.b]\n{hashed}'))
    assert config.accounts == {"guest", "alice"}
    assert [config.account_of(user) for user in ("a", "b", "gone", "")] == ["alice", "guest", "guest", "guest"]
    assert load(write("")).accounts == set()
    assert load(write("")).account_of("a") == ""
    assert not load(write("")).has_accounts


def test_whose_own_account_a_job_has(write: Write) -> None:
    hashed = f'password_hash = "{HASH}"\n'
    config = load(write(f'[local]\naccount = "{{user}}"\n[users.a]\n{hashed}account = "alice"\n[users.b]\n{hashed}'))
    assert config.has_accounts
    assert config.accounts == {"alice"}, "what is not named is judged by what it is"
    assert [config.account_of(user) for user in ("a", "b", "anybody", "")] == ["alice", "b", "anybody", ""]
    assert [set(config.users_of(account)) for account in ("alice", "a", "b", "anybody", "")] == [
        {"a", "alice"}, set(), {"b"}, {"anybody"}, set()
    ]  # fmt: skip


def test_a_licence_in_short_and_at_length(write: Write) -> None:
    config = load(write('[licenses]\nvcs = 4\n[licenses.calibre]\ncount = 2\ntools = ["calibre/drc"]\nslurm = ""'))
    assert config.licenses["vcs"] == License(4, ("vcs",), "vcs")
    assert config.licenses["calibre"] == License(2, ("calibre/drc",), "")
    again = load(write(render(config)))
    assert again.licenses == config.licenses, "what is shown does not read back"
