"""``scdctl jobs`` and ``scdctl nodes``."""

import argparse
import time
from typing import Any

from ..config import Config
from ..model import Attempt, Job, Node
from ..store import JobStore
from ..units import format_duration
from .reading import as_json, find_job, open_store
from .table import print_json, print_table, rfc3339, short_time

JOB_COLUMNS = ("job_hash", "user", "design", "flow", "status", "created", "time", "reason")
NODE_COLUMNS = ("node", "status", "attempts", "cores", "time", "cpu", "reason")
_SHORT = 8


async def jobs(config: Config, arguments: argparse.Namespace) -> None:
    async with open_store(config) as store:
        if arguments.job is not None:
            job = await store.job(await find_job(store, arguments.job))
            found = [job] if job is not None else []
        else:
            found = await store.recent(arguments.user, arguments.limit)
    found = [job for job in found if _wanted(arguments, job.state, job.user)]
    if arguments.json:
        print_json(as_json("jobs", [job_record(job) for job in found]))
        return
    rows = [
        (job.job_hash if arguments.parsable else job.job_hash[:_SHORT], job.user or "-", job.design, job.flow,
         job.state, short_time(job.created), _duration(job), _first_line(job.reason))
        for job in found
    ]  # fmt: skip
    print_table(JOB_COLUMNS, rows, header=not arguments.noheader, parsable=arguments.parsable, chosen=arguments.format)


async def nodes(config: Config, arguments: argparse.Namespace) -> None:
    records: list[dict[str, Any]] = []
    async with open_store(config) as store:
        if arguments.job is not None:
            hashes = [await find_job(store, arguments.job)]
        else:
            hashes = [job.job_hash for job in await store.unfinished()]
        for job_hash in hashes:
            records += await node_records(store, job_hash)
    records = [record for record in records if _wanted(arguments, record["status"], record["user"])]
    if arguments.json:
        print_json(as_json("nodes", records))
        return
    rows = [node_row(record, whole=arguments.parsable) for record in records]
    print_table(NODE_COLUMNS, rows, header=not arguments.noheader, parsable=arguments.parsable, chosen=arguments.format)


async def node_records(store: JobStore, job_hash: str) -> list[dict[str, Any]]:
    """The nodes of a job with the figures of their newest attempt, as ``--json`` shows them."""
    job = await store.job(job_hash)
    newest = {attempt.key: attempt for attempt in await store.attempts(job_hash)}
    user = job.user if job else ""
    return [_node_record(node, newest.get(node.key), user) for node in await store.nodes(job_hash)]


def job_record(job: Job) -> dict[str, Any]:
    return {
        "job_hash": job.job_hash, "user": job.user, "status": job.state, "reason": job.reason, "design": job.design,
        "jobname": job.jobname, "flow": job.flow, "runtime": job.runtime, "created": rfc3339(job.created),
        "started": rfc3339(job.started), "ended": rfc3339(job.ended), "upload_bytes": job.upload_bytes,
    }  # fmt: skip


def node_row(record: dict[str, Any], *, whole: bool) -> tuple[str, ...]:
    job_hash = record["job_hash"] if whole else record["job_hash"][:_SHORT]
    elapsed, cpu = record["elapsed"], record["cpu_seconds"]
    return (
        f"{job_hash}.{record['step']}/{record['index']}", record["status"], str(record["attempts"]),
        str(record["cores"]), "-" if elapsed is None else format_duration(elapsed),
        "-" if cpu is None else f"{cpu:.1f}s", _first_line(record["reason"]) or "-",
    )  # fmt: skip


def _node_record(node: Node, attempt: Attempt | None, user: str) -> dict[str, Any]:
    record: dict[str, Any] = {
        "job_hash": node.job_hash, "user": user, "step": node.step, "index": node.index, "status": node.state,
        "reason": node.reason, "attempts": node.attempt, "cores": node.cores, "queued": None, "started": None,
        "ended": None, "elapsed": None, "exit_code": None, "cpu_seconds": None, "peak_bytes": None,
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


def _wanted(arguments: argparse.Namespace, status: str, user: str) -> bool:
    states = arguments.states
    return (states is None or status in states) and (arguments.user is None or user == arguments.user)


def _duration(job: Job) -> str:
    if job.started is None:
        return "-"
    return format_duration((job.ended or time.time()) - job.started)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
