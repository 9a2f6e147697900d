"""TOML files to a Config, every mistake named by file, key and reason."""

import math
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ConfigError
from ..units import UNLIMITED, parse_duration, parse_size
from .check import check
from .sections import Config, Duration, Runtime, Size

DEFAULT_FILE = Path("/etc/scd/scd.toml")
CONF_D = "conf.d"
_COUNTED = ("compute_time", "bandwidth", "max_jobs", "max_running_nodes", "storage")


def load(file: Path | None = None) -> Config:
    """The configuration in ``file``, or in the default files, or without any file that of a lab box.

    Raises ConfigError.
    """
    main = file or DEFAULT_FILE
    try:
        files = files_of(main)
    except PermissionError as error:
        raise ConfigError(f"{error.filename}: cannot be read by this account") from None
    if file is not None and file not in files:
        raise ConfigError(f"{file}: there is no such file")
    merged: dict[str, Any] = {}
    origins: dict[str, Path] = {}
    for path in files:
        _merge(merged, _read(path), origins, path)
    _spread_limits(merged)
    _write_out_licenses(merged, origins)
    try:
        if "limits" in merged:  # first: all users have them by now, and it is nobody's own mistake
            msgspec.convert({"limits": merged["limits"]}, Config, dec_hook=_decode_unit)
        config = msgspec.convert(merged, Config, dec_hook=_decode_unit)
    except msgspec.ValidationError as error:
        reason, _, location = str(error).partition(" - at `$")
        raise ConfigError(_explain(reason, location.strip("`."), origins, main)) from None
    config = _with_defaults(config, merged, system=bool(files) or os.geteuid() == 0)
    check(config, lambda key: _origin(key, origins) or main)
    return config


def files_of(main: Path) -> list[Path]:
    """The files that a configuration is read from, in their order."""
    return [path for path in (main, *sorted((main.parent / CONF_D).glob("*.toml"))) if path.exists()]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _merge(
    into: dict[str, Any], new: Mapping[str, Any], origins: dict[str, Path], path: Path, prefix: str = ""
) -> None:
    for key, value in new.items():
        where = f"{prefix}{key}"
        origins[where] = path
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, origins, path, f"{where}.")
        elif isinstance(value, dict):
            into[key] = {}
            _merge(into[key], value, origins, path, f"{where}.")
        elif isinstance(value, list) and isinstance(into.get(key), list):
            into[key] = into[key] + value
        else:
            into[key] = value


def _spread_limits(merged: dict[str, Any]) -> None:
    """A user's limits are those of everybody, overridden key by key; a group has the period alone of them."""
    shared = merged.get("limits", {})
    if not isinstance(shared, dict):
        return
    shared = merged["limits"] = _unlimited(shared)
    _inherit(merged.get("users"), shared)
    _inherit(merged.get("groups"), {key: value for key, value in shared.items() if key == "period"})


def _inherit(owners: object, shared: Mapping[str, Any]) -> None:
    for owner in owners.values() if isinstance(owners, dict) else []:
        own = owner.get("limits", {}) if isinstance(owner, dict) else None
        if isinstance(own, dict):
            owner["limits"] = {**shared, **_unlimited(own)}


def _unlimited(table: Mapping[str, Any]) -> dict[str, Any]:
    """``"unlimited"`` becomes None."""
    return {key: None if value == UNLIMITED else value for key, value in table.items()}


def _write_out_licenses(merged: dict[str, Any], origins: dict[str, Path]) -> None:
    """``vcs = 4`` becomes a table as the others, each with all its keys."""
    licenses = merged.get("licenses", {})
    for name, value in list(licenses.items()) if isinstance(licenses, dict) else []:
        if not isinstance(value, dict):
            origins[f"licenses.{name}.count"] = origins[f"licenses.{name}"]
        licenses[name] = {"tools": [name], "slurm": name} | (value if isinstance(value, dict) else {"count": value})


def _decode_unit(kind: type, value: object) -> object:
    """msgspec asks for the two types of a Config that it does not know, and for no others, whatever a file holds."""
    assert kind in (Size, Duration)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return kind(value)
    if not isinstance(value, str):
        raise ValueError(f"Expected a {kind.__name__.lower()}, got {value!r}")
    return Size(parse_size(value)) if kind is Size else Duration(parse_duration(value))


def _explain(reason: str, location: str, origins: Mapping[str, Path], main: Path) -> str:
    """msgspec names the place of a table's value as ``[...]`` and an unknown key only in the reason."""
    marker = "Object contains unknown field `"
    if reason.startswith(marker):
        unknown = reason.removeprefix(marker).removesuffix("`")
        table, _, inner = location.partition("[...]")
        ending = f"{inner}.{unknown}"
        found = [key for key in origins if key.startswith(table) and f".{key}".endswith(ending)]
        key = min(found, key=lambda key: key.count("."), default=f"{location}.{unknown}".strip("."))
        return f"{_origin(key, origins) or main}: {key}: there is no such key (scd.toml(5) lists them)"
    key = location
    if "[...]" in key:
        table = key.partition("[")[0]
        inner = key.partition("].")[2]
        names = [name for name in origins if name.startswith(f"{table}.") and name.endswith(inner) and name != table]
        key = names[0] if len(names) == 1 else f"{table}.*.{inner}".removesuffix(".")
    return f"{_origin(key, origins) or main}: {key or 'top level'}: {reason}"


def _origin(key: str, origins: Mapping[str, Path]) -> Path | None:
    """The file that set ``key``, or the table or list around it."""
    while key and key not in origins:
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return origins.get(key)


def _with_defaults(config: Config, merged: Mapping[str, Any], *, system: bool) -> Config:
    """Fill in what depends on who runs scd and on the rest of the configuration."""
    home = Path.home()
    state = config.paths.state or (
        "/var/lib/scd" if system else str(Path(os.environ.get("XDG_STATE_HOME") or home / ".local/state") / "scd")
    )
    cache = config.paths.cache or (
        "/var/cache/scd" if system else str(Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "scd")
    )
    socket = "/run/scd/scd.sock" if system and not config.paths.state else f"{state}/scd.sock"
    config = msgspec.structs.replace(
        config,
        paths=msgspec.structs.replace(
            config.paths, state=state, spool=config.paths.spool or f"{state}/spool", cache=cache
        ),
        server=msgspec.structs.replace(
            config.server, listen=config.server.listen or ("127.0.0.1:8080", f"unix:{socket}")
        ),
        runtime=config.runtime or (Runtime(python=sys.executable),),
        auth=msgspec.structs.replace(config.auth, required=config.auth_required),
    )
    if not config.auth_required:  # a lab box counts nothing unless it is told to
        told = merged.get("limits", {})
        free = {key: None for key in _COUNTED if key not in told}
        config = msgspec.structs.replace(config, limits=msgspec.structs.replace(config.limits, **free))
    return config
