"""Files that last: what these functions did is on the disk when they return. Standard library only."""

import os
from pathlib import Path


def fsync(path: Path) -> None:
    """A file's content, or a directory's entries."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
