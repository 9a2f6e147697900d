"""Jobs and nodes as records, the one form in which ``scdctl --json`` and the admin socket show them: version 1.

Times are RFC 3339 in UTC, durations seconds, sizes bytes. What is not known is null. Keys are only ever added.
"""

import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from .board import Waits
from .errors import UnknownJob
from .model import Attempt, Event, Job, Node, NodeKey, Plan
from .store import JobStore, UsageStore

VERSION = 1
MIN_PREFIX = 4
_MOST_NAMED = 5

Record = dict[str, Any]
Waiting = Callable[[str], Waits]  # of a job, by its hash


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs or nodes. None lets all through; ``since`` and ``until`` are seconds since 1970."""

    users: frozenset[str] | None = None
    jobs: tuple[str, ...] | None = None  # hashes, or beginnings of them
    states: frozenset[str] | None = None
    since: float | None = None
    until: float | None = None
    limit: int = 100


def unknown(_: str) -> Waits:
    """What is known while the daemon is down."""
    return Waits()


async def list_jobs(store: JobStore, query: Query, waiting: Waiting = unknown) -> list[Record]:
    """The newest first, ``query.limit`` at most. Raises UnknownJob."""
    return [job_record(job, waiting(job.job_hash)) for job in await _jobs(store, query, query.states)]


async def list_nodes(store: JobStore, query: Query, waiting: Waiting = unknown) -> list[Record]:
    """The nodes of unfinished jobs, or of those that ``query`` names by hash or time. Raises UnknownJob."""
    if query.jobs is None and query.since is None and query.until is None:
        jobs = [job for job in await store.unfinished() if query.users is None or job.user in query.users]
    else:
        jobs = await _jobs(store, query, None)
    records: list[Record] = []
    for job in jobs:
        attempts, waits = _newest(await store.attempts(job.job_hash)), waiting(job.job_hash)
        records += [
            node_record(job, node, attempts.get(node.key), waits)
            for node in await store.nodes(job.job_hash)
            if (query.states is None or node.state in query.states) and _within(query, attempts.get(node.key))
        ]
    return records


async def describe(store: JobStore, job_hash: str, waiting: Waiting = unknown) -> Record:
    """A job with all that is known of it: its nodes, what they wait for, where the time went, every change of state."""
    job = await store.job(job_hash)
    if job is None:
        raise UnknownJob(f"There is no job {job_hash} here.")
    nodes, attempts = await store.nodes(job_hash), await store.attempts(job_hash)
    newest, plan = _newest(attempts), job.decoded_plan()
    preparation, waits = newest.get(NodeKey("", "")), waiting(job_hash)
    records = [node_record(job, node, newest.get(node.key), waits) for node in nodes]
    for node, record in zip(nodes, records, strict=True):
        record |= _place(plan, node.key) | _node_timing(plan, node.key, newest, preparation)
    timing = _job_timing(job, attempts, preparation) | await _download(store, job_hash)
    return {**job_record(job, waits), "timing": timing, "nodes": records,
            "events": [_event_record(event) for event in await store.events(job_hash)]}  # fmt: skip


async def find(store: JobStore, prefix: str, users: Collection[str] | None = None) -> str:
    """The one job whose hash begins with ``prefix``, of these users' if that is all that may be seen.

    Raises UnknownJob, which names the jobs if there are several.
    """
    wanted = prefix.lower()
    if len(wanted) < MIN_PREFIX or not all(char in "0123456789abcdef" for char in wanted):
        raise UnknownJob(f"{prefix!r} is no job hash: give at least the first {MIN_PREFIX} of its 32 characters.")
    hashes = await store.matching(wanted, users, _MOST_NAMED + 1)
    jobs = await store.select(hashes=hashes, limit=_MOST_NAMED + 1)
    if not jobs:
        raise UnknownJob(f"There is no job {prefix} here.")
    if len(jobs) > 1:
        named = ", ".join(f"{job.job_hash[: len(wanted) + 6]} ({job.design})" for job in jobs[:_MOST_NAMED])
        more = ", and more" if len(jobs) > _MOST_NAMED else ""
        raise UnknownJob(f"Several jobs begin with {prefix}: {named}{more}. Give more of the hash.")
    return jobs[0].job_hash


def job_record(job: Job, waits: Waits) -> Record:
    elapsed = None if job.started is None else max(0.0, (job.ended or time.time()) - job.started)
    return {
        "job_hash": job.job_hash, "user": job.user, "status": job.state, "reason": waits.reason or job.reason,
        "design": job.design, "jobname": job.jobname, "flow": job.flow, "runtime": job.runtime,
        "created": rfc3339(job.created), "started": rfc3339(job.started), "ended": rfc3339(job.ended),
        "elapsed": elapsed, "upload_bytes": job.upload_bytes, "disk_bytes": job.disk_bytes,
    }  # fmt: skip


def node_record(job: Job, node: Node, attempt: Attempt | None, waits: Waits) -> Record:
    """A node with the figures of its newest attempt. Why it waits is no state of it, and in no database."""
    reason = node.reason if node.state.done else waits.nodes.get(str(node.key), node.reason)
    record: Record = {
        "job_hash": node.job_hash, "user": job.user, "design": job.design, "step": node.step, "index": node.index,
        "status": node.state, "reason": reason, "attempts": node.attempt, "cores": node.cores, "queued": None,
        "started": None, "ended": None, "elapsed": None, "exit_code": None, "cpu_seconds": None, "peak_bytes": None,
        "read_bytes": None, "written_bytes": None,
    }  # fmt: skip
    if attempt is None:
        return record
    elapsed = attempt.elapsed
    if elapsed is None and attempt.started is not None and node.state.live:
        elapsed = max(0.0, time.time() - attempt.started)
    return record | {
        "queued": rfc3339(attempt.queued), "started": rfc3339(attempt.started), "ended": rfc3339(attempt.ended),
        "elapsed": elapsed, "exit_code": attempt.exit_code, "cpu_seconds": attempt.cpu_seconds,
        "peak_bytes": attempt.peak_bytes, "read_bytes": attempt.read_bytes, "written_bytes": attempt.written_bytes,
    }  # fmt: skip


def rfc3339(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _jobs(store: JobStore, query: Query, states: Iterable[str] | None) -> list[Job]:
    hashes = None
    if query.jobs is not None:
        hashes = [await find(store, prefix, query.users) for prefix in query.jobs]
    return await store.select(
        users=query.users, hashes=hashes, states=states, since=query.since, until=query.until, limit=query.limit
    )


def _newest(attempts: Iterable[Attempt]) -> dict[NodeKey, Attempt]:
    return {attempt.key: attempt for attempt in attempts}  # the store has them in their order


def _within(query: Query, attempt: Attempt | None) -> bool:
    """Whether a node lasted into the time asked for. One that never began is within no time."""
    if query.since is None and query.until is None:
        return True
    if attempt is None:
        return False
    begun = query.until is None or attempt.queued <= query.until
    return begun and (query.since is None or attempt.ended is None or attempt.ended >= query.since)


def _place(plan: Plan | None, key: NodeKey) -> Record:
    planned = next((node for node in plan.nodes if node.key == key), None) if plan is not None else None
    if planned is None:
        return {"level": 0, "inputs": [], "tool": None}
    return {"level": planned.level, "inputs": [str(one) for one in planned.key_inputs], "tool": planned.tool}


def _job_timing(job: Job, attempts: Iterable[Attempt], preparation: Attempt | None) -> Record:
    """``prepare`` is without the unpacking; ``run`` is from the first node's start to the last one's end."""
    of_nodes = [attempt for attempt in attempts if attempt.step and attempt.started is not None]
    begun = min((attempt.started for attempt in of_nodes if attempt.started is not None), default=None)
    ended = max((attempt.ended for attempt in of_nodes if attempt.ended is not None), default=None)
    unpack = None if preparation is None else preparation.unpack_seconds
    whole = None if preparation is None else preparation.elapsed
    return {
        "upload": job.upload_seconds, "queue": None if preparation is None else _span(job.created, preparation.queued),
        "unpack": unpack, "prepare": None if whole is None else max(0.0, whole - (unpack or 0.0)),
        "run": _span(begun, ended), "total": _span(job.created, job.ended),
    }  # fmt: skip


def _node_timing(
    plan: Plan | None, key: NodeKey, newest: dict[NodeKey, Attempt], preparation: Attempt | None
) -> Record:
    """``wait`` is what a node waited for a free core once all its inputs were there, its start included."""
    attempt = newest.get(key)
    if attempt is None or plan is None:
        return {"wait": None, "run": None, "archive": None}
    inputs = next((node.key_inputs for node in plan.nodes if node.key == key), ())
    ends = [newest[one].ended for one in inputs if one in newest]
    ends.append(preparation.ended if preparation is not None else None)
    ready = max((end for end in ends if end is not None), default=None)
    archive = attempt.archive_seconds
    run = None if attempt.elapsed is None else max(0.0, attempt.elapsed - (archive or 0.0))
    return {"wait": _span(ready, attempt.started), "run": run, "archive": archive}


async def _download(store: JobStore, job_hash: str) -> Record:
    times, sent, seconds = await UsageStore(store.database).downloads(job_hash)
    return {"download": seconds if times else None, "downloads": times, "download_bytes": sent}


def _span(begin: float | None, end: float | None) -> float | None:
    """The clock may have been set back meanwhile."""
    return None if begin is None or end is None else max(0.0, end - begin)


def _event_record(event: Event) -> Record:
    return {
        "at": rfc3339(event.at), "step": event.step, "index": event.index, "old": event.old, "new": event.new,
        "reason": event.reason,
    }  # fmt: skip
