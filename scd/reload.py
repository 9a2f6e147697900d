"""Taking a changed configuration while scd runs: all of it or nothing."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from .config import Config, Settings
from .errors import ConfigError

log = logging.getLogger(__name__)


class Reload:
    """Called by SIGHUP and by ``scdctl reload``.

    ``first`` takes each new configuration before all others, and may refuse it by ConfigError; it blocks. ``heirs`` are
    told then, and must not fail.
    """

    def __init__(self, settings: Settings, first: Callable[[Config], object], *heirs: Callable[[Config], object]):
        self._settings = settings
        self._first = first
        self._heirs = heirs
        self._lock = asyncio.Lock()
        self._hangup: asyncio.Task[None] | None = None

    def on_hangup(self) -> None:
        """SIGHUP: what is wrong is in the log."""
        self._hangup = asyncio.create_task(self._obey())

    async def _obey(self) -> None:
        with contextlib.suppress(ConfigError):
            await self()

    async def __call__(self) -> tuple[str, ...]:
        """The keys whose new values wait for a restart. Raises ConfigError; then nothing has changed."""
        async with self._lock:
            try:
                reading = await asyncio.to_thread(self._settings.read)
                await asyncio.to_thread(self._first, reading.config)
            except ConfigError as error:
                log.error("the configuration is not reloaded, the old one stays in force: %s", error)
                raise
            self._settings.take(reading)
            for heir in self._heirs:
                heir(reading.config)
        log.info("the configuration is reloaded%s", "".join(f"; {key} waits for a restart" for key in reading.waiting))
        return reading.waiting
