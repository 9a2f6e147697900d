"""The configuration: TOML files to frozen values, every mistake named by file, key and reason."""

import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .errors import ConfigError
from .units import UNLIMITED, format_duration, format_size, parse_duration, parse_size

DEFAULT_FILE = Path("/etc/scd/scd.toml")
CONF_D = "conf.d"


class Size(int):
    """Bytes."""


class Duration(float):
    """Seconds."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class PreUpload(_Section, frozen=True):
    message: str
    delay: Duration = Duration(0)


class Server(_Section, frozen=True):
    listen: tuple[str, ...] = ()
    user: str = ""
    hosts: tuple[str, ...] = ()
    terms: str = ""
    terms_file: str = ""
    drain: str = ""
    pre_upload: PreUpload | None = None
    progress_interval: int = 0
    max_upload: Size = Size(8 * 2**30)
    max_manifest: Size = Size(128 * 2**20)
    max_unpacked: Size = Size(64 * 2**30)


class Paths(_Section, frozen=True):
    state: str = ""
    spool: str = ""
    cache: str = ""


class Runtime(_Section, frozen=True):
    python: str
    name: str = "default"


class Auth(_Section, frozen=True):
    required: bool | None = None


class Local(_Section, frozen=True):
    cores: int = 0


class Limits(_Section, frozen=True):
    """None is unlimited."""

    max_nodes: int | None = 200
    compute_time: Duration | None = Duration(100 * 3600)
    bandwidth: Size | None = Size(20 * 2**30)
    max_result: Size | None = None
    max_jobs: int | None = 20
    period: Duration = Duration(30 * 86400)


class User(_Section, frozen=True):
    password_hash: str
    limits: Limits = Limits()


class Config(_Section, frozen=True):
    server: Server = Server()
    paths: Paths = Paths()
    runtime: tuple[Runtime, ...] = ()
    auth: Auth = Auth()
    local: Local = Local()
    limits: Limits = Limits()
    users: dict[str, User] = {}

    @property
    def auth_required(self) -> bool:
        return bool(self.users) if self.auth.required is None else self.auth.required

    @property
    def cores(self) -> int:
        return self.local.cores or len(os.sched_getaffinity(0))

    @property
    def terms(self) -> str:
        return Path(self.server.terms_file).read_text() if self.server.terms_file else self.server.terms

    @property
    def database(self) -> Path:
        return Path(self.paths.state) / "scd.db"

    @property
    def unix_sockets(self) -> list[str]:
        return [address.removeprefix("unix:") for address in self.server.listen if address.startswith("unix:")]

    @property
    def tcp_addresses(self) -> list[tuple[str, int]]:
        return [split_address(address) for address in self.server.listen if not address.startswith("unix:")]

    def limits_of(self, user: str) -> Limits:
        return self.users[user].limits if user in self.users else self.limits


def load(file: Path | None = None) -> Config:
    """The configuration in ``file``, or in the default files, or without any file that of a lab box.

    Raises ConfigError.
    """
    if file is not None and not file.exists():
        raise ConfigError(f"{file}: there is no such file")
    main = file or DEFAULT_FILE
    files = [main, *sorted((main.parent / CONF_D).glob("*.toml"))] if main.exists() else []
    merged: dict[str, Any] = {}
    origins: dict[str, Path] = {}
    for path in files:
        _merge(merged, _read(path), origins, path)
    _spread_limits(merged)
    try:
        config = msgspec.convert(merged, Config, dec_hook=_decode_unit)
    except msgspec.ValidationError as error:
        reason, _, location = str(error).partition(" - at `$")
        raise ConfigError(_explain(reason, location.strip("`."), merged, origins, main)) from None
    config = _with_defaults(config, merged, system=bool(files) or os.geteuid() == 0)
    _check(config, origins, main)
    return config


def split_address(address: str) -> tuple[str, int]:
    """``("127.0.0.1", 8080)`` of ``127.0.0.1:8080`` or ``[::1]:8080``. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or not host:
        raise ValueError(f"not an address: {address!r} (write it as 127.0.0.1:8080, [::1]:8080 or unix:/path)")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def render(config: Config) -> str:
    """The configuration in force as TOML, secrets left out."""
    lines: list[str] = []
    _render_table("", _plain(config), lines)
    return "\n".join(lines).strip() + "\n"


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
    """A user's limits are those of everybody, overridden key by key; "unlimited" becomes None."""
    shared = merged.get("limits", {})
    if not isinstance(shared, dict):
        return
    shared = {key: None if value == UNLIMITED else value for key, value in shared.items()}
    merged["limits"] = shared
    users = merged.get("users")
    for user in users.values() if isinstance(users, dict) else []:
        own = user.get("limits", {}) if isinstance(user, dict) else None
        if isinstance(own, dict):
            user["limits"] = shared | {key: None if value == UNLIMITED else value for key, value in own.items()}


