"""A database as months of use leave it, written before a daemon opens it."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from scd.model import NodeKey, Plan, PlanNode
from scd.states import JobState, NodeState
from scd.store import Database, JobStore

from ..unit.rows import attempt, job

ENDS = (JobState.COMPLETED, JobState.COMPLETED, JobState.COMPLETED, JobState.FAILED, JobState.CANCELED)
LARGE = "f" * 32


def seed(state: Path, jobs: int, user: str = "", nodes: int = 200) -> None:
    """``jobs`` finished jobs of a user, and one of ``nodes`` nodes, ``LARGE``, that is the newest."""
    state.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as thread:  # a test that drives a browser has an event loop in its own
        thread.submit(asyncio.run, _seed(state / "scd.db", jobs, user, nodes)).result()


async def _seed(path: Path, jobs: int, user: str, nodes: int) -> None:
    now = time.time()
    async with await Database.open(path) as database:
        store = JobStore(database)
        async with database.transaction() as db:
            for number in range(jobs):
                created = now - 60 * (jobs - number) - 600
                end = ENDS[number % len(ENDS)]
                await store.add(db, job(
                    f"{number:032x}", user=user, state=end, created=created, ended=created + 30,
                    design=f"block{number}",
                    reason="" if end is JobState.COMPLETED else "syn/0 failed (exit code 1)",
                ))  # fmt: skip
            await store.add(db, job(LARGE, user=user, created=now - 300, design="large"))
            await store.move(db, LARGE, JobState.PREPARING)
            plan = large_plan(nodes)
            raw = msgspec.json.encode(plan)
            await store.set_plan(db, LARGE, raw, plan.nodes, {node.key: 1 for node in plan.nodes})
            await store.move(db, LARGE, JobState.RUNNING)
            for number, node in enumerate(plan.nodes, 1):
                ended = NodeState.ERROR if number % 37 == 0 else NodeState.SUCCESS
                one = attempt(
                    f"scd-{LARGE}-{number}.1", node.step, job_hash=LARGE, index=node.index, started=now - 200,
                    ended=now - 100, elapsed=100.0, state=ended, cpu_seconds=93.5, peak_bytes=2**29 + number,
                )  # fmt: skip
                await store.claim_nodes(db, [one])
                await store.move_node(db, LARGE, node.key, NodeState.RUNNING, "")
                await store.end_attempt(db, one)
                await store.move_node(db, LARGE, node.key, ended, "")
            await store.move(db, LARGE, JobState.FAILED, "some nodes failed")


def large_plan(nodes: int) -> Plan:
    """An implementation flow that tries several floorplans, and places and routes each."""
    chain = ("floorplan", "powergrid", "place", "cts", "route", "fill", "drc")
    width = max(1, (nodes - 4) // len(chain))
    made = [_node("import", 0, 0), _node("synthesis", 0, 1, "import/0")]
    for level, step in enumerate(chain):
        for index in range(width):
            above = f"{chain[level - 1]}/{index}" if level else "synthesis/0"
            # Each block's checks see the netlist too: edges that pass over many layers.
            more = ("synthesis/0",) if step == "drc" and index % 8 == 0 else ()
            made.append(_node(step, index, level + 2, above, *more))
    made.append(_node("minimum", 0, len(chain) + 2, *(f"drc/{index}" for index in range(width))))
    made.append(_node("export", 0, len(chain) + 3, "minimum/0"))
    return Plan("large", "job0", "asicflow", tuple(made), (NodeKey("export", "0"),))


def _node(step: str, index: int, level: int, *inputs: str) -> PlanNode:
    keys = tuple(NodeKey(*name.split("/")) for name in inputs)
    return PlanNode(step, str(index), level, NodeState.PENDING, keys, tool="openroad")
