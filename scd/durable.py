"""Files that last: what these functions did is on the disk when they return. Standard library only."""

import errno
import os
import stat
from pathlib import Path


def fsync(path: Path) -> None:
    """A file's content, or a directory's entries."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_plain(path: Path) -> int:
    """A descriptor to read a file that another account may have put there: neither through a link nor of a pipe.

    Raises FileNotFoundError also for what is no plain file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise FileNotFoundError(error.errno, "not a plain file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "not a plain file", str(path))
    return fd


def adopt(path: Path) -> None:
    """Give a file that root has made to the owner of its directory, who could not use it otherwise."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def replace(aside: Path, target: Path) -> None:
    """Give a finished file its name in place of what has it now."""
    fsync(aside)
    aside.rename(target)
    fsync(target.parent)
