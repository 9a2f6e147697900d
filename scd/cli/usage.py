"""``scdctl usage`` and ``scdctl users``: who has used what, and who may."""

import argparse
import time
from typing import Any

from ..config import Budget, Config
from ..limits import period_start
from ..listing import rfc3339
from ..store import JobStore, UsageStore
from ..units import UNLIMITED, format_duration, format_size
from .reading import as_json, open_store
from .table import NOTHING, Table, duration, local_time, print_json, size

_EVERYBODY = "*"

USAGE = Table(
    {
        "user": lambda used: used["user"] or NOTHING,
        "start": lambda used: local_time(used["start"]),
        "end": lambda used: local_time(used["end"]),
        "time": lambda used: duration(used["core_seconds"]),
        "results": lambda used: size(used["result_bytes"]),
    },
    default=("user", "start", "end", "time", "results"),
    aliases={"login": "user", "used": "time", "cputime": "time"},
)
USERS = Table(
    {
        "group": lambda one: ",".join(one["groups"]) or NOTHING,
        "user": lambda one: one["user"] or NOTHING,
        "jobs": lambda one: _of(one["unfinished_jobs"], one["limits"]["max_jobs"], str),
        "nodes": lambda one: _of(one["running_nodes"], one["limits"]["max_running_nodes"], str),
        "time": lambda one: _of(one["core_seconds"], one["limits"]["compute_time"], format_duration),
        "results": lambda one: _of(one["result_bytes"], one["limits"]["bandwidth"], format_size),
        "storage": lambda one: _of(one["disk_bytes"], one["limits"]["storage"], format_size),
        "period_ends": lambda one: local_time(one["period_ends"]),
    },
    default=("group", "user", "jobs", "nodes", "time", "results", "storage", "period_ends"),
    aliases={},
)


async def usage(config: Config, arguments: argparse.Namespace) -> None:
    """What each user was charged in a span of time: of the current period, unless told otherwise."""
    USAGE.pick(arguments.format)  # a mistake is told before anything is read
    now = time.time()
    records: list[dict[str, Any]] = []
    async with open_store(config) as store:
        charged = UsageStore(store.database)
        for user in await _users(config, charged, arguments.users):
            period = config.limits_of(user).period
            since = period_start(period, now) if arguments.since is None else arguments.since
            until = now if arguments.until is None else arguments.until
            spent, received = await charged.spent([user], since, until)
            spent += (await charged.running([user], since, until, now)).core_seconds
            records.append(
                {
                    "user": user, "start": rfc3339(since), "end": rfc3339(until), "core_seconds": spent,
                    "result_bytes": received,
                }
            )  # fmt: skip
    _print(USAGE, "usage", records, arguments)


async def users(config: Config, arguments: argparse.Namespace) -> None:
    """Every user's, then every group's limits, with what is used of them now."""
    USERS.pick(arguments.format)
    async with open_store(config) as store:
        charged = UsageStore(store.database)
        budgets = [
            (user, list(config.users[user].groups) if user in config.users else [], config.budgets_of(user)[0])
            for user in await _users(config, charged, arguments.users)
        ]
        if arguments.users is None:
            budgets += [(_EVERYBODY, [group], config.budget_of(group)) for group in config.groups]
        records = [await _record(store, charged, user, groups, budget) for user, groups, budget in budgets]
    _print(USERS, "users", records, arguments)


async def _record(
    store: JobStore, charged: UsageStore, user: str, groups: list[str], budget: Budget
) -> dict[str, Any]:  # fmt: skip
    now, limits = time.time(), budget.limits
    since = period_start(limits.period, now)
    running = await charged.running(budget.members, since, now, now)
    used = await charged.current(budget.members, since, limits.period, running.core_seconds)
    return {
        "user": user, "groups": groups, "unfinished_jobs": used.unfinished_jobs, "running_nodes": running.nodes,
        "core_seconds": used.core_seconds, "result_bytes": used.result_bytes,
        "disk_bytes": await store.disk_bytes(budget.members), "period_ends": rfc3339(used.period_ends),
        "limits": {key: getattr(limits, key) for key in limits.__struct_fields__},
    }  # fmt: skip


async def _users(config: Config, charged: UsageStore, wanted: frozenset[str] | None) -> list[str]:
    """Those of the configuration, and whoever else was charged or has jobs."""
    known = sorted({*config.users, *await charged.known_users()})
    return [user for user in known if wanted is None or user in wanted]


def _of(used: Any, limit: Any, form: Any) -> str:
    return f"{form(used)}/{UNLIMITED if limit is None else form(limit)}"


def _print(table: Table, kind: str, records: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(as_json(kind, records))
        return
    table.print(records, header=not arguments.noheader, parsable=arguments.parsable, chosen=arguments.format)
