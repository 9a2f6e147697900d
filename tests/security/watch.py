"""A directory whose whole tree must stay as it is while something hostile happens within one part of it."""

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

Picture = dict[str, tuple[object, ...]]


class Watched(NamedTuple):
    """``target`` lies deep in ``root``, among canaries; nothing but its inside may change."""

    root: Path
    target: Path

    def picture(self) -> Picture:
        """Content, kind, owner, mode, time and number of links of all but the target's inside."""
        found: Picture = {}
        for parent, directories, files in os.walk(self.root):
            if Path(parent) == self.target:
                directories.clear()
                continue
            for name in (*directories, *files):
                path = os.path.join(parent, name)
                if path != str(self.target):
                    found[path] = _facts(path)
        return found


def _facts(path: str) -> tuple[object, ...]:
    status = os.lstat(path)
    content: object = None
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).digest()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    return (content, status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns, status.st_size)


def watched(root: Path) -> Watched:
    """A target four directories deep, with canaries at each level, as a job's directory lies among others."""
    target = root / "spool" / "jobs" / "job" / "target"
    target.mkdir(parents=True)
    for level in (root, *list(target.parents)[:3]):
        (level / "canary").write_text(f"canary of {level.name}")
        (level / "other").mkdir(exist_ok=True)
        (level / "other" / "canary").write_text("another job's file")
        (level / "program").write_text("#!/bin/sh\n")
        (level / "program").chmod(0o755)
    (root / "link").symlink_to("other")
    return Watched(root, target)


class Entry(NamedTuple):
    """What an archive promises of one path: ``content`` of a file, ``target`` of a link, neither of a directory."""

    content: bytes | None = None
    target: str | None = None
    mode: int | None = None  # None: not compared


def tree(target: Path) -> dict[str, Entry]:
    """What lies below ``target``."""
    found: dict[str, Entry] = {}
    for path in target.rglob("*"):
        name = str(path.relative_to(target))
        if path.is_symlink():
            found[name] = Entry(target=os.readlink(path))
        elif path.is_dir():
            found[name] = Entry()
        else:
            found[name] = Entry(content=path.read_bytes(), mode=stat.S_IMODE(path.lstat().st_mode))
    return found
