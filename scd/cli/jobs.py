"""``scdctl jobs`` and ``scdctl nodes``."""

import argparse

from ..config import Config
from ..listing import Query
from .reading import as_json, source
from .table import NOTHING, Record, Table, duration, fine, first_line, local_time, number, print_json, size

JOBS = Table(
    {
        "job_hash": lambda job: job["job_hash"],
        "user": lambda job: job["user"] or NOTHING,
        "design": lambda job: job["design"],
        "jobname": lambda job: job["jobname"],
        "flow": lambda job: job["flow"],
        "status": lambda job: job["status"],
        "created": lambda job: local_time(job["created"]),
        "started": lambda job: local_time(job["started"]),
        "ended": lambda job: local_time(job["ended"]),
        "time": lambda job: duration(job["elapsed"]),
        "runtime": lambda job: job["runtime"] or NOTHING,
        "upload": lambda job: size(job["upload_bytes"]),
        "disk": lambda job: size(job["disk_bytes"]),
        "reason": lambda job: first_line(job["reason"]),
    },
    default=("job_hash", "user", "design", "flow", "status", "created", "time", "reason"),
    aliases={
        "jobid": "job_hash", "name": "jobname", "state": "status", "submit": "created", "start": "started",
        "end": "ended", "elapsed": "time",
    },
)  # fmt: skip

NODES = Table(
    {
        "node": lambda node: f"{node['job_hash']}.{node['step']}/{node['index']}",
        "job_hash": lambda node: node["job_hash"],
        "step": lambda node: node["step"],
        "index": lambda node: node["index"],
        "user": lambda node: node["user"] or NOTHING,
        "design": lambda node: node["design"],
        "status": lambda node: node["status"],
        "attempts": lambda node: str(node["attempts"]),
        "cores": lambda node: str(node["cores"]),
        "queued": lambda node: local_time(node["queued"]),
        "started": lambda node: local_time(node["started"]),
        "ended": lambda node: local_time(node["ended"]),
        "time": lambda node: duration(node["elapsed"]),
        "cpu": lambda node: fine(node["cpu_seconds"]),
        "memory": lambda node: size(node["peak_bytes"]),
        "read": lambda node: size(node["read_bytes"]),
        "written": lambda node: size(node["written_bytes"]),
        "exit": lambda node: number(node["exit_code"]),
        "cputime": lambda node: _cpu_time(node),
        "reason": lambda node: first_line(node["reason"]) or NOTHING,
    },
    default=("node", "status", "attempts", "cores", "time", "cpu", "memory", "reason"),
    aliases={
        "jobid": "node", "state": "status", "submit": "queued", "start": "started", "end": "ended", "elapsed": "time",
        "alloccpus": "cores", "ncpus": "cores", "maxrss": "memory", "totalcpu": "cpu", "exitcode": "exit",
        "cputimeraw": "cputime",
    },
)  # fmt: skip


async def jobs(config: Config, arguments: argparse.Namespace) -> None:
    await _list(config, arguments, "jobs", JOBS)


async def nodes(config: Config, arguments: argparse.Namespace) -> None:
    await _list(config, arguments, "nodes", NODES)


async def _list(config: Config, arguments: argparse.Namespace, kind: str, table: Table) -> None:
    table.pick(arguments.format)  # a mistake is told before anything is read
    query = Query(
        users=arguments.users, jobs=arguments.jobs, states=arguments.states, since=arguments.since,
        until=arguments.until, limit=arguments.limit,
    )  # fmt: skip
    async with source(config) as found:
        records: list[Record] = [*await (found.jobs(query) if kind == "jobs" else found.nodes(query))]
    if arguments.json:
        print_json(as_json(kind, [dict(record) for record in records]))
        return
    table.print(records, header=not arguments.noheader, parsable=arguments.parsable, chosen=arguments.format)


def _cpu_time(node: Record) -> str:
    """What the owner is charged, as sacct's CPUTime: elapsed time x cores."""
    return NOTHING if node["elapsed"] is None else duration(node["elapsed"] * node["cores"])
