"""Paths that lead where they led, whatever is renamed above. Standard library only.

Where jobs have accounts the daemon, whose are the directories around those of the job, is not trusted by the job's
account: it could put a link there to the account's own files, and have a shim or a batch job write to them.
"""

import contextlib
import errno
import os
from pathlib import Path

_CONTROL_FD, _ARCHIVES_FD = 100, 101


def hold(stack: contextlib.ExitStack, directory: Path, inode: int | None) -> Path:
    """A path to a directory as long as ``stack`` is open. Raises OSError.

    ``inode`` is what ``scd-launcher`` saw there when it submitted, as the job's account, which alone can have it then.
    Devices differ from machine to machine.
    """
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    status = os.fstat(fd)
    if inode is not None and (status.st_ino, status.st_uid) != (inode, os.geteuid()):
        raise OSError(errno.ESTALE, "another directory is there", str(directory))
    return Path(f"/proc/self/fd/{fd}")


def pin(control: int, archives: int) -> tuple[Path, Path]:
    """Paths to the directories of two descriptors, which are the same for every shim."""
    for given, fixed in ((control, _CONTROL_FD), (archives, _ARCHIVES_FD)):
        os.dup2(given, fixed, inheritable=False)
        os.close(given)
    return Path(f"/proc/self/fd/{_CONTROL_FD}"), Path(f"/proc/self/fd/{_ARCHIVES_FD}")
