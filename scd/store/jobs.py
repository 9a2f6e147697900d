"""Jobs. Every change of state is guarded: it happens only from a state that allows it."""

import math
import time
from collections.abc import Iterable, Mapping

import aiosqlite
import msgspec

from ..model import Event, Job, Tombstone
from ..states import JOB_ENDED, JobState, job_sources
from .db import Database
from .nodes import NodeStore
from .rows import as_json, changed, every, one

# The only text that is put into a statement: our own enum's words.
_ENDED = ", ".join(f"'{state}'" for state in sorted(JOB_ENDED))

_JOB = "SELECT * FROM jobs WHERE job_hash = :job_hash"
_UNFINISHED = f"SELECT * FROM jobs WHERE state NOT IN ({_ENDED}) ORDER BY created, job_hash"
# A filter that is NULL lets all through. A job that lasts from ``since`` to ``until`` or overlaps it is within.
_SELECT = """
    SELECT * FROM jobs
    WHERE (:users IS NULL OR user IN (SELECT value FROM json_each(:users)))
        AND (:hashes IS NULL OR job_hash IN (SELECT value FROM json_each(:hashes)))
        AND (:states IS NULL OR state IN (SELECT value FROM json_each(:states)))
        AND (:since IS NULL OR ended IS NULL OR ended >= :since) AND (:until IS NULL OR created <= :until)
    ORDER BY created DESC, job_hash LIMIT :limit"""
_PREFIX = """
    SELECT job_hash FROM jobs WHERE substr(job_hash, 1, length(:prefix)) = :prefix
        AND (:users IS NULL OR user IN (SELECT value FROM json_each(:users))) LIMIT :limit"""
# Without the plan, which may have megabytes. The pair of a job's time and hash is its place in the list.
_LISTED = ", ".join("NULL AS plan" if name == "plan" else name for name in Job.__struct_fields__)
_PAGE = f"""
    SELECT {_LISTED} FROM jobs WHERE user = :user AND (created, job_hash) < (:created, :job_hash)
    ORDER BY created DESC, job_hash DESC LIMIT :limit"""
_PAGE_OF_STATE = f"""
    SELECT {_LISTED} FROM jobs WHERE user = :user AND state = :state AND (created, job_hash) < (:created, :job_hash)
    ORDER BY created DESC, job_hash DESC LIMIT :limit"""
_RETRIED = """
    SELECT job_hash FROM jobs WHERE digest = :digest AND user = :user AND answered = 0 AND created >= :since
    ORDER BY created DESC LIMIT 1"""
_ENDED_BEFORE = "SELECT * FROM jobs WHERE user = :user AND ended < :at ORDER BY ended, job_hash"
_DISK_BYTES = """
    SELECT coalesce(sum(CASE WHEN ended IS NULL THEN upload_bytes ELSE disk_bytes END), 0) AS used FROM jobs
    WHERE user IN (SELECT value FROM json_each(:users))"""
_LAST_CHANGE = """
    SELECT max(at) AS at FROM (SELECT max(deleted) AS at FROM tombstones
                               UNION ALL SELECT at FROM (SELECT at FROM events ORDER BY id DESC LIMIT 1))"""
_UNMEASURED = "SELECT job_hash FROM jobs WHERE ended IS NOT NULL AND disk_bytes IS NULL"
_MEASURED = "UPDATE jobs SET disk_bytes = :size WHERE job_hash = :job_hash AND ended IS NOT NULL"
_SEALED_IMPORTS = "SELECT job_hash, upload_bytes FROM jobs WHERE sealed = 1"
# Of users who were given a key after these jobs had ended, or while they ran.
_WITHOUT_KEY = f"""
    SELECT job_hash FROM jobs
    WHERE user IN (SELECT value FROM json_each(:users)) AND public_key = '' AND state IN ({_ENDED})"""
_GIVE_KEY = f"""
    UPDATE jobs SET public_key = (SELECT value FROM json_each(:keys) WHERE key = user)
    WHERE user IN (SELECT key FROM json_each(:keys)) AND public_key = '' AND state IN ({_ENDED})"""
