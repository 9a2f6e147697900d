"""Job directories: staging, the fsync and rename that make a submission last, and free space.

::

    spool/staging/<random>/             an upload being taken, or a job being removed
    spool/lost+found/<job_hash>/        what ``scdctl check --fix`` found and no job owns
    spool/jobs/ab/<job_hash>/upload/    what the client sent: manifest-<generation>.json, import.tar.gz
                                        (of a key's owner, once the job ended: import.tar.gz.age alone)
                            /control/   the shim's: events.jsonl, shim.sock, runner.log
                            /archives/  finished archives, <n>.<attempt>.tar.gz
                            /work/      the one directory that the job may write
                            /tmp/       the job's /tmp, while it has a shim
                            /unacknowledged   only until the job is in the database

Everything here blocks: call it from a thread.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from .archive import remove_tree
from .durable import fsync
from .errors import ConfigError

_PASSABLE = 0o711  # accounts get through, and see nothing

Writer = Callable[[Path], object]  # writes a file of that name


class JobDirectory(NamedTuple):
    path: Path

    @property
    def upload(self) -> Path:
        return self.path / "upload"

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def archives(self) -> Path:
        return self.path / "archives"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    @property
    def import_archive(self) -> Path:
        return self.upload / "import.tar.gz"

    @property
    def unacknowledged(self) -> Path:
        return self.path / "unacknowledged"

    def manifest(self, generation: int) -> Path:
        return self.upload / f"manifest-{generation}.json"

    def rebuilt_import(self, generation: int) -> Path:
        """The import and the results so far in one, for a resume of a job whose files were encrypted."""
        return self.upload / f"import-{generation}.tar.gz"


class Hands(Protocol):
    """Whoever can reach all that lies in a job's directory. Both raise OSError."""

    def remove(self, directory: Path) -> None: ...

    def size(self, directory: Path) -> int: ...  # as job_usage


class OwnHands:
    """Where all of it is this account's."""

    def remove(self, directory: Path) -> None:
        remove_tree(directory)

    def size(self, directory: Path) -> int:
        return job_usage(directory)


