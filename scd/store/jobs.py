"""Jobs, nodes and attempts. Every change of state is guarded: it happens only from a state that allows it."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import aiosqlite
import msgspec

from ..model import Attempt, Event, Job, Node, NodeKey, PlanNode, Tombstone, number_in
from ..states import JOB_ENDED, JobState, NodeState, job_sources, node_sources
from .db import Database, Row

T = TypeVar("T", bound=msgspec.Struct)

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
_TO_SEAL = f"SELECT * FROM jobs WHERE public_key <> '' AND sealed = 0 AND state IN ({_ENDED}) ORDER BY ended"
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
_NODES = "SELECT * FROM nodes WHERE job_hash = :job_hash ORDER BY n"
_NODE_NAMED = 'SELECT * FROM nodes WHERE job_hash = :job_hash AND step || "index" = :name'
_PUT_NODE = """
    INSERT INTO nodes (job_hash, step, "index", n, state, reason, cores, attempt)
    VALUES (:job_hash, :step, :index, :n, :state, '', :cores,
            (SELECT coalesce(max(attempt), 0) FROM attempts
             WHERE job_hash = :job_hash AND step = :step AND "index" = :index))
    ON CONFLICT (job_hash, step, "index") DO UPDATE SET
        state = excluded.state, cores = excluded.cores, retries = 0,
        reason = CASE WHEN excluded.state = state THEN reason ELSE '' END"""
_MOVE_NODE = """
    UPDATE nodes SET state = :state, reason = :reason
    WHERE job_hash = :job_hash AND step = :step AND "index" = :index
        AND state IN (SELECT value FROM json_each(:sources)) RETURNING n"""
_RETRY_NODE = """
    UPDATE nodes SET state = 'pending', retries = retries + 1
    WHERE job_hash = :job_hash AND step = :step AND "index" = :index AND state = 'error' RETURNING n"""
_CLAIM_NODE = """
    UPDATE nodes SET state = 'queued', reason = '', attempt = attempt + 1
    WHERE job_hash = :job_hash AND step = :step AND "index" = :index AND state = 'pending' AND attempt = :attempt
    RETURNING n"""
_INSERT_ATTEMPT = """
    INSERT INTO attempts (name, job_hash, step, "index", attempt, executor, cores, queued, memory)
    VALUES (:name, :job_hash, :step, :index, :attempt, :executor, :cores, :queued, :memory)"""
_SUBMIT_ATTEMPT = "UPDATE attempts SET handle = :handle WHERE name = :name"
_START_ATTEMPT = "UPDATE attempts SET started = :started WHERE name = :name AND started IS NULL"
_END_ATTEMPT = """
    UPDATE attempts SET state = :state, reason = :reason, started = coalesce(started, :started), ended = :ended,
        elapsed = :elapsed, exit_code = :exit_code, archive = :archive, lost = :lost,
        unpack_seconds = :unpack_seconds, archive_seconds = :archive_seconds,
        cpu_seconds = coalesce(:cpu_seconds, cpu_seconds), peak_bytes = coalesce(:peak_bytes, peak_bytes),
        read_bytes = coalesce(:read_bytes, read_bytes), written_bytes = coalesce(:written_bytes, written_bytes)
    WHERE name = :name AND state IS NULL RETURNING cores"""
_CHARGE = """
    INSERT INTO ledger (at, user, job_hash, core_seconds, elapsed)
    SELECT :ended, user, job_hash, :core_seconds, :elapsed FROM jobs WHERE job_hash = :job_hash"""
_FAIL_ATTEMPTS = """
    UPDATE attempts SET state = 'error', ended = :at, elapsed = 0, reason = :reason
    WHERE job_hash = :job_hash AND state IS NULL"""
_FAIL_NODES = """
    UPDATE nodes SET state = 'error', reason = :reason
    WHERE job_hash = :job_hash AND state IN ('queued', 'submitted', 'running')"""
_FAIL_JOB = f"""
    UPDATE jobs SET state = CASE state WHEN 'queued' THEN 'rejected' ELSE 'failed' END, reason = :reason, ended = :at
    WHERE job_hash = :job_hash AND state NOT IN ({_ENDED})"""
_ATTEMPTS = "SELECT * FROM attempts WHERE job_hash = :job_hash ORDER BY queued, name"
_LAST_ARCHIVE = """
    SELECT archive FROM attempts WHERE job_hash = :job_hash AND step = :step AND "index" = :index
        AND archive IS NOT NULL ORDER BY attempt DESC LIMIT 1"""
_NEWEST_ARCHIVES = """
    SELECT archive, max(attempt) FROM attempts AS a WHERE job_hash = :job_hash AND archive IS NOT NULL
        AND (step = '' OR EXISTS (SELECT 1 FROM nodes AS n
                                  WHERE n.job_hash = a.job_hash AND n.step = a.step AND n."index" = a."index"))
    GROUP BY step, "index" """
_EVENTS = "SELECT * FROM events WHERE job_hash = :job_hash ORDER BY id"
_BURY = f"""
    INSERT INTO tombstones (job_hash, user, state, reason, deleted)
    SELECT job_hash, user, state, reason, :deleted FROM jobs WHERE job_hash = :job_hash AND state IN ({_ENDED})"""
_DELETE = f"DELETE FROM jobs WHERE job_hash = :job_hash AND state IN ({_ENDED}) RETURNING job_hash"


class JobStore:
    """Methods named after what happened. Those that change take the transaction they are part of."""

    def __init__(self, database: Database):
        self.database = database

    # -- reads

    async def job(self, job_hash: str) -> Job | None:
        return _one(Job, await self.database.read(_JOB, {"job_hash": job_hash}))

    async def unfinished(self) -> list[Job]:
        return _all(Job, await self.database.read(_UNFINISHED))

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
        return _all(Job, await self.database.read(_SELECT, {
            "users": None if users is None else _json(users), "hashes": None if hashes is None else _json(hashes),
            "states": None if states is None else _json(states), "since": since, "until": until, "limit": limit,
        }))  # fmt: skip

    async def page(self, user: str, state: JobState | None, before: tuple[float, str] | None, limit: int) -> list[Job]:
        """A user's jobs, the newest first, from behind the job with that ``created`` and hash on; no plans."""
        created, job_hash = before or (math.inf, "")
        row = {"user": user, "state": state, "created": created, "job_hash": job_hash, "limit": limit}
        return _all(Job, await self.database.read(_PAGE if state is None else _PAGE_OF_STATE, row))

    async def matching(self, prefix: str, users: Iterable[str] | None, limit: int) -> list[str]:
        """Hashes of these users' jobs, or of all, that begin with ``prefix``; ``limit`` at most."""
        row = {"prefix": prefix, "users": None if users is None else _json(users), "limit": limit}
        return [found["job_hash"] for found in await self.database.read(_PREFIX, row)]

    async def retried(self, digest: str, user: str, since: float) -> str | None:
        """The job of an equal submission whose answer was not delivered."""
        rows = await self.database.read(_RETRIED, {"digest": digest, "user": user, "since": since})
        return next((row["job_hash"] for row in rows), None)

    async def nodes(self, job_hash: str, db: aiosqlite.Connection | None = None) -> list[Node]:
        """``db``: as a transaction in progress sees them."""
        row = {"job_hash": job_hash}
        rows = await (self.database.read(_NODES, row) if db is None else db.execute_fetchall(_NODES, row))
        return _all(Node, rows)

    async def node_named(self, job_hash: str, name: str) -> Node | None:
        """A node by the client's word for it, step and index in one."""
        return _one(Node, await self.database.read(_NODE_NAMED, {"job_hash": job_hash, "name": name}))

    async def attempts(self, job_hash: str) -> list[Attempt]:
        return _all(Attempt, await self.database.read(_ATTEMPTS, {"job_hash": job_hash}))

    async def events(self, job_hash: str) -> list[Event]:
        return _all(Event, await self.database.read(_EVENTS, {"job_hash": job_hash}))

    async def archive(self, job_hash: str, key: NodeKey) -> str | None:
        """The file name of a node's newest archive; NodeKey("", "") is the set-up manifest's."""
        row = {"job_hash": job_hash, "step": key.step, "index": key.index}
        return next((found["archive"] for found in await self.database.read(_LAST_ARCHIVE, row)), None)

    async def tombstone(self, job_hash: str) -> Tombstone | None:
        rows = await self.database.read("SELECT * FROM tombstones WHERE job_hash = :job_hash", {"job_hash": job_hash})
        return _one(Tombstone, rows)

    async def owners(self) -> list[str]:
        """Every user who has jobs here."""
        return [row["user"] for row in await self.database.read("SELECT DISTINCT user FROM jobs")]

    async def ended_before(self, user: str, at: float) -> list[Job]:
        """A user's finished jobs, the one that ended first at the head."""
        return _all(Job, await self.database.read(_ENDED_BEFORE, {"user": user, "at": at}))

    async def last_change(self) -> float | None:
        """When the newest thing that is known here happened."""
        (row,) = await self.database.read(_LAST_CHANGE)
        return None if row["at"] is None else float(row["at"])

    async def disk_bytes(self, users: Iterable[str]) -> int:
        """What jobs of ``users`` take on the disk: finished ones as measured, others with their upload."""
        (row,) = await self.database.read(_DISK_BYTES, {"users": _json(users)})
        return int(row["used"])

    async def unmeasured(self) -> list[str]:
        """Finished jobs whose size on the disk is not known yet."""
        return [row["job_hash"] for row in await self.database.read(_UNMEASURED)]

    async def to_seal(self) -> list[Job]:
        """Finished jobs of which something lies plainly on the disk that shall not."""
        return _all(Job, await self.database.read(_TO_SEAL))

    async def newest_archives(self, job_hash: str) -> list[str]:
        """The file name of each node's newest archive, and of the set-up manifest's."""
        row = {"job_hash": job_hash}
        return [found["archive"] for found in await self.database.read(_NEWEST_ARCHIVES, row)]

    async def known_hashes(self) -> set[str]:
        return {row["job_hash"] for row in await self.database.read("SELECT job_hash FROM jobs")}

    async def ended_hashes(self) -> set[str]:
        return {
            row["job_hash"] for row in await self.database.read("SELECT job_hash FROM jobs WHERE ended IS NOT NULL")
        }

    async def archives(self) -> dict[str, set[str]]:
        """The file names of all archives, by job."""
        found: dict[str, set[str]] = {}
        for row in await self.database.read("SELECT job_hash, archive FROM attempts WHERE archive IS NOT NULL"):
            found.setdefault(row["job_hash"], set()).add(row["archive"])
        return found

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
        return await _changed(db, _MOVE_JOB, {
            "job_hash": job_hash, "state": state, "reason": reason,
            "sources": _json(job_sources(state)), "started": now if state is JobState.PREPARING else None,
            "ended": now if state.ended else None,
        })  # fmt: skip

    async def retry(self, db: aiosqlite.Connection, job_hash: str, reason: str) -> bool:
        """Queue a job again whose preparation was lost."""
        return await _changed(db, _RETRY_JOB, {"job_hash": job_hash, "reason": reason})

    async def shift(self, db: aiosqlite.Connection, since: float, leap: float) -> None:
        """Move the times of jobs and of charges that are later than ``since`` by ``leap`` seconds."""
        for table, column in (("jobs", "created"), ("jobs", "started"), ("jobs", "ended"), ("ledger", "at")):
            statement = f"UPDATE {table} SET {column} = {column} + :leap WHERE {column} >= :since"
            await db.execute(statement, {"since": since, "leap": leap})

    async def measured(self, db: aiosqlite.Connection, job_hash: str, size: int) -> None:
        await db.execute(_MEASURED, {"job_hash": job_hash, "size": size})

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
        return await _changed(db, _RESUME_JOB, row)

    async def ask_cancel(self, db: aiosqlite.Connection, job_hash: str, reason: str) -> bool:
        return await _changed(db, _CANCEL_JOB, {"job_hash": job_hash, "reason": reason})

    async def set_plan(
        self,
        db: aiosqlite.Connection,
        job_hash: str,
        plan: bytes,
        nodes: Sequence[PlanNode],
        cores: Mapping[NodeKey, int],
    ) -> None:
        """Record what prepare found. Nodes of an earlier preparation keep their number and their attempts."""
        await db.execute(
            "UPDATE jobs SET plan = :plan WHERE job_hash = :job_hash", {"plan": plan, "job_hash": job_hash}
        )
        rows = list(await db.execute_fetchall(_NODES, {"job_hash": job_hash}))
        known = {NodeKey(row["step"], row["index"]) for row in rows}
        # Also of nodes that were no part of the last preparation: their attempts, and names in the journal, still are.
        tried = await db.execute_fetchall(_ATTEMPTS, {"job_hash": job_hash})
        numbers = {NodeKey(row["step"], row["index"]): number_in(row["name"]) for row in tried if row["step"]}
        numbers |= {NodeKey(row["step"], row["index"]): int(row["n"]) for row in rows}
        fresh = max(numbers.values(), default=0)
        for node in nodes:
            if node.key not in numbers:
                fresh += 1
                numbers[node.key] = fresh
        await db.executemany(_PUT_NODE, [
            {"job_hash": job_hash, "step": node.step, "index": node.index, "n": numbers[node.key],
             "state": node.status, "cores": cores[node.key]}
            for node in nodes
        ])  # fmt: skip
        gone = known - {node.key for node in nodes}
        await db.executemany(
            'DELETE FROM nodes WHERE job_hash = :job_hash AND step = :step AND "index" = :index',
            [{"job_hash": job_hash, "step": key.step, "index": key.index} for key in gone],
        )

    async def claim_node(self, db: aiosqlite.Connection, node: Node, attempt: Attempt) -> bool:
        """Write down, before anything is started, that this attempt will be."""
        row = {"job_hash": node.job_hash, "step": node.step, "index": node.index, "attempt": node.attempt}
        if not await _changed(db, _CLAIM_NODE, row):
            return False
        await self.add_attempt(db, attempt)
        return True

    async def add_attempt(self, db: aiosqlite.Connection, attempt: Attempt) -> None:
        await db.execute(_INSERT_ATTEMPT, msgspec.structs.asdict(attempt))

    async def move_node(
        self, db: aiosqlite.Connection, job_hash: str, key: NodeKey, state: NodeState, reason: str = ""
    ) -> bool:
        return await _changed(db, _MOVE_NODE, {
            "job_hash": job_hash, "step": key.step, "index": key.index, "state": state, "reason": reason,
            "sources": _json(node_sources(state)),
        })  # fmt: skip

    async def retry_node(self, db: aiosqlite.Connection, node: Node) -> bool:
        """Let a node start again whose attempt was lost."""
        row = {"job_hash": node.job_hash, "step": node.step, "index": node.index}
        return await _changed(db, _RETRY_NODE, row)

    async def submit_attempt(self, db: aiosqlite.Connection, name: str, handle: str) -> None:
        """An executor's own queue has taken it."""
        await db.execute(_SUBMIT_ATTEMPT, {"name": name, "handle": handle})

    async def start_attempt(self, db: aiosqlite.Connection, name: str, started: float) -> None:
        await db.execute(_START_ATTEMPT, {"name": name, "started": started})

    async def end_attempt(self, db: aiosqlite.Connection, attempt: Attempt) -> bool:
        """Close an attempt and charge its owner, once: elapsed time x cores, as sacct's CPUTime."""
        if not await _changed(db, _END_ATTEMPT, msgspec.structs.asdict(attempt)):
            return False
        elapsed = attempt.elapsed or 0.0
        if elapsed and attempt.step:
            await db.execute(_CHARGE, {
                "ended": attempt.ended, "job_hash": attempt.job_hash, "core_seconds": elapsed * attempt.cores,
                "elapsed": elapsed,
            })  # fmt: skip
        return True

    async def fail(self, db: aiosqlite.Connection, job_hash: str, reason: str) -> None:
        """End a job that scd cannot go on with, with all that is live of it."""
        row = {"job_hash": job_hash, "reason": reason, "at": time.time()}
        for statement in (_FAIL_ATTEMPTS, _FAIL_NODES, _FAIL_JOB):
            await db.execute(statement, row)

    async def forget_archive(self, db: aiosqlite.Connection, job_hash: str, archive: str) -> None:
        row = {"job_hash": job_hash, "archive": archive}
        await db.execute("UPDATE attempts SET archive = NULL WHERE job_hash = :job_hash AND archive = :archive", row)

    async def delete(self, db: aiosqlite.Connection, job_hash: str) -> bool:
        """Forget an ended job but for its tombstone."""
        await db.execute(_BURY, {"job_hash": job_hash, "deleted": time.time()})
        return await _changed(db, _DELETE, {"job_hash": job_hash})


async def _changed(db: aiosqlite.Connection, sql: str, parameters: Mapping[str, Any]) -> bool:
    return bool(list(await db.execute_fetchall(sql, parameters)))


def _json(values: Iterable[str]) -> str:
    return msgspec.json.encode(list(values)).decode()


def _one(kind: type[T], rows: Iterable[Row]) -> T | None:
    return next(iter(_all(kind, rows)), None)


def _all(kind: type[T], rows: Iterable[Row]) -> list[T]:
    return [msgspec.convert(dict(row), kind, strict=False) for row in rows]
