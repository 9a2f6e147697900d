"""``scdctl log``: a job's events, or a node's log, live while it runs."""

import argparse
import asyncio
import sys
from pathlib import Path

from ..archive import read_member
from ..config import Config
from ..durable import open_plain
from ..errors import NoResults, NotRunning, UnknownJob
from ..model import Node, NodeKey
from ..sealed import sealed
from ..spool import Spool
from ..store import JobStore
from .daemon import ask
from .reading import NotAllowed, find_job, open_store, split_target
from .table import clean, short_time

_FOLLOW_INTERVAL = 0.5


async def log(config: Config, arguments: argparse.Namespace) -> None:
    prefix, node = split_target(arguments.target)
    async with open_store(config) as store:
        job_hash = await find_job(store, prefix)
        if node is None:
            await _job_log(config, store, job_hash)
        else:
            await _node_log(config, store, job_hash, NodeKey(*node), follow=arguments.follow)


async def _job_log(config: Config, store: JobStore, job_hash: str) -> None:
    """Every change of state, then the logs of the nodes that failed."""
    for event in await store.events(job_hash):
        what = f"{event.step}/{event.index} " if event.step else ""
        change = f"{event.old} -> {event.new}" if event.old else event.new
        print(clean(f"{short_time(event.at)} {what}{change} {event.reason}".rstrip()))
    for node in await store.nodes(job_hash):
        if node.state.failed:
            print(f"\n== {clean(str(node.key))}: {clean(node.reason)}")
            _write(await _archived(config, store, node))


async def _node_log(config: Config, store: JobStore, job_hash: str, key: NodeKey, *, follow: bool) -> None:
    node = await _node(store, job_hash, key)
    offset = 0
    while node.state.live:
        try:
            answer = await asyncio.to_thread(
                ask, config, "GET", "admin", "log", job_hash, key.step, key.index, query=f"?offset={offset}"
            )
        except NotRunning:  # it has just ended, or has not written yet
            if not follow:
                break
        else:
            _write(answer["text"])
            offset = answer["offset"]
            if not follow:
                return
        await asyncio.sleep(_FOLLOW_INTERVAL)
        node = await _node(store, job_hash, key)
    if not node.attempt:
        raise NoResults(f"Node {key} has not run: it is {node.state}.")
    text = await _archived(config, store, node)
    _write(text.encode()[offset:].decode(errors="replace"))


async def _node(store: JobStore, job_hash: str, key: NodeKey) -> Node:
    found = next((node for node in await store.nodes(job_hash) if node.key == key), None)
    if found is None:
        raise UnknownJob(f"Job {job_hash} has no node {key}.")
    return found


async def _archived(config: Config, store: JobStore, node: Node) -> str:
    archive = await store.archive(node.job_hash, node.key)
    if archive is None:
        return "(it left no files)\n"
    path = Spool(Path(config.paths.spool)).job(node.job_hash).archives / archive
    try:
        data = await asyncio.to_thread(_read, path, f"sc_{node.step}_{node.index}.log")
    except FileNotFoundError:
        if not await asyncio.to_thread(sealed(path).exists):
            raise
        return "(it is encrypted to the key of the job's owner)\n"
    except PermissionError:
        raise NotAllowed(f"{path} cannot be read by this account. Use root's or scd's.") from None
    return "(it wrote no log)\n" if data is None else data.decode(errors="replace")


def _read(archive: Path, name: str) -> bytes | None:
    with open(open_plain(archive), "rb") as file:
        return read_member(file, name)


def _write(text: str) -> None:
    for line in text.splitlines(keepends=True):
        sys.stdout.write(clean(line.rstrip("\n").replace("\t", "    ")) + ("\n" if line.endswith("\n") else ""))
    sys.stdout.flush()