_TO_SEAL = f"SELECT job_hash FROM jobs WHERE public_key <> '' AND sealed = 0 AND state IN ({_ENDED}) ORDER BY ended"
_SEALED = f"""
    UPDATE jobs SET sealed = 1, disk_bytes = NULL
    WHERE job_hash = :job_hash AND generation = :generation AND state IN ({_ENDED})"""
_INSERT_JOB = """
    INSERT INTO jobs (job_hash, user, state, reason, design, jobname, flow, runtime, created, ended, upload_bytes,
                      upload_seconds, digest, executor, public_key)
    VALUES (:job_hash, :user, :state, :reason, :design, :jobname, :flow, :runtime, :created, :ended, :upload_bytes,
            :upload_seconds, :digest, :executor, :public_key)"""
_MOVE_JOB = """
    UPDATE jobs SET state = :state, reason = :reason, started = coalesce(started, :started), ended = :ended
    WHERE job_hash = :job_hash AND state IN (SELECT value FROM json_each(:sources)) RETURNING job_hash"""
_RETRY_JOB = """
    UPDATE jobs SET state = 'queued', reason = :reason, retries = retries + 1
    WHERE job_hash = :job_hash AND state = 'preparing' RETURNING job_hash"""
_RESUME_JOB = f"""
    UPDATE jobs SET state = 'queued', reason = '', ended = NULL, cancel_reason = NULL, generation = generation + 1,
        flow = :flow, runtime = :runtime, digest = :digest, executor = :executor, answered = 0, retries = 0,
        disk_bytes = NULL, public_key = :public_key, sealed = 0
    WHERE job_hash = :job_hash AND state IN ({_ENDED}) RETURNING job_hash"""
_CANCEL_JOB = f"""
    UPDATE jobs SET cancel_reason = :reason
    WHERE job_hash = :job_hash AND state NOT IN ({_ENDED}) AND cancel_reason IS NULL RETURNING job_hash"""
_FAIL_ATTEMPTS = """
    UPDATE attempts SET state = 'error', ended = :at, elapsed = 0, reason = :reason
    WHERE job_hash = :job_hash AND state IS NULL"""
_FAIL_NODES = """
    UPDATE nodes SET state = 'error', reason = :reason
    WHERE job_hash = :job_hash AND state IN ('queued', 'submitted', 'running')"""
_FAIL_JOB = f"""
    UPDATE jobs SET state = CASE state WHEN 'queued' THEN 'rejected' ELSE 'failed' END, reason = :reason, ended = :at
    WHERE job_hash = :job_hash AND state NOT IN ({_ENDED})"""
_EVENTS = "SELECT * FROM events WHERE job_hash = :job_hash ORDER BY id"
_BURY = f"""
    INSERT INTO tombstones (job_hash, user, state, reason, deleted)
    SELECT job_hash, user, state, reason, :deleted FROM jobs WHERE job_hash = :job_hash AND state IN ({_ENDED})"""
_DELETE = f"DELETE FROM jobs WHERE job_hash = :job_hash AND state IN ({_ENDED}) RETURNING job_hash"