class Spool:
    def __init__(self, root: Path, hands: Hands | None = None, *, shared: bool = False):
        """``shared``: jobs have accounts of their own, which must get through to their directories."""
        self.root = root
        self._hands = hands or OwnHands()
        self._shared = shared
        self.jobs = root / "jobs"
        self.staging = root / "staging"
        self.lost_and_found = root / "lost+found"
        self._leftovers: list[Path] = []  # each is taken out by whoever removes it: never by two at once

    def create(self) -> None:
        """Make the spool. What already lies in staging was left by uploads and removals that a crash cut off.

        Raises ConfigError if it is to be shared and cannot be.
        """
        for directory in (self.jobs, self.staging):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._shared:
            _let_through((self.jobs, self.staging, *self.jobs.iterdir(), self.root, *self.root.parents))
        fsync(self.root)
        self._leftovers = list(self.staging.iterdir())

    def clear(self) -> None:
        """Remove what is left in staging of earlier days. It may be much: nobody waits for this. Raises OSError."""
        failure = None
        for _ in range(len(self._leftovers)):
            leftover = self._leftovers.pop(0)
            try:
                if leftover.exists():
                    self._hands.remove(leftover)
            except OSError as error:  # the others do not wait for it
                self._leftovers.append(leftover)
                failure = error
        if failure is not None:
            raise failure

    def free(self) -> int:
        """Bytes that are free on the spool's disk."""
        return shutil.disk_usage(self.root).free

    def job(self, job_hash: str) -> JobDirectory:
        return JobDirectory(self.jobs / job_hash[:2] / job_hash)

    def stage(self) -> JobDirectory:
        """A directory for an upload. Raises OSError, then leaving nothing."""
        directory = JobDirectory(self.staging / secrets.token_hex(8))
        try:
            for path in (directory.path, directory.upload, directory.control, directory.archives, directory.work):
                path.mkdir(mode=0o700)
            if self._shared:
                for path in (directory.path, directory.upload):
                    path.chmod(_PASSABLE)
            directory.unacknowledged.touch()
        except OSError:
            self.discard(directory)
            raise
        return directory

    def commit(self, staged: JobDirectory, job_hash: str) -> None:
        """Give a staged upload its final place. On the disk when this returns."""
        for path in (*staged.upload.iterdir(), staged.upload, staged.unacknowledged, staged.path):
            fsync(path)
        target = self.job(job_hash).path
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if self._shared:
            target.parent.chmod(_PASSABLE)
        fsync(self.jobs)
        staged.path.rename(target)
        fsync(target.parent)

    def acknowledge(self, job_hash: str) -> None:
        """The job is in the database: from now on its directory is never taken for a left-over."""
        with contextlib.suppress(OSError):  # the row counts, not this
            self.job(job_hash).unacknowledged.unlink()

    def add_manifest(self, job_hash: str, generation: int, write: Writer) -> None:
        """The manifest of a resume, beside the earlier ones."""
        path = self.job(job_hash).manifest(generation)
        write(path)
        fsync(path)
        fsync(path.parent)

    def let_group_read(self, job_hash: str, archive: int) -> None:
        """An open archive, by its name: for a proxy in scd's group. What is an account's, the group reads anyway."""
        directory = self.job(job_hash)
        for place, mode in ((directory.path.parent, 0o711), (directory.path, 0o711), (directory.archives, 0o710)):
            if place.stat().st_uid == os.geteuid():
                place.chmod(place.stat().st_mode & 0o7777 | mode)
        if os.fstat(archive).st_uid == os.geteuid():
            os.fchmod(archive, 0o640)

    def remove(self, job_hash: str) -> None:
        """Gone at once under its name. What cannot be removed now is left to ``clear``. Raises no OSError for that."""
        if (aside := self._take_away(job_hash)) is not None:
            self._discard(aside)

    def bury(self, job_hash: str) -> None:
        """Gone at once under its name, and left to ``clear``: a start does not wait for it."""
        if (aside := self._take_away(job_hash)) is not None:
            self._leftovers.append(aside)

    def _take_away(self, job_hash: str) -> Path | None:
        aside = self.staging / secrets.token_hex(8)
        try:
            self.job(job_hash).path.rename(aside)
        except FileNotFoundError:
            return None
        return aside

    def discard(self, staged: JobDirectory) -> None:
        """Drop an upload that was not taken."""
        if staged.path.exists():
            self._discard(staged.path)

    def _discard(self, path: Path) -> None:
        try:
            self._hands.remove(path)
        except OSError:
            self._leftovers.append(path)

    def set_aside(self, job_hash: str) -> Path:
        """Move a directory that no job owns out of the way, unharmed."""
        self.lost_and_found.mkdir(mode=0o700, exist_ok=True)
        target = self.lost_and_found / job_hash
        while target.exists():
            target = self.lost_and_found / f"{job_hash}-{secrets.token_hex(4)}"
        self.job(job_hash).path.rename(target)
        return target

    def unacknowledged(self) -> set[str]:
        """The jobs whose directory is, or may be, not in the database yet."""
        return {path.parts[-2] for path in self.jobs.glob("??/*/unacknowledged")}

    def holds_jobs(self) -> bool:
        """Whether any job here was acknowledged."""
        return bool(self.hashes() - self.unacknowledged())

    def with_shim(self) -> list[str]:
        """The jobs that have a shim, or had one that did not leave in order."""
        return [path.parts[-3] for path in self.jobs.glob("??/*/control/shim.sock")]

    def archive_names(self, job_hash: str) -> set[str]:
        """What lies in a job's archives, finished or not."""
        with contextlib.suppress(FileNotFoundError):
            return set(os.listdir(self.job(job_hash).archives))
        return set()

    def size(self, job_hash: str) -> int:
        """Bytes that a job keeps on the disk, its /tmp not counted; 0 if it has no directory."""
        return self._hands.size(self.job(job_hash).path)

    def hashes(self) -> set[str]:
        return {path.name for path in self.jobs.glob("??/*")}


def job_usage(directory: Path) -> int:
    """Bytes that a job's directory takes on the disk, its /tmp not counted, as far as it can be seen."""
    return disk_usage(directory, besides=JobDirectory(directory).temporary.name)


def disk_usage(directory: Path, besides: str = "") -> int:
    """Bytes that what lies below a directory takes on the disk, but for one of its own directories.

    Directories too: a million empty files take nothing but what their directories take.
    """
    total = 0
    for parent, directories, files in os.walk(directory):
        if parent == str(directory) and besides in directories:
            directories.remove(besides)
        for name in (*directories, *files):
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def _let_through(directories: Iterable[Path]) -> None:
    for directory in directories:
        status = directory.stat()
        if status.st_mode & 0o001:
            continue
        try:
            directory.chmod(status.st_mode & 0o7777 | _PASSABLE)
        except PermissionError:
            raise ConfigError(
                f"paths.spool: the accounts of jobs cannot get through {directory}. Let them: chmod o+x {directory}"
            ) from None
