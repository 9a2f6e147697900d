"""An administrator's order to take no new jobs. It is a file in the state directory, so that it outlives a restart."""

import contextlib
from pathlib import Path

from .config import Settings
from .durable import fsync, replace

_NAME = "drain"
_UNSAID = "the administrator has stopped it"


class Drain:
    """All but ``reason`` blocks: call it from a thread."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._path = Path(settings.config.paths.state) / _NAME
        self._ordered = ""

    def load(self) -> None:
        """An order that was given before the last stop is in force again."""
        with contextlib.suppress(FileNotFoundError):
            self._ordered = self._path.read_text(errors="replace").strip() or _UNSAID

    def reason(self) -> str:
        """Why no new jobs are taken, "" if they are."""
        return self._ordered or self._settings.config.server.drain

    def order(self, reason: str) -> None:
        """In force, and on the disk, when this returns. Raises OSError."""
        reason = reason.strip() or _UNSAID
        aside = self._path.with_name(f"{_NAME}.new")
        aside.write_text(f"{reason}\n")
        replace(aside, self._path)
        self._ordered = reason

    def end(self) -> None:
        """Only of what was ordered: what the configuration says stays in force. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
            fsync(self._path.parent)
        self._ordered = ""
