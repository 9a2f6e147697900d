"""One daemon a state directory, one a spool."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .config import Config
from .durable import adopt
from .errors import ConfigError, StateLocked

_FILE = "scd.lock"


@contextmanager
def locked(config: Config) -> Iterator[None]:
    """Hold the state directory and the spool for this process. Raises StateLocked, naming the other."""
    held = []
    try:
        for directory in dict.fromkeys((config.paths.state, config.paths.spool)):
            held.append(_lock(Path(directory)))  # noqa: PERF401 - what is held is let go if the next is not free
        yield
    finally:
        for fd in held:
            os.close(fd)


def _lock(directory: Path) -> int:
    try:
        fd = os.open(directory / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        adopt(directory / _FILE)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        raise StateLocked(f"{directory} is in use by another scd (pid {other or 'unknown'}).") from None
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError:  # a full disk is no reason not to start
        pass
    return fd
