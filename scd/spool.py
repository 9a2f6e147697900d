"""Job directories: staging, the fsync and rename that make a submission last, and free space.

::

    spool/staging/<random>/             an upload being taken
    spool/jobs/ab/<job_hash>/upload/    what the client sent: manifest-<generation>.json, import.tar.gz
                            /control/   the shim's: events.jsonl, shim.sock, runner.log
                            /archives/  finished archives, <n>.<attempt>.tar.gz
                            /work/      the one directory that the job may write

Everything here blocks: call it from a thread.
"""

import contextlib
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from .archive import remove_tree


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
    def import_archive(self) -> Path:
        return self.upload / "import.tar.gz"

    def manifest(self, generation: int) -> Path:
        return self.upload / f"manifest-{generation}.json"


class Spool:
    def __init__(self, root: Path):
        self.root = root
        self.jobs = root / "jobs"
        self.staging = root / "staging"

    def create(self) -> None:
        """Make the spool, and clear what uploads left that a crash cut off."""
        self.jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.staging.mkdir(mode=0o700, exist_ok=True)
        for leftover in self.staging.iterdir():
            remove_tree(leftover)

    def job(self, job_hash: str) -> JobDirectory:
        return JobDirectory(self.jobs / job_hash[:2] / job_hash)

    def stage(self) -> JobDirectory:
        directory = JobDirectory(self.staging / secrets.token_hex(8))
        for path in (directory.path, directory.upload, directory.control, directory.archives, directory.work):
            path.mkdir(mode=0o700)
        return directory

    def commit(self, staged: JobDirectory, job_hash: str) -> None:
        """Give a staged upload its final place. On the disk when this returns."""
        for path in (*staged.upload.iterdir(), staged.upload, staged.path):
            fsync(path)
        target = self.job(job_hash).path
        target.parent.mkdir(mode=0o700, exist_ok=True)
        fsync(self.jobs)
        staged.path.rename(target)
        fsync(target.parent)

    def add_manifest(self, job_hash: str, generation: int, manifest: bytes) -> None:
        """The manifest of a resume, beside the earlier ones."""
        path = self.job(job_hash).manifest(generation)
        path.write_bytes(manifest)
        fsync(path)
        fsync(path.parent)

    def remove(self, job_hash: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            remove_tree(self.job(job_hash).path)

    def discard(self, staged: JobDirectory) -> None:
        with contextlib.suppress(FileNotFoundError):
            remove_tree(staged.path)

    def hashes(self) -> set[str]:
        return {path.name for path in self.jobs.glob("??/*")}


def fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
