"""Admission: who may submit what, decided before anything is spent. Pure; each refusal carries its numbers."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime

from .config import Budget, Limits
from .errors import LimitReached, ResultTooLarge, TooManyNodes
from .model import Usage
from .units import format_duration, format_size

# check_server has no word for "unlimited": a number, large and yet exact in a double.
UNLIMITED = 2**53 - 1


Spent = Iterable[tuple[Budget, Usage]]  # all that count what a user does, with what is used of each


def check_nodes(limits: Limits, nodes: int) -> None:
    """Raise TooManyNodes (403) for a flowgraph of too many nodes."""
    if limits.max_nodes is not None and nodes > limits.max_nodes:
        raise TooManyNodes(f"Too many nodes in flowgraph: {nodes}, and {limits.max_nodes} are allowed.")


def admit(spent: Spent, size: int = 0) -> None:
    """Raise LimitReached (400) if one more job, with an upload of ``size`` bytes, may not be submitted."""
    for budget, usage in spent:
        who, limits = _name(budget), budget.limits
        if reason := exhausted(budget, usage.core_seconds, usage.period_ends):
            raise LimitReached(f"{who} is {reason}")
        if limits.bandwidth is not None and usage.result_bytes >= limits.bandwidth:
            raise LimitReached(
                f"{who} is out of bandwidth: {format_size(usage.result_bytes)} of {format_size(limits.bandwidth)} "
                f"downloaded. The period ends {_date(usage.period_ends)}."
            )
        if limits.max_jobs is not None and usage.unfinished_jobs >= limits.max_jobs:
            raise LimitReached(
                f"{who} has {usage.unfinished_jobs} unfinished jobs, and {limits.max_jobs} are allowed. "
                "Wait for one to end, or cancel one."
            )
        if limits.storage is not None and usage.unfinished_bytes + size > limits.storage:
            raise LimitReached(
                f"{who} has no room for this upload of {format_size(size)}: unfinished jobs hold "
                f"{format_size(usage.unfinished_bytes)} of {format_size(limits.storage)}. "
                "Wait for one to end, or cancel one."
            )


def exhausted(budget: Budget, core_seconds: float, period_ends: float) -> str:
    """Why nothing may run any more, "" while compute time is left."""
    limit = budget.limits.compute_time
    if limit is None or core_seconds < limit:
        return ""
    whose = f" of group {budget.group}" if budget.group else ""
    return (
        f"out of compute time{whose}: {format_duration(core_seconds)} of {format_duration(limit)} core time used. "
        f"The period ends {_date(period_ends)}."
    )


def full(budget: Budget) -> str:
    """What is said of a node that waits until fewer run."""
    whose = f"the running-node limit of group {budget.group}" if budget.group else "your running-node limit"
    return f"over {whose} of {budget.limits.max_running_nodes}"


def check_result(limits: Limits, size: int, where: str) -> None:
    """Raise ResultTooLarge (503) if an archive of ``size`` bytes is over the download limit."""
    if limits.max_result is not None and size > limits.max_result:
        raise ResultTooLarge(
            f"The results have {format_size(size)}, and {format_size(limits.max_result)} can be downloaded at once. "
            f"The administrator finds them at {where}."
        )


def left(spent: Spent) -> dict[str, int]:
    """``user_info`` of check_server: seconds of core time and KiB of results, of the budget with the least left."""
    compute, bandwidth = UNLIMITED, UNLIMITED
    for budget, usage in spent:
        limits = budget.limits
        if limits.compute_time is not None:
            compute = min(compute, max(0, int(limits.compute_time - usage.core_seconds)))
        if limits.bandwidth is not None:
            bandwidth = min(bandwidth, max(0, limits.bandwidth - usage.result_bytes) // 1024)
    return {"compute_time": compute, "bandwidth_kb": bandwidth}


def period_start(period: float, now: float | None = None) -> float:
    """The start of the current accounting period: periods are counted from 1970, so they roll by themselves."""
    at = time.time() if now is None else now
    return at - at % period


def _name(budget: Budget) -> str:
    return f"The group {budget.group}" if budget.group else "The account"


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
