"""Job directories: staging, the fsync and rename that make a submission last, and free space.

::

    spool/staging/<random>/             an upload being taken, or a job being removed
    spool/lost+found/<job_hash>/        what ``scdctl check --fix`` found and no job owns
    spool/jobs/ab/<job_hash>/upload/    what the client sent: manifest-<generation>.json, import.tar.gz
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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .archive import remove_tree
from .durable import fsync

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


class Spool:
    def __init__(self, root: Path):
        self.root = root
        self.jobs = root / "jobs"
        self.staging = root / "staging"
        self.lost_and_found = root / "lost+found"
        self._leftovers: list[Path] = []

    def create(self) -> None:
        """Make the spool. What already lies in staging was left by uploads and removals that a crash cut off."""
        for directory in (self.jobs, self.staging):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fsync(self.root)
        self._leftovers = list(self.staging.iterdir())

    def clear(self) -> None:
        """Remove what is left in staging of earlier days. It may be much: nobody waits for this. Raises OSError."""
        for leftover in list(self._leftovers):
            if leftover.exists():
                remove_tree(leftover)
            self._leftovers.remove(leftover)

    def free(self) -> int:
        """Bytes that are free on the spool's disk."""
        return shutil.disk_usage(self.root).free

    def job(self, job_hash: str) -> JobDirectory:
        return JobDirectory(self.jobs / job_hash[:2] / job_hash)

    def stage(self) -> JobDirectory:
        directory = JobDirectory(self.staging / secrets.token_hex(8))
        for path in (directory.path, directory.upload, directory.control, directory.archives, directory.work):
            path.mkdir(mode=0o700)
        directory.unacknowledged.touch()
        return directory

    def commit(self, staged: JobDirectory, job_hash: str) -> None:
        """Give a staged upload its final place. On the disk when this returns."""
        for path in (*staged.upload.iterdir(), staged.upload, staged.unacknowledged, staged.path):
            fsync(path)
        target = self.job(job_hash).path
        target.parent.mkdir(mode=0o700, exist_ok=True)
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

    def remove(self, job_hash: str) -> None:
        """Gone at once under its name. What cannot be removed now is left to ``clear``. Raises no OSError for that."""
        if (aside := self.bury(job_hash)) is not None:
            self._discard(aside)

    def bury(self, job_hash: str) -> Path | None:
        """Out of sight at once, for ``clear`` to remove; where it lies now, None if there was nothing."""
        aside = self.staging / secrets.token_hex(8)
        try:
            self.job(job_hash).path.rename(aside)
        except FileNotFoundError:
            return None
        self._leftovers.append(aside)
        return aside

    def _discard(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            remove_tree(path)
        if path in self._leftovers and not path.exists():
            self._leftovers.remove(path)

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
        total = 0
        directory = self.job(job_hash)
        for parent, directories, files in os.walk(directory.path):
            if parent == str(directory.path) and directory.temporary.name in directories:
                directories.remove(directory.temporary.name)
            for name in files:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(parent, name)).st_blocks * 512
        return total

    def discard(self, staged: JobDirectory) -> None:
        """Drop an upload that was not taken."""
        if staged.path.exists():
            self._leftovers.append(staged.path)
            self._discard(staged.path)

    def hashes(self) -> set[str]:
        return {path.name for path in self.jobs.glob("??/*")}
