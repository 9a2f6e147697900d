"""``scdctl cache``: the packages that jobs find, fetched beforehand. Jobs themselves never write the cache."""

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ..config import Config, Runtime
from ..errors import ScdError
from ..listing import rfc3339
from ..runtimes import command, job_environment
from ..units import format_size
from .reading import NotAllowed, as_json
from .table import print_json, print_table, short_time

_RECORDS = "scd-packages"  # in the cache: what was added, one JSON file for each entry
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
_REFERENCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,255}")
_STEPS = re.compile(r"(^|/)\.{1,2}(/|$)|%2e|\\", re.IGNORECASE)
# What a fetch needs of the administrator's environment: proxies, certificates, and tokens for private sources.
_PASSED = re.compile(
    r"(?i:https?|all|no)_proxy|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|SSH_AUTH_SOCK|"
    r"(GITHUB|GH|GITLAB|GIT|HTTPS)_([A-Z0-9_]+_)?TOKEN"
)
COLUMNS = ("name", "reference", "size", "added", "source")


class BadPackage(ScdError):
    """This cannot be a package, or may not be fetched from there."""

    exit_code = 2


class NotFetched(ScdError):
    """The package could not be fetched."""


async def add(config: Config, arguments: argparse.Namespace) -> None:
    """For each runtime: SiliconCompiler's versions keep their packages at places of their own."""
    _check(config, arguments.name, arguments.source, arguments.reference)
    cache = Path(config.paths.cache)
    _become_owner(cache)
    wanted = [runtime for runtime in config.runtime if arguments.runtime in (None, runtime.name)]
    if not wanted:
        raise BadPackage(f"There is no runtime {arguments.runtime!r} in the configuration.")
    entries: list[dict[str, Any]] = []
    for runtime in wanted:
        place = _fetch(cache, runtime, arguments)
        entry = {
            "name": arguments.name, "source": arguments.source, "reference": arguments.reference,
            "place": str(place.relative_to(cache)), "size": _size(place), "added": time.time(),
        }  # fmt: skip
        if entry["place"] not in {other["place"] for other in entries}:
            entries.append(entry)
            _write(cache, place.name, entry)
    if arguments.json:
        print_json(as_json("packages", [_public(entry) for entry in entries]))
        return
    for entry in entries:
        print(f"{entry['name']} is in the cache: {cache / entry['place']}, {format_size(entry['size'])}")


async def remove(config: Config, arguments: argparse.Namespace) -> None:
    """A package by its name, in all its versions, or one by its directory's name."""
    cache = Path(config.paths.cache)
    found = [entry for entry in _entries(cache) if arguments.package in (entry["name"], Path(entry["place"]).name)]
    if not found:
        raise BadPackage(f"The cache has no package {arguments.package!r}. See: scdctl cache list")
    _become_owner(cache)
    for entry in found:
        place = cache / entry["place"]
        aside = Path(tempfile.mkdtemp(prefix=".removed-", dir=place.parent))
        place.rename(aside / place.name)  # at once, for those who look for it
        for directory, _, _ in os.walk(aside):  # SiliconCompiler made them read-only
            os.chmod(directory, 0o700)
        shutil.rmtree(aside)
        place.with_name(f"{place.name}.lock").unlink(missing_ok=True)
        (cache / _RECORDS / f"{place.name}.json").unlink(missing_ok=True)
    if arguments.json:
        print_json(as_json("packages", [_public(entry) for entry in found]))
        return
    for entry in found:
        print(f"{entry['name']} {entry['reference']} is removed from the cache.")


async def show(config: Config, arguments: argparse.Namespace) -> None:
    entries = _entries(Path(config.paths.cache))
    if arguments.json:
        print_json(as_json("packages", [_public(entry) for entry in entries]))
        return
    rows = [
        (entry["name"], entry["reference"], format_size(entry["size"]), short_time(entry["added"]), entry["source"])
        for entry in entries
    ]
    print_table(COLUMNS, rows)


def _public(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {"added": rfc3339(entry["added"])}


def _check(config: Config, name: str, source: str, reference: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadPackage(f"{name!r} is not the name of a package: letters, digits and _ . + - only.")
    if not _REFERENCE.fullmatch(reference) or _STEPS.search(reference):
        raise BadPackage(f"{reference!r} is not a version, tag or commit.")
    if not source.isprintable() or " " in source or _STEPS.search(source):
        raise BadPackage(f"{source!r} is not a source: it holds blanks, or steps up and down in its path.")
    if not any(source.startswith(allowed) for allowed in config.packages.sources):
        raise BadPackage(
            f"{source} is not a source that this site trusts: {', '.join(config.packages.sources) or 'none is'}. "
            "To trust it, add the beginning of it to [packages] sources."
        )


def _fetch(cache: Path, runtime: Runtime, arguments: argparse.Namespace) -> Path:
    passed = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    argv = command(runtime, "scd.runner.fetch", str(cache), arguments.name, arguments.source, arguments.reference)
    with tempfile.TemporaryDirectory(prefix="scd-fetch-") as home:
        process = subprocess.run(
            argv, env=passed | job_environment(runtime, home) | {"TMPDIR": home}, cwd=home,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    said = (process.stderr or process.stdout).strip().splitlines()
    if process.returncode:
        raise NotFetched(f"{arguments.name} could not be fetched: {said[-1] if said else 'nothing was said'}")
    place = Path(process.stdout.strip().splitlines()[-1])
    if not place.is_relative_to(cache):
        raise NotFetched(f"{arguments.name} was put outside the cache: {place}")
    return place


def _entries(cache: Path) -> list[dict[str, Any]]:
    found = []
    for record in sorted((cache / _RECORDS).glob("*.json")):
        entry = json.loads(record.read_text())
        if (cache / entry["place"]).is_dir():
            found.append(entry)
    return found


def _write(cache: Path, name: str, entry: dict[str, Any]) -> None:
    records = cache / _RECORDS
    records.mkdir(mode=0o755, exist_ok=True)
    aside = records / f".{name}.{os.getpid()}"
    aside.write_text(json.dumps(entry))
    aside.chmod(0o644)
    aside.rename(records / f"{name}.json")


def _size(place: Path) -> int:
    return sum(path.lstat().st_size for path in place.rglob("*") if not path.is_dir() or path.is_symlink())


def _become_owner(cache: Path) -> None:
    """What the network sends is not handled by root, and what root would make, the cache's owner could not change."""
    try:
        owner = cache.stat()
    except FileNotFoundError:
        raise NotAllowed(f"There is no {cache} yet: scd makes it when it starts.") from None
    if os.geteuid() == 0 != owner.st_uid:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    if not os.access(cache, os.W_OK):
        raise NotAllowed(f"{cache} cannot be written by this account. Use root's, or that of its owner.")
