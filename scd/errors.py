"""What can go wrong, as a user is told it. A class's docstring is its default message."""

import math


class ScdError(Exception):
    """scd failed."""

    http_status = 500
    exit_code = 1
    retry_after: int | None = None  # seconds, if the same request may succeed then

    def __init__(self, message: str | None = None):
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])

    @property
    def message(self) -> str:
        return str(self.args[0])


class ConfigError(ScdError):
    """The configuration is not valid."""

    exit_code = 78


class BadRequest(ScdError):
    """The request is not valid."""

    http_status = 400


class LimitReached(BadRequest):
    """A limit of this account is reached."""


class Forbidden(ScdError):
    """This request is not allowed."""

    http_status = 403


class Unauthorized(Forbidden):
    """Wrong user name or key."""


class TooManyFailures(ScdError):
    """Too many failed logins."""

    http_status = 429

    def __init__(self, wait: float):
        self.retry_after = max(1, math.ceil(wait))
        super().__init__(f"Too many failed logins. Try again in {self.retry_after} s.")


class Busy(ScdError):
    """Too many logins are being checked at the moment. Try again."""

    http_status = 503
    retry_after = 5


class NotOwner(Forbidden):
    """This job belongs to another user."""


class TooManyNodes(Forbidden):
    """Too many nodes in flowgraph."""


class UnknownJob(ScdError):
    """There is no such job here."""

    http_status = 404


class NotRunning(ScdError):
    """The job is not running."""

    http_status = 404


class NoResults(ScdError):
    """There are no results for this job or node."""

    http_status = 404


class TooLarge(ScdError):
    """The request is too large."""

    http_status = 413


class ResultTooLarge(ScdError):
    """The results are over the download limit."""

    http_status = 503


class Unavailable(ScdError):
    """The server takes no new jobs at the moment."""

    http_status = 503


class DiskFull(ScdError):
    """The server's disk is full; nothing was kept of this request."""

    http_status = 507


class DatabaseError(ScdError):
    """The database cannot be used."""


class StateLocked(ScdError):
    """Another scd uses this state directory."""


class Outdated(ScdError):
    """The database is not as what was decided takes it to be."""
