"""Logging: one line an event, to standard error, with no way for a client's text to forge another."""

import logging
import sys
import time

from .systemd import under_journal

# sd-daemon(3): <priority> in front of a line sets its level in the journal.
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


_MINUTE = 60.0
_MOST_A_MINUTE = 20


class LineFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if text.isprintable():
            return text
        return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class JournalFormatter(LineFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 6)}>{super().format(record)}"


class Repeats(logging.Filter):
    """What goes wrong again and again is logged some times a minute, and counted: no attack fills the log."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # by place in the code: since when, how often

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        place, now = (record.pathname, record.lineno), time.monotonic()
        since, count = self._seen.get(place, (now, 0))
        if now - since > _MINUTE:
            if count > _MOST_A_MINUTE:
                record.msg, record.args = "%s (%d more like it were not logged)", (
                    record.getMessage(), count - _MOST_A_MINUTE,
                )  # fmt: skip
            since, count = now, 0
        self._seen[place] = since, count + 1
        return count < _MOST_A_MINUTE


def set_up(level: int = logging.INFO) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if under_journal():
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ"))
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # What these warn of is what a stranger sent, a line each time; he is told it, the log needs none of it.
    for name in ("uvicorn", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)
