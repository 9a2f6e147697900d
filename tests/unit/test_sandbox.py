"""The arguments of bubblewrap. What they bring about is tested with real nodes: tests/integration/test_isolation.py."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scd.launcher.sandbox import Sandbox, etc_files, is_below, outermost

WORK, TEMPORARY = "/var/lib/scd/spool/jobs/ab/abc/work", "/var/lib/scd/spool/jobs/ab/abc/tmp"
SHOWN = ("/opt/sc", "/opt/sc/lib", "/var/cache/scd", "/usr/lib/python3")
SANDBOX = Sandbox("/usr/bin/bwrap", "/var/lib/scd/sandbox", SHOWN)


def binds(argv: list[str]) -> Iterator[tuple[str, str, str]]:
    """(option, source, place) in their order."""
    for at, option in enumerate(argv):
        if option in ("--bind", "--ro-bind", "--ro-bind-try"):
            yield option, argv[at + 1], argv[at + 2]


def test_a_job_writes_in_its_directory_and_its_tmp_alone() -> None:
    argv = SANDBOX.argv(WORK, TEMPORARY)
    writable = [(source, place) for option, source, place in binds(argv) if option == "--bind"]
    assert writable == [(TEMPORARY, "/tmp"), (WORK, WORK)]
    assert argv[0] == "/usr/bin/bwrap"
    assert argv[-4:] == ["--remount-ro", "/", "--chdir", WORK]


def test_what_lies_below_tmp_is_shown_on_top_of_the_jobs_own() -> None:
    argv = SANDBOX._replace(readonly=("/tmp/tools",)).argv("/tmp/spool/work", "/tmp/spool/tmp")
    places = [place for _, _, place in binds(argv)]
    assert places.index("/tmp") < places.index("/tmp/tools") < places.index("/tmp/spool/work")


def test_nothing_is_shown_twice() -> None:
    places = [place for _, _, place in binds(SANDBOX.argv(WORK, TEMPORARY))]
    assert len(set(places)) == len(places)
    assert "/opt/sc" in places
    assert "/opt/sc/lib" not in places
    assert "/usr/lib/python3" not in places, "it lies in /usr"


def test_of_etc_no_secret_and_no_users() -> None:
    shown = {place: source for _, source, place in binds(SANDBOX.argv(WORK, TEMPORARY)) if place.startswith("/etc")}
    assert shown["/etc/passwd"] == "/var/lib/scd/sandbox/passwd"
    assert shown["/etc/hosts"] == "/var/lib/scd/sandbox/hosts"
    for place in ("/etc", "/etc/shadow", "/etc/ssl", "/etc/ssl/private", "/etc/scd", "/etc/resolv.conf", "/etc/ssh"):
        assert place not in shown


def test_the_network_is_none_or_the_machines() -> None:
    alone = SANDBOX.argv(WORK, TEMPORARY)
    assert "--unshare-net" in alone
    together = SANDBOX._replace(network=True).argv(WORK, TEMPORARY)
    assert "--unshare-net" not in together
    assert ("--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf") in list(binds(together))
    assert ("--ro-bind-try", "/etc/hosts", "/etc/hosts") in list(binds(together))


@pytest.mark.parametrize("option", ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1",
                                    "--die-with-parent", "--new-session", "--disable-userns"])  # fmt: skip
def test_it_is_a_sandbox(option: str) -> None:
    argv = SANDBOX.argv(WORK, TEMPORARY)
    assert option in argv
    assert argv[argv.index("--cap-drop") + 1] == "ALL"


def test_an_old_bubblewrap_is_not_asked_for_what_it_lacks() -> None:
    assert "--disable-userns" not in SANDBOX._replace(sealed=False).argv(WORK, TEMPORARY)


def test_strange_paths_stay_one_argument() -> None:
    work = "/srv/a b/'c'\n;d/work"
    assert ("--bind", work, work) in list(binds(SANDBOX.argv(work, TEMPORARY)))


def test_the_jobs_account_has_a_name() -> None:
    assert "scd:x:990:980:scd:/:/bin/sh\n" in etc_files(990, 980)["passwd"]
    assert "scd:x:980:\n" in etc_files(990, 980)["group"]
    assert etc_files(0, 0)["passwd"].count(":0:0:") == 1
    assert etc_files(65534, 65534)["passwd"].count("65534:65534") == 1


def test_below() -> None:
    assert is_below("/a/b", "/a")
    assert is_below("/a", "/a")
    assert is_below("/a", "/")
    assert not is_below("/ab", "/a")
    assert outermost(["/a/b", "/ab", "/a", "/a/", "/c/../a/d"]) == ["/a", "/ab"]


def test_what_a_runner_restrains() -> None:
    script = """if True:
        import resource
        from scd.runner.restraint import restrain
        restrain(321)
        print(*resource.getrlimit(resource.RLIMIT_CORE), *resource.getrlimit(resource.RLIMIT_NPROC))
        print(open("/proc/self/oom_score_adj").read())
        restrain(10**9)  # no way back
        print(*resource.getrlimit(resource.RLIMIT_NPROC))
    """
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["0", "0", "321", "321", "500", "321", "321"]
