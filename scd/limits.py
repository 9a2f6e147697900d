"""Admission: who may submit what, decided before anything is spent. Pure; each refusal carries its numbers."""

import time
from datetime import UTC, datetime

from .config import Limits
from .errors import LimitReached, ResultTooLarge, TooManyNodes
from .model import Usage
from .units import format_duration, format_size

# check_server has no word for "unlimited": a number, large and yet exact in a double.
UNLIMITED = 2**53 - 1


def admit(limits: Limits, usage: Usage, nodes: int) -> None:
    """Raise TooManyNodes (403) or LimitReached (400) if a job of ``nodes`` nodes may not be submitted."""
    if limits.max_nodes is not None and nodes > limits.max_nodes:
        raise TooManyNodes(f"Too many nodes in flowgraph: {nodes}, and {limits.max_nodes} are allowed.")
    if limits.compute_time is not None and usage.core_seconds >= limits.compute_time:
        raise LimitReached(
            f"The account is out of compute time: {format_duration(usage.core_seconds)} of "
            f"{format_duration(limits.compute_time)} core time used. The period ends {_date(usage.period_ends)}."
        )
    if limits.bandwidth is not None and usage.result_bytes >= limits.bandwidth:
        raise LimitReached(
            f"The account is out of bandwidth: {format_size(usage.result_bytes)} of {format_size(limits.bandwidth)} "
            f"downloaded. The period ends {_date(usage.period_ends)}."
        )
    if limits.max_jobs is not None and usage.unfinished_jobs >= limits.max_jobs:
        raise LimitReached(
            f"The account has {usage.unfinished_jobs} unfinished jobs, and {limits.max_jobs} are allowed. "
            "Wait for one to end, or cancel one."
        )


def check_result(limits: Limits, size: int, where: str) -> None:
    """Raise ResultTooLarge (503) if an archive of ``size`` bytes is over the download limit."""
    if limits.max_result is not None and size > limits.max_result:
        raise ResultTooLarge(
            f"The results have {format_size(size)}, and {format_size(limits.max_result)} can be downloaded at once. "
            f"The administrator finds them at {where}."
        )


def left(limits: Limits, usage: Usage) -> dict[str, int]:
    """``user_info`` of check_server: seconds of core time and KiB of results that are left."""
    compute = UNLIMITED if limits.compute_time is None else max(0, int(limits.compute_time - usage.core_seconds))
    bandwidth = UNLIMITED if limits.bandwidth is None else max(0, limits.bandwidth - usage.result_bytes) // 1024
    return {"compute_time": compute, "bandwidth_kb": bandwidth}


def period_start(limits: Limits, now: float | None = None) -> float:
    """The start of the current accounting period: periods are counted from 1970, so they roll by themselves."""
    at = time.time() if now is None else now
    return at - at % limits.period


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
