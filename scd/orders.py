"""What a turn of the scheduler leads to: orders for the executors, or a job that the rest must not suffer from."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator

from .executors.base import Executor, Spec
from .live import LiveJob
from .states import NodeState

# What a job's own data can do to a turn; anything else is the database's or the machine's trouble.
_JOBS_OWN = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, TypeError, ValueError,
             ArithmeticError, LookupError)  # fmt: skip


class Orders:
    """What a turn decided, to be done after its commit."""

    def __init__(self) -> None:
        self.submit: list[tuple[Executor, Spec]] = []
        self.cancel: list[tuple[Executor, list[str], NodeState, str]] = []
        self.ended: list[LiveJob] = []
        self.log: list[str] = []
        self.counts: list[Callable[[], None]] = []  # for the metrics


class Broken(Exception):
    """Something about one job that the rest of the turn must not suffer from."""

    def __init__(self, live: LiveJob, error: Exception):
        super().__init__(f"scd cannot go on with this job: {type(error).__name__}: {error}")
        self.live = live


@contextlib.contextmanager
def blaming(live: LiveJob) -> Iterator[None]:
    """What a job's own data do in here ends that job, not the turn. Raises Broken."""
    try:
        yield
    except _JOBS_OWN as error:
        raise Broken(live, error) from error
