"""This machine: paths, limits, what jobs see of it, and [[runtime]]."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from ..sections import Config, SharedLimits

_MOST_RETRIES = 10
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_VARIABLES = frozenset({"PATH", "HOME", "TMPDIR", "USER", "LOGNAME"})


def paths(config: Config) -> Iterator[tuple[str, str]]:
    for name in ("state", "spool", "cache"):
        if not os.path.isabs(getattr(config.paths, name)):
            yield f"paths.{name}", "must be an absolute path"


def numbers(config: Config) -> Iterator[tuple[str, str]]:
    if config.local.cores < 0:
        yield "local.cores", "must be 0 (all cores) or more"
    if not 0 <= config.dispatch.retries <= _MOST_RETRIES:
        yield "dispatch.retries", f"must be 0 to {_MOST_RETRIES}"
    own = {f"users.{name}.limits": user.limits for name, user in config.users.items()}
    for table, limits in {"limits": config.limits, **own}.items():
        yield from _limits(table, limits.shared)
        if (limits.max_nodes or 0) < 0:
            yield f"{table}.max_nodes", 'must be 0 or more, or "unlimited"'
    for name, group in config.groups.items():
        yield from _limits(f"groups.{name}.limits", group.limits)


def _limits(table: str, limits: SharedLimits) -> Iterator[tuple[str, str]]:
    for key in ("max_jobs", "max_running_nodes"):
        if (getattr(limits, key) or 0) < 0:
            yield f"{table}.{key}", 'must be 0 or more, or "unlimited"'
    if limits.max_running_nodes == 0:
        yield f"{table}.max_running_nodes", "is 0: no job could ever end. To stop new jobs, set max_jobs = 0"
    if limits.period < 1:
        yield f"{table}.period", "must be a second or more"


def isolation(config: Config) -> Iterator[tuple[str, str]]:
    if config.local.processes < 0:
        yield "local.processes", "must be 0 (no limit of the job's own) or more"
    for path in config.local.readonly:
        if not os.path.isabs(path):
            yield "local.readonly", f"{path!r} is not an absolute path"
        elif not os.path.exists(path):
            yield "local.readonly", f"{path} is not there"


def runtimes(config: Config) -> Iterator[tuple[str, str]]:
    if len({runtime.name for runtime in config.runtime}) < len(config.runtime):
        yield "runtime", "two runtimes have the same name"
    for source in config.packages.sources:
        if not re.fullmatch(r"[a-z][a-z0-9+]*://(.*/)?", source):
            yield (
                "packages.sources",
                f"{source!r} is not the beginning of sources, as https://github.com/, up to a slash",
            )
    for runtime in config.runtime:
        if not Path(runtime.python).is_file() or not os.access(runtime.python, os.X_OK):
            yield "runtime", f"{runtime.python} is not a program. {_how_to_make(Path(runtime.python))}"
        try:
            SpecifierSet(runtime.accepts)
        except InvalidSpecifier:
            yield "runtime", f'accepts: {runtime.accepts!r} is not written as pip does: ">=0.54, <0.57"'
        for path in runtime.path:
            if not os.path.isabs(path) or ":" in path:
                yield "runtime", f"path: {path!r} is not an absolute path without colons"
        for name in runtime.env:
            if not _VARIABLE.fullmatch(name):
                yield "runtime", f"env: {name!r} is not the name of a variable"
            elif name in _OWN_VARIABLES:
                yield "runtime", f"env: {name} is scd's own" + (", and path adds to it" if name == "PATH" else "")


def _how_to_make(python: Path) -> str:
    """The commands for one that lies as in a virtual environment."""
    instead = "ame the Python that has SiliconCompiler"
    if python.parent.name != "bin" or not python.is_absolute():
        return f"N{instead}"
    place = shlex.quote(str(python.parents[1]))
    return f"Make it: python3 -m venv {place} && {place}/bin/pip install siliconcompiler; or n{instead}"
