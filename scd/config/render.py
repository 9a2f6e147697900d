"""The configuration in force as TOML, for ``scd --show-config``."""

from collections.abc import Mapping
from typing import Any

import msgspec

from ..units import UNLIMITED, format_duration, format_size, parse_duration, parse_size
from .sections import Config, Duration, Section, Size


def render(config: Config) -> str:
    """Secrets are left out."""
    lines: list[str] = []
    _render_table("", _plain(config), lines)
    return "\n".join(lines).strip() + "\n"


def _plain(value: object) -> Any:
    if isinstance(value, Section):
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
        text = format_size(value)
        return f'"{text}"' if parse_size(text) == value else str(int(value))
    if isinstance(value, Duration):
        text = format_duration(value)
        return f'"{text}"' if parse_duration(text) == value else str(float(value))
    return msgspec.json.encode(value).decode()
