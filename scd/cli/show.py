"""``scdctl show HASH``: one job, its flowgraph, how each node went, and where the time went."""

import argparse
from typing import Any

from ..config import Config
from .reading import as_json, source
from .table import (
    NOTHING,
    Record,
    Table,
    clean,
    coloured,
    duration,
    fine,
    first_line,
    local_time,
    plain,
    print_json,
    size,
)

_OWN = ("timing", "nodes", "events")  # of a record, and no plain value

TIMES = Table(
    {
        "node": lambda node: f"{node['step']}/{node['index']}",
        "status": lambda node: node["status"],
        "wait": lambda node: fine(node["wait"]),
        "run": lambda node: fine(node["run"]),
        "archive": lambda node: fine(node["archive"]),
        "cpu": lambda node: fine(node["cpu_seconds"]),
    },
    default=("node", "status", "wait", "run", "archive", "cpu"),
    aliases={},
)


async def show(config: Config, arguments: argparse.Namespace) -> None:
    async with source(config) as found:
        job = await found.job(arguments.job)
    if arguments.json:
        print_json(as_json("jobs", [{key: value for key, value in job.items() if key != "events"}]))
        return
    for line in plain({key: value for key, value in job.items() if key not in (*_OWN, "elapsed")}):
        print(line)
    if arguments.timing:
        _print_timing(job)
    elif job["nodes"]:
        print("\nFlowgraph, with what each node waits for:")
        for node in job["nodes"]:
            _print_node(node)


def _print_node(node: Record) -> None:
    indent = f"  {'  ' * node['level']}"
    inputs = f" <- {', '.join(node['inputs'])}" if node["inputs"] else ""
    print(f"{indent}{clean(node['step'])}/{clean(node['index'])} {coloured(node['status'])}{clean(inputs)}")
    values: dict[str, Any] = {
        "Attempts": node["attempts"] or None, "Start": _known(local_time(node["started"])),
        "Time": _known(duration(node["elapsed"])), "CPU": _known(fine(node["cpu_seconds"])),
        "Memory": _known(size(node["peak_bytes"])), "Reason": first_line(node["reason"]),
    }  # fmt: skip
    if figures := plain(values):
        print(f"{indent}    {' '.join(figures)}")


def _print_timing(job: Record) -> None:
    timing = job["timing"]
    print("\nWhere the time went:")
    steps = {
        "upload": size(job["upload_bytes"]), "queue": "until its preparation began", "unpack": "",
        "prepare": "by SiliconCompiler", "run": "from the first node's start to the last one's end",
        "total": "from the submission to the end",
        "download": f"{timing['downloads']} times, {size(timing['download_bytes'])}" if timing["downloads"] else "",
    }  # fmt: skip
    for step, remark in steps.items():
        print(f"  {step:8}  {fine(timing[step]):>10}  {remark}".rstrip())
    if job["nodes"]:
        print()
        TIMES.print(job["nodes"], header=True, parsable=False, chosen=None)


def _known(text: str) -> str | None:
    return None if text == NOTHING else text