class JobStore(NodeStore):
    """Methods named after what happened. Those that change take the transaction they are part of."""

    # -- reads

    async def job(self, job_hash: str) -> Job | None:
        return one(Job, await self.database.read(_JOB, {"job_hash": job_hash}))

    async def unfinished(self) -> list[Job]:
        return every(Job, await self.database.read(_UNFINISHED))

    async def select(
        self,
        *,
        users: Iterable[str] | None = None,
        hashes: Iterable[str] | None = None,
        states: Iterable[str] | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int,
    ) -> list[Job]:
        """Jobs that pass each filter, the newest first. ``since`` and ``until``: what existed then."""
        return every(Job, await self.database.read(_SELECT, {
            "users": None if users is None else as_json(users), "hashes": None if hashes is None else as_json(hashes),
            "states": None if states is None else as_json(states), "since": since, "until": until, "limit": limit,
        }))  # fmt: skip

    async def page(self, user: str, state: JobState | None, before: tuple[float, str] | None, limit: int) -> list[Job]:
        """A user's jobs, the newest first, from behind the job with that ``created`` and hash on; no plans."""
        created, job_hash = before or (math.inf, "")
        row = {"user": user, "state": state, "created": created, "job_hash": job_hash, "limit": limit}
        return every(Job, await self.database.read(_PAGE if state is None else _PAGE_OF_STATE, row))

    async def matching(self, prefix: str, users: Iterable[str] | None, limit: int) -> list[str]:
        """Hashes of these users' jobs, or of all, that begin with ``prefix``; ``limit`` at most."""
        row = {"prefix": prefix, "users": None if users is None else as_json(users), "limit": limit}
        return [found["job_hash"] for found in await self.database.read(_PREFIX, row)]

    async def retried(self, digest: str, user: str, since: float) -> str | None:
        """The job of an equal submission whose answer was not delivered."""
        rows = await self.database.read(_RETRIED, {"digest": digest, "user": user, "since": since})
        return next((row["job_hash"] for row in rows), None)

    async def events(self, job_hash: str) -> list[Event]:
        return every(Event, await self.database.read(_EVENTS, {"job_hash": job_hash}))

    async def tombstone(self, job_hash: str) -> Tombstone | None:
        rows = await self.database.read("SELECT * FROM tombstones WHERE job_hash = :job_hash", {"job_hash": job_hash})
        return one(Tombstone, rows)

    async def owners(self) -> list[str]:
        """Every user who has jobs here."""
        return [row["user"] for row in await self.database.read("SELECT DISTINCT user FROM jobs")]

    async def ended_before(self, user: str, at: float) -> list[Job]:
        """A user's finished jobs, the one that ended first at the head."""
        return every(Job, await self.database.read(_ENDED_BEFORE, {"user": user, "at": at}))

    async def last_change(self) -> float | None:
        """When the newest thing that is known here happened."""
        (row,) = await self.database.read(_LAST_CHANGE)
        return None if row["at"] is None else float(row["at"])

    async def disk_bytes(self, users: Iterable[str]) -> int:
        """What jobs of ``users`` take on the disk: finished ones as measured, others with their upload."""
        (row,) = await self.database.read(_DISK_BYTES, {"users": as_json(users)})
        return int(row["used"])

    async def unmeasured(self) -> list[str]:
        """Finished jobs whose size on the disk is not known yet."""
        return [row["job_hash"] for row in await self.database.read(_UNMEASURED)]

    async def to_seal(self) -> list[str]:
        """Finished jobs of which something lies plainly on the disk that shall not."""
        return [row["job_hash"] for row in await self.database.read(_TO_SEAL)]

    async def without_key(self, users: Iterable[str]) -> list[str]:
        """Finished jobs of ``users`` that are to be encrypted to no key."""
        return [row["job_hash"] for row in await self.database.read(_WITHOUT_KEY, {"users": as_json(users)})]

    async def sealed_imports(self) -> dict[str, int]:
        """By jobs that are encrypted, the bytes of their import."""
        return {row["job_hash"]: row["upload_bytes"] for row in await self.database.read(_SEALED_IMPORTS)}

    async def known_hashes(self) -> set[str]:
        return {row["job_hash"] for row in await self.database.read("SELECT job_hash FROM jobs")}

    async def ended_hashes(self) -> set[str]:
        return {
            row["job_hash"] for row in await self.database.read("SELECT job_hash FROM jobs WHERE ended IS NOT NULL")
        }

    async def damage(self) -> list[str]:
        """What SQLite itself finds wrong with the file, in its words."""
        async with await Database.open_readonly(self.database.path) as own:  # it takes long: nobody waits for it
            rows = [*await own.read("PRAGMA integrity_check"), *await own.read("PRAGMA foreign_key_check")]
        return [text for row in rows if (text := " ".join(map(str, row))) != "ok"]

    async def buried_hashes(self) -> set[str]:
        return {row["job_hash"] for row in await self.database.read("SELECT job_hash FROM tombstones")}

    # -- changes

    async def add(self, db: aiosqlite.Connection, job: Job) -> None:
        await db.execute(_INSERT_JOB, msgspec.structs.asdict(job))

    async def answered(self, db: aiosqlite.Connection, job_hash: str) -> None:
        await db.execute("UPDATE jobs SET answered = 1 WHERE job_hash = :job_hash", {"job_hash": job_hash})

    async def move(self, db: aiosqlite.Connection, job_hash: str, state: JobState, reason: str = "") -> bool:
        """Whether the job was in a state that allows ``state``, and now is in it."""
        now = time.time()
        return await changed(db, _MOVE_JOB, {
            "job_hash": job_hash, "state": state, "reason": reason,
            "sources": as_json(job_sources(state)), "started": now if state is JobState.PREPARING else None,
            "ended": now if state.ended else None,
        })  # fmt: skip

    async def retry(self, db: aiosqlite.Connection, job_hash: str, reason: str) -> bool:
        """Queue a job again whose preparation was lost."""
        return await changed(db, _RETRY_JOB, {"job_hash": job_hash, "reason": reason})

    async def shift(self, db: aiosqlite.Connection, since: float, leap: float) -> None:
        """Move the times of jobs and of charges that are later than ``since`` by ``leap`` seconds."""
        for table, column in (("jobs", "created"), ("jobs", "started"), ("jobs", "ended"), ("ledger", "at")):
            statement = f"UPDATE {table} SET {column} = {column} + :leap WHERE {column} >= :since"
            await db.execute(statement, {"since": since, "leap": leap})

    async def measured(self, db: aiosqlite.Connection, job_hash: str, size: int, archives: Mapping[str, int]) -> None:
        """What an ended job takes on the disk, and the bytes of archives by the names of their attempts."""
        await db.execute(_MEASURED, {"job_hash": job_hash, "size": size})
        await self.measured_archives(db, archives)

    async def give_key(self, db: aiosqlite.Connection, keys: Mapping[str, str]) -> None:
        """Finished jobs that have no key get that of their user: they are to be encrypted."""
        await db.execute(_GIVE_KEY, {"keys": msgspec.json.encode(keys).decode()})

    async def sealed(self, db: aiosqlite.Connection, job: Job) -> None:
        """Nothing of this generation lies plainly on the disk any more. What it takes there is to be measured again."""
        await db.execute(_SEALED, {"job_hash": job.job_hash, "generation": job.generation})

    async def resume(
        self, db: aiosqlite.Connection, job_hash: str, flow: str, runtime: str, digest: str, executor: str = "local",
        public_key: str = "",
    ) -> bool:  # fmt: skip
        row = {
            "job_hash": job_hash, "flow": flow, "runtime": runtime, "digest": digest, "executor": executor,
            "public_key": public_key,
        }  # fmt: skip
        return await changed(db, _RESUME_JOB, row)

    async def ask_cancel(self, db: aiosqlite.Connection, job_hash: str, reason: str) -> bool:
        return await changed(db, _CANCEL_JOB, {"job_hash": job_hash, "reason": reason})

    async def fail(self, db: aiosqlite.Connection, job_hash: str, reason: str) -> None:
        """End a job that scd cannot go on with, with all that is live of it."""
        row = {"job_hash": job_hash, "reason": reason, "at": time.time()}
        for statement in (_FAIL_ATTEMPTS, _FAIL_NODES, _FAIL_JOB):
            await db.execute(statement, row)

    async def delete(self, db: aiosqlite.Connection, job_hash: str) -> bool:
        """Forget an ended job but for its tombstone."""
        await db.execute(_BURY, {"job_hash": job_hash, "deleted": time.time()})
        return await changed(db, _DELETE, {"job_hash": job_hash})
