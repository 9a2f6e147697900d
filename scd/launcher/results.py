"""Archive files: opened by the shim outside the job's reach, filled by the runner, published here. Standard library."""

import contextlib
import errno
import os
from pathlib import Path

from ..channel import Message
from ..durable import replace

# The daemon may write in the directory too: what it would let a link lead to is the job's account's.
_NEW = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def open_archive(directory: Path, name: str) -> int:
    """A descriptor to fill, of a file that has not its final name yet."""
    return os.open(_aside(directory, name), _NEW, 0o640)


def publish(directory: Path, name: str) -> str | None:
    """Give a filled archive its name, durably; None if it was never filled. Raises OSError."""
    aside = _aside(directory, name)
    if not aside.stat().st_size:
        aside.unlink()
        return None
    replace(aside, directory / name)
    return name


def discard(directory: Path, name: str) -> None:
    """Drop an archive that was not finished: it must neither be served nor fill the disk."""
    with contextlib.suppress(OSError):
        _aside(directory, name).unlink()


def keep(directory: Path, name: str, message: Message) -> str | None:
    """An archive that the runner says is finished, published; None for any other. Raises OSError."""
    if message.get("archived"):
        return publish(directory, name)
    discard(directory, name)
    return None


def settle(directory: Path, name: str, message: Message) -> tuple[str | None, Message]:
    """Publish what a node that ended has left, or drop it: the archive, and the runner's message as it is then true."""
    try:
        return keep(directory, name, message), message
    except OSError as error:  # a success whose results nobody can have is none
        discard(directory, name)
        reason = f"its results could not be kept: {error.strerror}"
        kept = {key: value for key, value in message.items() if key != "plan"}
        return None, {**kept, "state": "error", "reason": reason}


def _aside(directory: Path, name: str) -> Path:
    """Names come from the daemon, which may have another account: they lead nowhere else. Raises OSError."""
    if "/" in name:
        raise OSError(errno.EINVAL, "not a file name", name)
    return directory / f".{name}"
