"""Templates to answers: all that is put into a page is escaped, and no browser does more with it than show it."""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from .. import __version__
from ..model import Job
from ..units import format_duration

_PLACE = Path(__file__).parent
# A page asks for nothing from elsewhere, holds no script and no style of its own, and stands in no other's frame.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PROTECTED = {
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer a browser says Origin: null of its own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Files:
    """Style, script and icon, read once. Their address changes with their content, so browsers keep them for ever."""

    def __init__(self) -> None:
        self._content = {path.name: path.read_bytes() for path in sorted((_PLACE / "static").iterdir())}
        self.digest = hashlib.sha256(b"".join(self._content.values())).hexdigest()[:12]

    def answer(self, digest: str, name: str) -> Response | None:
        if digest != self.digest or name not in self._content:
            return None
        headers = {**PROTECTED, "cache-control": "public, max-age=31536000, immutable"}
        return Response(self._content[name], media_type=_TYPES[Path(name).suffix], headers=headers)


class Templates:
    def __init__(self, root: str, files: Files):
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_PLACE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
            finalize=_finalize, trim_blocks=True, auto_reload=False,
        )  # fmt: skip
        self._environment.filters.update(
            rfc3339=_rfc3339, short_time=_short_time, took=_took, first_line=lambda text: text.partition("\n")[0]
        )
        self._environment.globals.update(
            version=__version__, root=root, static=f"{root}/static/{files.digest}", user="", can_log_in=False
        )

    def text(self, template: str, **values: object) -> str:
        return self._environment.get_template(template).render(**values)


def page(text: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(text, status, PROTECTED)


def token_field(token: str) -> Markup:
    return Markup('<input type="hidden" name="token" value="{}">').format(token)


def _finalize(value: object) -> object:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def plain(text: str) -> str:
    """Control characters written out: what a job says turns no line around and hides nothing."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def log_text(text: str) -> str:
    """A tool's output without its colours, and with plain line ends."""
    return plain(_COLOUR.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _short_time(at: float) -> str:
    """The server's local time."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _took(job: Job) -> str:
    """From its submission to its end."""
    return "" if job.ended is None else format_duration(job.ended - job.created)
