"""Files of users with a key: encrypted once their job has ended, made whole again when it is resumed.

Until its end a job's files lie plainly in its own directory. Then, in this order, each step of which may be the last
before a crash and is done again at the next start: the tree and the job's own words go; each archive, and the import,
is encrypted beside itself, and goes; earlier manifests go. A job that is being sealed is not prepared, and the other
way round.

The key that a resume needs comes with its request and stays in memory until the files are decrypted, or for good if
scd dies before: then the job ends and says that it is to be resumed again.
"""

import asyncio
import logging
import re
import sqlite3
import tarfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .archive import GZIP_ERRORS, gzip_file
from .auth import private_key, without_comment
from .config import Settings
from .durable import fsync, replace
from .errors import ScdError
from .executors.base import Spec
from .launcher.base import Launcher, connect
from .model import Job
from .sealed import SUFFIX, open_either, seal
from .spool import JobDirectory, Spool
from .store import JobStore, is_damaged
from .tar import Kind, Member, Refused, TarReader

log = logging.getLogger(__name__)

_INTERVAL = 2.0
_MOST_KEYS = 10_000
_ARCHIVE = re.compile(r"[0-9]+\.[0-9]+\.tar\.gz")
_LEVEL = 1
_TYPES = {Kind.FILE: tarfile.REGTYPE, Kind.DIRECTORY: tarfile.DIRTYPE, Kind.SYMLINK: tarfile.SYMTYPE,
          Kind.HARDLINK: tarfile.LNKTYPE}  # fmt: skip


class NotReady(ScdError):
    """The job's files cannot be decrypted."""


class Sealing:
    def __init__(self, settings: Settings, store: JobStore, spool: Spool, launcher: Launcher):
        self._settings = settings
        self._store = store
        self._spool = spool
        self._launcher = launcher
        self._keys: dict[str, tuple[int, str]] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def run(self) -> None:
        """Seal what has ended, one job after the other. What fails is tried again, and holds up no other."""
        complaints: set[str] = set()
        while True:
            found = set()
            try:
                await self._give_keys()
                waiting = await self._store.to_seal()
            except sqlite3.Error as error:
                if is_damaged(error):
                    raise
                found.add(f"it is not known what is to be encrypted; it is looked again: {error}")
                waiting = []
            for job_hash in waiting:
                try:
                    await self.seal(job_hash)
                except (OSError, ScdError, ValueError, sqlite3.Error) as error:
                    if is_damaged(error):
                        raise
                    found.add(f"job={job_hash} its files cannot be encrypted; it is tried again: {error}")
            for complaint in sorted(found - complaints):  # once, not every two seconds
                log.error("%s", complaint)
            complaints = found
            await asyncio.sleep(_INTERVAL)

    async def _give_keys(self) -> None:
        """Who has a key expects that of all his jobs: those from before, and those that ran when he was given it."""
        users = self._settings.config.users.items()
        keys = {name: without_comment(user.public_key) for name, user in users if user.public_key}
        if keys and (found := await self._store.without_key(keys)):
            await self._store.database.write(lambda db: self._store.give_key(db, keys))
            log.info("%d finished jobs of users who have a key now are encrypted, too", len(found))

    def keep(self, job_hash: str, generation: int, key: str) -> None:
        """The private key that ``make_ready`` needs for a resume."""
        if len(self._keys) >= _MOST_KEYS:
            del self._keys[next(iter(self._keys))]
        self._keys[job_hash] = generation, key

    async def make_ready(self, spec: Spec) -> None:
        """Give a job that is resumed its files back, in one import. Raises NotReady, and OSError."""
        if spec.rebuilt:
            # To its end even if the job is cancelled: a thread that is left alone would write behind seal().
            await asyncio.shield(self._rebuild_import(spec))

    async def _rebuild_import(self, spec: Spec) -> None:
        async with self._lock(spec.job_hash):
            directory = self._spool.job(spec.job_hash)
            target = directory.rebuilt_import(spec.generation)
            if not await asyncio.to_thread(target.exists):
                _, key = self._keys.get(spec.job_hash, (0, None))
                archives = await self._store.newest_archives(spec.job_hash)
                prefix = f"{spec.job_hash}/{spec.design}/{spec.jobname}/"
                await asyncio.to_thread(_rebuild, directory, archives, key, prefix, target)
            self._keys.pop(spec.job_hash, None)

    async def seal(self, job_hash: str) -> None:
        """Encrypt what lies plainly of a job that has ended and has no process any more. Raises OSError, ScdError."""
        async with self._lock(job_hash):
            job = await self._store.job(job_hash)
            if job is None or not job.state.ended or job.sealed or not job.public_key:
                return
            directory = self._spool.job(job_hash)
            if (shim := await connect(directory)) is not None:  # it has been told to go, and is about to
                shim[1].close()
                return
            generation, _ = self._keys.get(job_hash, (0, ""))
            if generation == job.generation:  # it was never needed: not that of a resume that has just come
                del self._keys[job_hash]
            try:
                await asyncio.to_thread(self._launcher.wipe, directory)
                for path in await asyncio.to_thread(_plain_files, directory):
                    await asyncio.to_thread(seal, path, job.public_key)
                await asyncio.to_thread(_clear, directory, job)
            except FileNotFoundError:
                if await asyncio.to_thread(directory.path.exists):  # else it was deleted meanwhile
                    raise
            await self._store.database.write(lambda db: self._store.sealed(db, job))
        log.info("job=%s user=%s its files are encrypted", job_hash, job.user)

    def _lock(self, job_hash: str) -> asyncio.Lock:
        return self._locks.setdefault(job_hash, asyncio.Lock())