def _decode_unit(kind: type, value: object) -> object:
    if kind not in (Size, Duration):
        raise NotImplementedError
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return kind(value)
    if not isinstance(value, str):
        raise ValueError(f"Expected a {kind.__name__.lower()}, got {value!r}")
    return Size(parse_size(value)) if kind is Size else Duration(parse_duration(value))


def _explain(reason: str, location: str, merged: Mapping[str, Any], origins: Mapping[str, Path], main: Path) -> str:
    """msgspec names the place of a table's value as ``[...]`` and an unknown key only in the reason."""
    marker = "Object contains unknown field `"
    if reason.startswith(marker):
        unknown = reason.removeprefix(marker).removesuffix("`")
        candidates = [key for key in origins if key.rpartition(".")[2] == unknown]
        prefix = location.partition("[")[0]
        key = next((key for key in candidates if key.startswith(prefix)), f"{prefix}.{unknown}".strip("."))
        return f"{origins.get(key, main)}: {key}: there is no such key (scd.toml(5) lists them)"
    key = location
    if "[...]" in key:
        table = key.partition("[")[0]
        inner = key.partition("].")[2]
        names = [name for name in origins if name.startswith(f"{table}.") and name.endswith(inner) and name != table]
        key = names[0] if len(names) == 1 else f"{table}.*.{inner}".removesuffix(".")
    return f"{origins.get(key, origins.get(key.partition('.')[0], main))}: {key or 'top level'}: {reason}"


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
        paths=Paths(state=state, spool=config.paths.spool or f"{state}/spool", cache=cache),
        server=msgspec.structs.replace(
            config.server, listen=config.server.listen or ("127.0.0.1:8080", f"unix:{socket}")
        ),
        runtime=config.runtime or (Runtime(python=sys.executable),),
        auth=Auth(required=config.auth_required),
    )
    if not config.auth_required:  # a lab box counts nothing unless it is told to
        told = merged.get("limits", {})
        free = {key: None for key in ("compute_time", "bandwidth", "max_jobs") if key not in told}
        config = msgspec.structs.replace(config, limits=msgspec.structs.replace(config.limits, **free))
    return config


def _check(config: Config, origins: Mapping[str, Path], main: Path) -> None:
    def fail(key: str, reason: str) -> None:
        raise ConfigError(f"{origins.get(key, main)}: {key}: {reason}")

    for address in config.server.listen:
        if address.startswith("unix:"):
            if not address.removeprefix("unix:").startswith("/"):
                fail("server.listen", f"{address!r} needs an absolute path")
            continue
        try:
            host, _ = split_address(address)
        except ValueError as error:
            fail("server.listen", str(error))
        if not config.auth_required and not is_loopback(host):
            fail(
                "server.listen",
                f"{address!r} is open to other machines, and nobody has to log in. "
                "Add [users.NAME] with a password_hash (and [auth] required = true), or listen on 127.0.0.1 only",
            )
    if not 0 <= config.server.progress_interval <= 60:
        fail("server.progress_interval", "must be 0 to 60 seconds")
    if config.auth_required and not config.users:
        fail("auth.required", "is true, but there is no [users.NAME]")
    for name, user in config.users.items():
        if not user.password_hash.startswith("$argon2"):
            fail(f"users.{name}.password_hash", "is not an argon2 hash (make one with: scdctl hash-password)")
    for name in ("state", "spool", "cache"):
        if not os.path.isabs(getattr(config.paths, name)):
            fail(f"paths.{name}", "must be an absolute path")
    if config.server.terms_file and not os.access(config.server.terms_file, os.R_OK):
        fail("server.terms_file", f"{config.server.terms_file} cannot be read")
    if len({runtime.name for runtime in config.runtime}) < len(config.runtime):
        fail("runtime", "two runtimes have the same name")
    for runtime in config.runtime:
        if not os.access(runtime.python, os.X_OK):
            fail("runtime", f"{runtime.python} is not a program (name the Python that has siliconcompiler)")


def _plain(value: object) -> Any:
    if isinstance(value, _Section):
        return {key: _plain(item) for key, item in msgspec.structs.asdict(value).items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _render_table(prefix: str, table: Mapping[str, Any], lines: list[str]) -> None:
    inner: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            inner.append((key, value))
        elif value is not None or prefix.endswith("limits."):
            lines.append(f"{key} = {_render_value(key, value)}")
    for key, value in inner:
        for item in value if isinstance(value, list) else [value]:
            name = f"{prefix}{key}"
            lines.append("")
            lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
            _render_table(f"{name}.", item, lines)


def _render_value(key: str, value: object) -> str:
    if key == "password_hash":
        return '"(set)"'
    if value is None:
        return f'"{UNLIMITED}"'
    if isinstance(value, Size):
        return f'"{format_size(value)}"'
    if isinstance(value, Duration):
        return f'"{format_duration(value)}"'
    return msgspec.json.encode(value).decode()
