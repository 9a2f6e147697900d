"""``scdctl show HASH``: one job, its flowgraph, and how each node went."""

import argparse
from typing import Any

from ..config import Config
from ..units import format_duration, format_size
from .jobs import job_record, node_records
from .reading import as_json, find_job, open_store
from .table import clean, plain, print_json


async def show(config: Config, arguments: argparse.Namespace) -> None:
    async with open_store(config) as store:
        job = await store.job(await find_job(store, arguments.job))
        assert job is not None
        nodes = await node_records(store, job.job_hash)
    record = job_record(job)
    if arguments.json:
        print_json(as_json("jobs", [{**record, "nodes": nodes}]))
        return
    for line in plain(record):
        print(line)
    plan = job.decoded_plan()
    if plan is None:
        return
    by_key = {(node["step"], node["index"]): node for node in nodes}
    print("\nFlowgraph, with what each node waits for:")
    for planned in plan.nodes:
        node = by_key[planned.step, planned.index]
        inputs = ", ".join(map(str, planned.key_inputs))
        print(f"  {'  ' * planned.level}{clean(str(planned.key))}{' <- ' if inputs else ''}{clean(inputs)}")
        print(f"  {'  ' * planned.level}    {' '.join(_figures(node))}")


def _figures(node: dict[str, Any]) -> list[str]:
    values: dict[str, Any] = {
        "Status": node["status"], "Attempts": node["attempts"],
        "Time": None if node["elapsed"] is None else format_duration(node["elapsed"]),
        "CPU": None if node["cpu_seconds"] is None else f"{node['cpu_seconds']:.2f}s",
        "Memory": None if node["peak_bytes"] is None else format_size(node["peak_bytes"]),
        "Reason": node["reason"].partition("\n")[0],
    }  # fmt: skip
    return plain(values)
