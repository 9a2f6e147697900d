"""What Slurm's states and reasons mean: for a node's state, and in words for its user. Pure.

New releases bring new ones: what is not known is shown as it is, and ends nothing.
"""

import re
from typing import NamedTuple

from ..placement import in_words
from ..slurm_queue import QueueRow
from ..states import NodeState


class Ending(NamedTuple):
    state: NodeState
    reason: str
    lost: bool = False  # not the node's own fault: it may start again
    out_of_memory: bool = False


CANCELLED = "cancelled in Slurm, not by scd"
_NEVER = "it will never start like this"
_WAITING = {
    "": "",
    "None": "",
    "Resources": "waiting for resources",
    "Priority": "waiting behind jobs of higher priority",
    "BeginTime": "waiting for the time at which it may begin",
    "Dependency": "waiting for other Slurm jobs",
    "DependencyNeverSatisfied": f"it depends on a job that failed: {_NEVER}",
    "JobHeldUser": "held in Slurm: it starts when somebody releases it",
    "JobHeldAdmin": "held by Slurm's administrator: it starts when he releases it",
    "JobHoldMaxRequeue": "held by Slurm: it was started too often",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is not active",
    "PartitionTimeLimit": f"it asks for more time than the partition gives: {_NEVER}",
    "PartitionNodeLimit": f"it asks for more nodes than the partition gives: {_NEVER}",
    "PartitionConfig": f"no node of the partition has what it asks for: {_NEVER}",
    "Licenses": "waiting for a licence",
    "Reservation": "waiting for a reservation",
    "NodeDown": "the node that it needs is down",
    "Cleaning": "being put back into the queue",
    "JobLaunchFailure": "Slurm could not start it",
    "InvalidAccount": f"the Slurm account is not valid: {_NEVER}",
    "InvalidQOS": f"the quality of service is not valid: {_NEVER}",
}
_WAITING_STARTS = (
    ("ReqNodeNotAvail", "nodes that it needs are not available"),
    ("Nodes required for job are DOWN", "nodes that it needs are down or reserved"),
    ("Assoc", "a limit of the Slurm account is reached"),
    ("QOS", "a limit of the quality of service is reached"),
    ("launch failed requeued held", "held by Slurm: it could not be started"),
)
_RUNNING = {
    "CONFIGURING": "its node is being started",
    "SUSPENDED": "suspended by Slurm",
    "STOPPED": "stopped in Slurm",
    "COMPLETING": "",
    "RUNNING": "",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def waiting(row: QueueRow, licence: str = "") -> str:
    """Why a node does not run that asked for ``licence``, "" if there is nothing to say."""
    if not row.pending:
        return _RUNNING.get(row.state, f"Slurm says {row.state}")
    reason = _CONTROL.sub(" ", row.reason)[:200]
    if licence and reason == "Licenses":
        return f"waiting for {in_words(licence)} in Slurm"
    if reason in _WAITING:
        return _WAITING[reason]
    for start, words in _WAITING_STARTS:
        if reason.startswith(start):
            return f"{words} ({reason})"
    return f"waiting in Slurm ({reason})"


def ending(row: QueueRow, memory: int, limit: str) -> Ending:
    """How a job ended, in Slurm's view. ``limit`` is the time that it had, in words; "" if Slurm set it."""
    where = f" (on {row.nodes})" if row.nodes else ""
    match row.state:
        case "TIMEOUT":
            return Ending(NodeState.TIMEOUT, f"over its time limit{f' of {limit}' if limit else ' in Slurm'}")
        case "DEADLINE":
            return Ending(NodeState.TIMEOUT, "over its deadline in Slurm")
        case "OUT_OF_MEMORY":
            asked = f": {memory >> 20} MiB were asked for" if memory else ""
            return Ending(NodeState.ERROR, f"out of memory{asked}{where}", out_of_memory=True)
        case "CANCELLED":
            return Ending(NodeState.ERROR, CANCELLED)
        case "PREEMPTED":
            return Ending(NodeState.ERROR, "preempted by a job of higher priority", lost=True)
        case "NODE_FAIL":
            return Ending(NodeState.ERROR, f"its node failed{where}", lost=True)
        case "BOOT_FAIL":
            return Ending(NodeState.ERROR, f"its node could not be started{where}", lost=True)
        case "REVOKED":
            return Ending(NodeState.ERROR, "taken over by another cluster", lost=True)
        case "FAILED":
            reason = _CONTROL.sub(" ", row.reason)[:200]
            return Ending(NodeState.ERROR, f"Slurm could not run it to its end: {reason}{where}", lost=True)
        case _:
            return Ending(NodeState.ERROR, f"Slurm says {row.state}, and it left no record{where}", lost=True)


def explains(row: QueueRow, *, outside: bool) -> bool:
    """Whether Slurm's word says more about a failure than the node's record. ``outside``: it was ended from there."""
    if not outside:
        return row.state == "OUT_OF_MEMORY"
    return row.state in ("TIMEOUT", "DEADLINE", "OUT_OF_MEMORY", "CANCELLED", "PREEMPTED", "NODE_FAIL")
