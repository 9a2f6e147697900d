"""One job as its page shows it: its nodes as rows of a table, and as a picture."""

import functools
from collections.abc import Sequence
from typing import Any

import msgspec

from ..board import JobView, Waits
from ..model import Attempt, Job, Node, NodeKey, Plan
from ..states import JobState, NodeState
from ..units import format_duration, format_size
from .picture import NODE_HEIGHT, NODE_WIDTH, Picture, draw, in_order

_MOST_DRAWN = 1000
_MOST_INPUTS = 4  # named in a row


class Row(msgspec.Struct, frozen=True):
    """A node's line. Texts, but for ``started`` in seconds since 1970."""

    n: int
    key: NodeKey
    state: NodeState
    attempts: int
    tool: str
    inputs: str
    reason: str
    started: float | None
    time: str
    cpu: str
    memory: str
    seconds: int | None  # that it has run, while it runs
    ran: bool


def job_values(
    job: Job, view: JobView | None, nodes: Sequence[Node], attempts: Sequence[Attempt], waits: Waits
) -> dict[str, Any]:
    """What the template wants. Takes some tens of milliseconds for hundreds of nodes: call it from a thread."""
    plan = job.decoded_plan()
    by_key = {node.key: node for node in nodes}
    planned = [node for node in in_order(plan.nodes) if node.key in by_key] if plan is not None else []
    last = {attempt.key: attempt for attempt in attempts}
    running = {key: node.seconds() for key, node in view.nodes.items() if node.elapsed is None} if view else {}
    rows = [
        _row(by_key[node.key], node.tool, node.key_inputs, last.get(node.key), running.get(node.key), waits)
        for node in planned
    ]
    done = sum(row.state.done for row in rows)
    drawn = _drawn(job.plan) if job.plan is not None and len(rows) <= _MOST_DRAWN else None
    return {
        "job": job, "rows": rows, "drawn": drawn, "title": f"{job.design} {job.jobname}: {job.state}",
        "states": {row.key: row.state for row in rows}, "numbers": {row.key: row.n for row in rows},
        "failed": job.state in (JobState.FAILED, JobState.REJECTED, JobState.TIMEOUT),
        "reason": waits.reason or job.reason,
        "progress": f"{done} of {len(rows)} nodes" if rows and not job.state.ended else "",
        # Another one means that more than values has changed.
        "shape": f"{job.generation}{'e' if job.state.ended else 'l'}{len(rows)}",
        # Of a job that is about to be: in some seconds, and this page stays.
        "encrypted": bool(job.public_key) and job.state.ended,
        "has_setup": plan is not None, "node_width": NODE_WIDTH, "node_height": NODE_HEIGHT,
    }  # fmt: skip


@functools.lru_cache(maxsize=64)
def _drawn(raw_plan: bytes) -> Picture:
    """A flow is drawn once, not at each change of its states."""
    return draw(msgspec.json.decode(raw_plan, type=Plan).nodes)


def _row(
    node: Node, tool: str | None, inputs: Sequence[NodeKey], attempt: Attempt | None, running: float | None,
    waits: Waits,
) -> Row:  # fmt: skip
    """``running``: the seconds so far, by the monotonic clock."""
    seconds = int(running) if running is not None and node.state is NodeState.RUNNING else None
    elapsed = attempt.elapsed if attempt is not None and seconds is None else None
    cpu = attempt.cpu_seconds if attempt is not None else None
    memory = attempt.peak_bytes if attempt is not None else None
    named = ", ".join(map(str, inputs[:_MOST_INPUTS]))
    return Row(
        n=node.n, key=node.key, state=node.state, attempts=node.attempt, tool=tool or "",
        inputs=f"{named} and {len(inputs) - _MOST_INPUTS} more" if len(inputs) > _MOST_INPUTS else named,
        reason=node.reason if node.state.done else waits.nodes.get(str(node.key), node.reason),
        started=attempt.started if attempt is not None else None,
        time=format_duration(seconds) if seconds is not None else "" if elapsed is None else _duration(elapsed),
        cpu="" if cpu is None else f"{cpu:.2f} s", memory="" if memory is None else format_size(memory),
        seconds=seconds, ran=node.attempt > 0,
    )  # fmt: skip


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 60 else format_duration(seconds)
