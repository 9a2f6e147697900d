"""Nodes and their attempts. Every change of state is guarded: it happens only from a state that allows it."""

from collections.abc import Iterable, Mapping, Sequence

import aiosqlite
import msgspec

from ..model import Attempt, Node, NodeKey, PlanNode, number_in
from ..states import NodeState, node_sources
from .db import Database
from .rows import all_changed, as_json, changed, every, one

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
        AND state IN (SELECT value FROM json_each(:sources))"""
_RETRY_NODE = """
    UPDATE nodes SET state = 'pending', retries = retries + 1
    WHERE job_hash = :job_hash AND step = :step AND "index" = :index AND state = 'error' RETURNING n"""
_CLAIM_NODE = """
    UPDATE nodes SET state = 'queued', reason = '', attempt = :attempt
    WHERE job_hash = :job_hash AND step = :step AND "index" = :index
        AND state = 'pending' AND attempt = :attempt - 1"""
_INSERT_ATTEMPT = """
    INSERT INTO attempts (name, job_hash, step, "index", attempt, executor, cores, queued, memory)
    VALUES (:name, :job_hash, :step, :index, :attempt, :executor, :cores, :queued, :memory)"""
_JOIN_ARRAY = "UPDATE attempts SET array = :array, element = :element WHERE name = :name"
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
_ATTEMPTS = "SELECT * FROM attempts WHERE job_hash = :job_hash ORDER BY queued, name"
_LAST_ARCHIVE = """
    SELECT archive FROM attempts WHERE job_hash = :job_hash AND step = :step AND "index" = :index
        AND archive IS NOT NULL ORDER BY attempt DESC LIMIT 1"""
_ARCHIVES = "SELECT job_hash, archive, archive_bytes FROM attempts WHERE archive IS NOT NULL"
_MEASURED_ARCHIVE = "UPDATE attempts SET archive_bytes = :size WHERE name = :name AND archive_bytes IS NULL"
_NEWEST_ARCHIVES = """
    SELECT archive, max(attempt) FROM attempts AS a WHERE job_hash = :job_hash AND archive IS NOT NULL
        AND (step = '' OR EXISTS (SELECT 1 FROM nodes AS n
                                  WHERE n.job_hash = a.job_hash AND n.step = a.step AND n."index" = a."index"))
    GROUP BY step, "index" """


class NodeStore:
    """Methods named after what happened. Those that change take the transaction they are part of."""

    def __init__(self, database: Database):
        self.database = database

    # -- reads

    async def nodes(self, job_hash: str, db: aiosqlite.Connection | None = None) -> list[Node]:
        """``db``: as a transaction in progress sees them."""
        row = {"job_hash": job_hash}
        rows = await (self.database.read(_NODES, row) if db is None else db.execute_fetchall(_NODES, row))
        return every(Node, rows)

    async def node_named(self, job_hash: str, name: str) -> Node | None:
        """A node by the client's word for it, step and index in one."""
        return one(Node, await self.database.read(_NODE_NAMED, {"job_hash": job_hash, "name": name}))

    async def attempts(self, job_hash: str) -> list[Attempt]:
        return every(Attempt, await self.database.read(_ATTEMPTS, {"job_hash": job_hash}))

    async def archive(self, job_hash: str, key: NodeKey) -> str | None:
        """The file name of a node's newest archive; NodeKey("", "") is the set-up manifest's."""
        row = {"job_hash": job_hash, "step": key.step, "index": key.index}
        return next((found["archive"] for found in await self.database.read(_LAST_ARCHIVE, row)), None)

    async def newest_archives(self, job_hash: str) -> list[str]:
        """The file name of each node's newest archive, and of the set-up manifest's."""
        row = {"job_hash": job_hash}
        return [found["archive"] for found in await self.database.read(_NEWEST_ARCHIVES, row)]

    async def archives(self) -> dict[str, dict[str, int | None]]:
        """By job the file names of all archives, with the bytes of those that have been measured."""
        found: dict[str, dict[str, int | None]] = {}
        for row in await self.database.read(_ARCHIVES):
            found.setdefault(row["job_hash"], {})[row["archive"]] = row["archive_bytes"]
        return found

    # -- changes

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

    async def claim_nodes(self, db: aiosqlite.Connection, attempts: Sequence[Attempt]) -> None:
        """Write down, before anything is started, that these attempts of nodes will be. Raises Outdated."""
        rows = [msgspec.structs.asdict(attempt) for attempt in attempts]
        await all_changed(db, _CLAIM_NODE, rows)
        await db.executemany(_INSERT_ATTEMPT, rows)

    async def add_attempt(self, db: aiosqlite.Connection, attempt: Attempt) -> None:
        await db.execute(_INSERT_ATTEMPT, msgspec.structs.asdict(attempt))

    async def move_node(
        self, db: aiosqlite.Connection, job_hash: str, key: NodeKey, state: NodeState, reason: str = ""
    ) -> bool:
        return await changed(db, f"{_MOVE_NODE} RETURNING n", _move(job_hash, key, state, reason))

    async def move_nodes(
        self, db: aiosqlite.Connection, job_hash: str, keys: Iterable[NodeKey], state: NodeState
    ) -> None:
        """Raises Outdated for one that is in no state that it can leave for this."""
        await all_changed(db, _MOVE_NODE, [_move(job_hash, key, state) for key in keys])

    async def retry_node(self, db: aiosqlite.Connection, node: Node) -> bool:
        """Let a node start again whose attempt was lost."""
        row = {"job_hash": node.job_hash, "step": node.step, "index": node.index}
        return await changed(db, _RETRY_NODE, row)

    async def join_arrays(self, db: aiosqlite.Connection, attempts: Iterable[Attempt]) -> None:
        """Write down, before anything is submitted, which attempts go together."""
        await db.executemany(_JOIN_ARRAY, [msgspec.structs.asdict(attempt) for attempt in attempts])

    async def submit_attempts(self, db: aiosqlite.Connection, handles: Mapping[str, str]) -> None:
        """An executor's own queue has taken them: by their names what they are called there."""
        await db.executemany(_SUBMIT_ATTEMPT, [{"name": name, "handle": handle} for name, handle in handles.items()])

    async def start_attempt(self, db: aiosqlite.Connection, name: str, started: float) -> None:
        await db.execute(_START_ATTEMPT, {"name": name, "started": started})

    async def end_attempt(self, db: aiosqlite.Connection, attempt: Attempt) -> bool:
        """Close an attempt and charge its owner, once: elapsed time x cores, as sacct's CPUTime."""
        if not await changed(db, _END_ATTEMPT, msgspec.structs.asdict(attempt)):
            return False
        elapsed = attempt.elapsed or 0.0
        if elapsed:
            await db.execute(_CHARGE, {
                "ended": attempt.ended, "job_hash": attempt.job_hash, "core_seconds": elapsed * attempt.cores,
                "elapsed": elapsed,
            })  # fmt: skip
        return True

    async def measured_archives(self, db: aiosqlite.Connection, archives: Mapping[str, int]) -> None:
        """The bytes that they have when they are first seen, by their attempts: one that has less later was cut off."""
        await db.executemany(_MEASURED_ARCHIVE, [{"name": name, "size": size} for name, size in archives.items()])

    async def forget_archive(self, db: aiosqlite.Connection, job_hash: str, archive: str) -> None:
        row = {"job_hash": job_hash, "archive": archive}
        await db.execute("UPDATE attempts SET archive = NULL WHERE job_hash = :job_hash AND archive = :archive", row)


def _move(job_hash: str, key: NodeKey, state: NodeState, reason: str = "") -> dict[str, str]:
    return {
        "job_hash": job_hash, "step": key.step, "index": key.index, "state": state, "reason": reason,
        "sources": as_json(node_sources(state)),
    }  # fmt: skip
