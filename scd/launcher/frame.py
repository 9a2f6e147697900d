"""A job's directory as ``scd-launcher`` sees it: a frame of scd's, and in it four directories of an account.

::

    <job_hash>/            scd         0711   nobody but scd puts anything here, or takes it away
              /upload/     scd         0711   its files: account, 0640, group scd
              /work/       account     0700
              /tmp/        account     0700
              /control/    account     2750   group scd: the daemon reads the journal and speaks to the shim
              /archives/   account     2770   group scd: the daemon reads them, and removes snapshots

Everything is reached step by step through descriptors, and no step is a link.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ..archive import remove_tree
from ..spool import disk_usage
from .accounts import Account, Refused, acting_as
from .wipe import wipe_control

WORK, TMP, CONTROL, ARCHIVES = "work", "tmp", "control", "archives"
OWN = {WORK: 0o700, TMP: 0o700, CONTROL: 0o2750, ARCHIVES: 0o2770}
_UPLOADED = re.compile(r"manifest-[0-9]{1,9}\.json|import(-[0-9]{1,9})?\.tar\.gz")
_UPLOAD_MODE = 0o640
STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def steps_to(job_hash: str) -> tuple[str, ...]:
    return "jobs", job_hash[:2], job_hash


@contextlib.contextmanager
def opened(spool: Path, steps: tuple[str, ...], scd: Account) -> Iterator[int]:
    """A descriptor of a frame, which is scd's as are all directories that lead to it. Raises Refused."""
    fd = os.open(spool, STEP)
    try:
        for step in steps:
            try:
                inner = os.open(step, STEP, dir_fd=fd)
            except (FileNotFoundError, NotADirectoryError):
                raise Refused("there is no such directory") from None
            os.close(fd)
            fd = inner
            if os.fstat(fd).st_uid != scd.uid:
                raise Refused("the directory is not scd's")
        yield fd
    finally:
        os.close(fd)


def owner_of(frame: int, name: str = WORK) -> int | None:
    """The uid that has one of a frame's directories, None if it is not there. Raises Refused."""
    try:
        status = os.stat(name, dir_fd=frame, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"{name} is not a directory")
    return status.st_uid


def identity(frame: int, name: str) -> tuple[int, int]:
    """Device and inode of one of a frame's directories: what a path to it may not tell."""
    status = os.stat(name, dir_fd=frame, follow_symlinks=False)
    return status.st_dev, status.st_ino


def give(spool: Path, steps: tuple[str, ...], account: Account, scd: Account) -> None:
    """Make a frame's directories and uploads the account's; what is his already stays as it is.

    Root needs to be no more than the one who gives: everything is opened with scd's rights, and only what is scd's own,
    and no second name of something else, changes hands. Raises Refused, and then nothing has changed hands.
    """
    with contextlib.ExitStack() as stack:
        given: list[int] = []
        with acting_as(scd):
            frame = stack.enter_context(opened(spool, steps, scd))
            for name, mode in OWN.items():
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=frame)
                if (fd := _take(frame, name, account, scd, stack)) is not None:
                    if not stat.S_ISDIR(os.fstat(fd).st_mode) or os.listdir(fd):
                        raise Refused("the job was made before jobs had accounts: submit it again")
                    _set(fd, mode, scd)
                    given.append(fd)
            upload = os.open("upload", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=frame)
            stack.callback(os.close, upload)
            for name in filter(_UPLOADED.fullmatch, os.listdir(upload)):
                if (fd := _take(upload, name, account, scd, stack)) is not None:
                    status = os.fstat(fd)
                    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                        raise Refused(f"{name} is not a plain file")
                    _set(fd, _UPLOAD_MODE, scd)
                    given.append(fd)
        for fd in given:
            try:
                os.fchown(fd, account.uid, -1)
            except PermissionError:
                raise Refused(
                    f"scd-launcher may not change owners in {spool}. If that is NFS, the server must export it to this "
                    "machine, and only to this, with no_root_squash"
                ) from None


def _set(fd: int, mode: int, scd: Account) -> None:
    """The group first: the kernel takes its bit away from a directory of a group that is not the caller's."""
    os.fchown(fd, -1, scd.gid)
    os.fchmod(fd, mode)


def _take(directory: int, name: str, account: Account, scd: Account, stack: contextlib.ExitStack) -> int | None:
    """A descriptor of what is scd's, None for what is the account's already. Raises Refused for all others."""
    uid = os.stat(name, dir_fd=directory, follow_symlinks=False).st_uid
    if uid == account.uid:
        return None
    if uid != scd.uid:
        raise Refused(f"{name} is another account's: a job stays with the account that it began with")
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise Refused(f"{name}: {error.strerror}") from None
    stack.callback(os.close, fd)
    if os.fstat(fd).st_uid != scd.uid:
        raise Refused(f"{name} changed hands meanwhile")
    return fd


def empty(frame: int) -> None:
    """Remove all that lies in the frame's directories. The caller has become their owner."""
    for name in OWN:
        _empty(frame, name)


def wipe(frame: int) -> None:
    """As ``wipe.wipe``. The caller has become the owner of the frame's directories."""
    for name in (WORK, TMP):
        _empty(frame, name)
    with inside(frame, CONTROL) as there:
        if there:
            wipe_control(Path())


def _empty(frame: int, name: str) -> None:
    with inside(frame, name) as there:
        for entry in list(os.scandir(".")) if there else []:
            if entry.is_dir(follow_symlinks=False):
                remove_tree(Path(entry.name))
            else:
                os.unlink(entry.name)


def size(frame: int) -> int:
    """Bytes on the disk of what lies in the frame's directories, but for ``tmp``. The caller has become their owner."""
    total = 0
    for name in OWN:
        with inside(frame, name) as there:
            if there and name != TMP:
                total += disk_usage(Path())
    return total


@contextlib.contextmanager
def inside(frame: int, name: str) -> Iterator[bool]:
    """Stand in one of the frame's directories, whatever a job did to its mode; whether it is there."""
    try:
        fd = os.open(name, STEP, dir_fd=frame)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            yield False
            return
        if os.fstat(fd).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
        os.fchdir(fd)
        yield True
    finally:
        os.chdir("/")
        os.close(fd)