def _plain_files(directory: JobDirectory) -> list[Path]:
    found = [path for path in sorted(directory.archives.iterdir()) if _ARCHIVE.fullmatch(path.name)]
    return [*found, directory.import_archive] if directory.import_archive.exists() else found


def _clear(directory: JobDirectory, job: Job) -> None:
    """What nobody needs any more: unfinished archives, and the uploads but for the import."""
    for path in directory.archives.iterdir():
        if path.name.startswith((".", "snapshot-")):
            path.unlink()
    for generation in range(1, job.generation + 1):
        for path in (directory.manifest(generation), directory.rebuilt_import(generation)):
            path.unlink(missing_ok=True)
    for path in directory.upload.glob(".*"):
        path.unlink()
    for parent in (directory.archives, directory.upload):
        fsync(parent)


def _rebuild(directory: JobDirectory, archives: list[str], key: str | None, prefix: str, target: Path) -> None:
    """One import of the job's own and of all results. Raises NotReady, WrongKey, Damaged, OSError."""
    private = private_key(key) if key else None
    aside = target.with_name(f".{target.name}")
    sources = [(directory.import_archive, ""), *((directory.archives / name, prefix) for name in archives)]
    if private is None and any(path.with_name(path.name + SUFFIX).exists() for path, _ in sources):
        raise NotReady(
            "scd was restarted before this job's files were decrypted with the key that came with its resume. "
            "Resume it again: nothing of it is lost."
        )
    try:
        with (
            open(aside, "wb") as file,
            gzip_file(fileobj=file, mode="wb", compresslevel=_LEVEL, mtime=0) as plain,
            tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path, below in sources:
                with open_either(path, private) as source:
                    _copy(source, tar, below)
    except FileNotFoundError as error:
        raise NotReady(f"The files of this job are not complete: {error.filename} is gone.") from None
    except (Refused, *GZIP_ERRORS) as error:
        raise NotReady(f"The files of this job are damaged: {error}.") from None
    replace(aside, target)


def _copy(source: IO[bytes], tar: tarfile.TarFile, below: str) -> None:
    """The members of a gzip tar, those of results under their names in the job's directory."""
    with gzip_file(fileobj=source) as plain:
        reader = TarReader(plain)
        for member in reader:
            if not below:
                tar.addfile(_entry(member, member.name, member.mtime), _Content(reader.content()))
            elif member.name.startswith(below):
                # Results have whole seconds, rounded down: nothing that a node has read must look newer than they.
                name = member.name.removeprefix(below)
                tar.addfile(_entry(member, name, member.mtime + 1), _Content(reader.content()))


def _entry(member: Member, name: str, mtime: float) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size, entry.mode, entry.mtime = _TYPES[member.kind], member.size, member.mode, mtime
    entry.linkname = member.target
    return entry


class _Content:
    """Pieces of a member as a file of exactly the pieces' sizes."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = 2**16, /) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
