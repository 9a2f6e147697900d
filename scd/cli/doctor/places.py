"""Directories, the disks below them, and who may read and write there."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ...config import DEFAULT_FILE, Config, files_of
from ...store import NETWORK_FILE_SYSTEMS, file_system
from ...units import format_size
from .account import account_of
from .finding import Finding, bad, good, note

_FEW_INODES = 0.05  # of all
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_disks(config: Config) -> Iterator[Finding]:
    """Free space and inodes, and file systems that do not fit."""
    seen: set[int] = set()
    for name, place in _directories(config):
        path = _nearest(Path(place))
        kind = file_system(path)
        if name == "state" and kind in NETWORK_FILE_SYSTEMS:
            yield bad("disk", f"The database's directory {place} is on a network file system ({kind}).",
                      "set [paths] state to a directory on a local disk")  # fmt: skip
        elif kind in ("tmpfs", "ramfs"):
            yield note("disk", f"{place} is in memory ({kind}): what lies there does not outlive a reboot.")
        disk = os.stat(path).st_dev
        if disk not in seen:
            seen.add(disk)
            yield from _space(config, place, path, kind)


def _space(config: Config, place: str, path: Path, kind: str) -> Iterator[Finding]:
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    text = f"{format_size(free)} are free on the disk of {place} ({kind})"
    if free < config.paths.min_free:
        yield bad("disk", f"{text}, less than [paths] min_free, {format_size(config.paths.min_free)}: no job is taken.",
                  "shorten [limits] retention, or delete jobs: scdctl jobs -o job_hash,user,disk")  # fmt: skip
    else:
        yield good("disk", f"{text}.")
    if disk.f_files and disk.f_favail < disk.f_files * _FEW_INODES:
        yield bad("disk", f"The disk of {place} has {disk.f_favail} inodes left, of {disk.f_files}.",
                  f"look for many small files: du --inodes -x {path} | sort -n | tail")  # fmt: skip


def check_permissions(config: Config, file: Path | None) -> Iterator[Finding]:
    """Owners and modes: what others may write they can take over, what they may read holds hashes and results."""
    found = [*_directory_permissions(config), *_file_permissions(config, file or DEFAULT_FILE), *_sockets(config)]
    yield from found or [good("permissions", "Owners and modes of directories, database and configuration are right.")]


def _directory_permissions(config: Config) -> Iterator[Finding]:
    account = account_of(config)
    for name, place in _directories(config):
        try:
            status = os.stat(place)
        except FileNotFoundError:
            yield note("permissions", f"There is no {place} yet; scd makes it at its start.")
            continue
        if account is not None and status.st_uid not in (account.pw_uid, *([0] if name == "cache" else [])):
            yield bad("permissions", f"{place} does not belong to {account.pw_name}.",
                      f"chown -R {account.pw_name}: {place}")  # fmt: skip
        if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
            yield bad("permissions", f"{place} can be written by others.", f"chmod go-w {place}")
        if name != "cache" and config.has_accounts and not status.st_mode & stat.S_IXOTH:
            yield bad("permissions", f"Jobs with accounts of their own do not get through {place}.",
                      f"chmod 0711 {place}")  # fmt: skip


def _file_permissions(config: Config, main: Path) -> Iterator[Finding]:
    private = [config.database] if config.database.exists() else []
    for path in private:
        if path.stat().st_mode & 0o077:
            yield bad("permissions", f"{path} can be read by others.", f"chmod 0600 {path}")
    for path in files_of(main):
        mode = path.stat().st_mode
        if mode & _OTHERS_WRITE:
            yield bad("permissions", f"{path} can be written by others.", f"chmod go-w {path}")
        if mode & stat.S_IROTH and "password_hash" in path.read_text(errors="replace"):
            group = account.pw_name if (account := account_of(config)) else "scd"
            yield bad("permissions", f"{path} can be read by everybody, password hashes included.",
                      f"chown root:{group} {path} && chmod 0640 {path}")  # fmt: skip


def _sockets(config: Config) -> Iterator[Finding]:
    for place in config.unix_sockets:
        directory = Path(place).parent
        if not directory.is_dir():
            continue
        status = directory.stat()
        account = account_of(config)
        if status.st_uid not in (0, account.pw_uid if account else 0) or status.st_mode & _OTHERS_WRITE:
            owner = account.pw_name if account else "root"
            yield bad("permissions", f"Others can put a socket of their own in {directory}.",
                      f"chown {owner}: {directory} && chmod 0755 {directory}")  # fmt: skip


def _directories(config: Config) -> list[tuple[str, str]]:
    return [("state", config.paths.state), ("spool", config.paths.spool), ("cache", config.paths.cache)]


def _nearest(path: Path) -> Path:
    """The directory itself, or the one in which it will be made."""
    return next(one for one in (path, *path.parents) if one.is_dir())
