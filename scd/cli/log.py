"""``scdctl log``: a job's events, or a node's log, live while it runs."""

import argparse
import asyncio
import sys

from ..config import Config
from ..errors import NoResults, NotRunning, UnknownJob
from ..listing import Record
from ..model import NodeKey
from ..states import JobState, NodeState
from .reading import Piece, Source, source, split_target
from .table import clean, local_time
from .words import meant

_FOLLOW_INTERVAL = 0.5


async def log(config: Config, arguments: argparse.Namespace) -> None:
    prefix, key = split_target(arguments.target)
    async with source(config) as found:
        job = await found.job(prefix)
        if key is None:
            await _job_log(found, job, follow=arguments.follow)
        else:
            await _node_log(found, job, key, follow=arguments.follow)


async def _job_log(found: Source, job: Record, *, follow: bool) -> None:
    """Every change of state, then the logs of the nodes that failed."""
    shown = 0
    while True:
        _print_events(job["events"][shown:])
        shown = len(job["events"])
        if not follow or JobState(job["status"]).ended:
            break
        await asyncio.sleep(_FOLLOW_INTERVAL)
        job = await found.job(job["job_hash"])
    for node in job["nodes"]:
        if NodeState(node["status"]).failed:
            key = NodeKey(node["step"], node["index"])
            print(f"\n== {clean(str(key))}: {clean(node['reason'])}")
            try:
                await _print_rest(found, job["job_hash"], key, 0)
            except (NoResults, NotRunning) as nothing:
                print(clean(f"({nothing.message})"))


def _print_events(events: list[Record]) -> None:
    for event in events:
        what = f"{event['step']}/{event['index']} " if event["step"] else ""
        change = f"{event['old']} -> {event['new']}" if event["old"] else event["new"]
        print(clean(f"{local_time(event['at'])} {what}{change} {event['reason']}".rstrip()), flush=True)


async def _node_log(found: Source, job: Record, key: NodeKey, *, follow: bool) -> None:
    job_hash, offset = job["job_hash"], 0
    while (node := _node(job, key)).live or (follow and _may_run(job, node)):
        try:
            piece = await found.log(job_hash, key, offset)
        except (NoResults, NotRunning):  # it has just ended, or has not written yet
            piece = Piece("", offset, live=True)
        if not piece.live:
            break  # it has ended meanwhile: the rest is in its archive, all of it
        _write(piece.text)
        offset = piece.offset
        if not piece.text:
            if not follow:
                return
            await asyncio.sleep(_FOLLOW_INTERVAL)
            job = await found.job(job_hash)
    if node is NodeState.PENDING:
        raise NoResults(f"Node {key} has not run: it is {node}.")
    await _print_rest(found, job_hash, key, offset)


async def _print_rest(found: Source, job_hash: str, key: NodeKey, offset: int) -> None:
    """An ended node's log from ``offset`` on. Raises NoResults or NotRunning if it left none."""
    while (piece := await found.log(job_hash, key, offset)).text:
        _write(piece.text)
        offset = piece.offset


def _may_run(job: Record, node: NodeState) -> bool:
    return node is NodeState.PENDING and not JobState(job["status"]).ended


def _node(job: Record, key: NodeKey) -> NodeState:
    names = [f"{node['step']}/{node['index']}" for node in job["nodes"]]
    if str(key) not in names:
        there = f"It has: {', '.join(names)}." if names else "It has none yet."
        raise UnknownJob(clean(f"Job {job['job_hash']} has no node {key}.{meant(str(key), names)} {there}"))
    return NodeState(job["nodes"][names.index(str(key))]["status"])


def _write(text: str) -> None:
    for line in text.splitlines(keepends=True):
        sys.stdout.write(clean(line.rstrip("\n").replace("\t", "    ")) + ("\n" if line.endswith("\n") else ""))
    sys.stdout.flush()
