"""Everything that a user can set is documented where he looks."""

import argparse
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from scd import daemon
from scd.cli import main as scdctl
from scd.config import Config, load
from scd.demo import main as demo
from scd.launcher import service

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "man").glob("*.[158]"))


def keys(section: type[msgspec.Struct] = Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(table, key) for every key of the configuration."""
    for field in msgspec.structs.fields(section):
        inner = next((kind for kind in _kinds(field.type) if issubclass(kind, msgspec.Struct)), None)
        name = f"{prefix}.{field.name}".strip(".")
        if inner is None or field.name == "pre_upload":
            yield prefix, field.name
        else:
            yield from keys(inner, f"{name}.NAME" if field.name in ("users", "groups", "licenses") else name)


def _kinds(kind: object) -> Iterator[type]:
    if isinstance(kind, type):
        yield kind
    for argument in getattr(kind, "__args__", ()):
        yield from _kinds(argument)


def flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                inner = list(flags(verb))
                yield from (found if found.startswith("-") else f"{name} {found}" for found in inner)
                if not any(isinstance(action, argparse._SubParsersAction) for action in verb._actions):
                    yield name


def plain(page: str) -> str:
    """A manual page's source without its macros' escapes."""
    return (ROOT / "man" / page).read_text().replace("\\-", "-")


@pytest.mark.parametrize(("table", "key"), sorted(set(keys())))
def test_each_key_is_in_the_manual_and_in_the_sample(table: str, key: str) -> None:
    page = plain("scd.toml.5")
    heading = {
        "runtime": "[[runtime]]", "dispatch.route": "[[dispatch.route]]", "users.NAME.limits": "[limits]",
        "licenses.NAME": "[licenses]",
    }.get(table, f"[{table}]")  # fmt: skip
    section = page.partition(f".Ss {heading}")[2].partition(".Ss ")[0]
    assert re.search(rf"^\.It Ic (.* , )?{key}\b", section, re.MULTILINE), f"{table}.{key} is not in scd.toml(5)"
    sample = (ROOT / "etc" / "scd.toml").read_text()
    assert re.search(rf"^#?{key} = ", sample, re.MULTILINE), f"{table}.{key} is not in etc/scd.toml"


def test_the_sample_holds_only_what_scd_reads(tmp_path: Path) -> None:
    """Its commented lines too."""
    text = (ROOT / "etc" / "scd.toml").read_text()
    lines = (re.sub(r"^#(?=\[|[a-z_]+ = )", "", line) for line in text.splitlines())
    whole = tmp_path / "scd.toml"
    text = "\n".join(lines).replace("/opt/siliconcompiler/bin/python", "/bin/sh")
    text = text.replace('[auth.pam]\nservice = "scd"\n', "")  # there is one directory at most
    whole.write_text(text.replace('account = ""', 'account = "jobs"'))  # for the directory's users, on a gateway
    config = load(whole)
    assert config.users["alice"].limits.compute_time == 500 * 3600.0
    assert config.auth.ldap is not None
    assert config.budgets_of("alice")[1].limits.compute_time == 2000 * 3600.0
    assert config.server.drain == "maintenance until 18:00"


def test_the_sample_as_shipped_is_the_default() -> None:
    assert load(ROOT / "etc" / "scd.toml").limits.max_nodes == 200


@pytest.mark.parametrize(
    ("page", "parser"),
    [
        ("scd.8", daemon.parser()),
        ("scdctl.8", scdctl.parser()),
        ("scd-launcher.8", service.parser()),
        ("scd-demo.1", demo.parser()),
    ],
    ids=["scd", "scdctl", "scd-launcher", "scd-demo"],
)
def test_each_flag_is_in_the_manual(page: str, parser: argparse.ArgumentParser) -> None:
    text = plain(page)
    for flag in flags(parser):
        macro = flag.lstrip("-") if not flag.startswith("--") else flag[1:]
        pattern = rf"\.(It )?(Fl|Ic|It Ic) .*?{re.escape(macro)}\b" if flag.startswith("-") else rf"\.It Ic {flag}\b"
        assert re.search(pattern, text), f"{flag} is not in {page}"


def test_the_demos_flags_have_a_help() -> None:
    for action in demo.parser()._actions:
        assert action.help


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_manual_pages_are_clean(page: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed (Debian: apt-get install mandoc)")
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", str(page)], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "    make demo\n" in text
    assert "    make test\n" in text
