"""Where a node runs, and with what: from the configuration and the manifest. Pure.

A route of the configuration decides first, then the manifest's ``option,scheduler,name``, then ``dispatch.default``.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NoReturn

import msgspec

from .config import Config, Route, Slurm
from .model import NodeKey, PlanNode
from .units import format_duration, format_size

LOCAL, SLURM = "local", "slurm"

# SiliconCompiler ends a tool at its time limit, scd a node some seconds later; Slurm only if both did not.
_TIME_MARGIN = 120.0
_MEGABYTE = 2**20
_MOST = 2**60
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_BEGIN = re.compile(r"[A-Za-z0-9:+/-]{1,64}")
_VALUE = re.compile(r"[ -~]{0,256}")


class Misplaced(ValueError):
    """A node asks for what this site does not give. The text is for the user."""


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memory in bytes, time in seconds; for both 0, and for texts "", is Slurm's own default."""

    executor: str = LOCAL
    cores: int = 1
    memory: int = 0
    time: float = 0.0
    partition: str = ""
    account: str = ""
    begin: str = ""
    options: tuple[str, ...] = ()
    license: str = ""  # as Slurm knows it


class Partition(msgspec.Struct, frozen=True):
    """What one partition gives at most; None is no limit."""

    name: str
    time: float | None
    cores: int | None  # of its largest node
    memory: int | None  # of its largest node, bytes
    default: bool = False


def prepares(config: Config, nodes: Iterable[NodeKey], schedulers: Iterable[str]) -> str:
    """The executor of a job's preparation: Slurm as soon as a node may go there, for the tools are looked for there."""
    if config.slurm is None:
        return LOCAL
    routes = [_route(config, key.step) for key in nodes]
    if any(route is not None and route.executor == SLURM for route in routes):
        return SLURM
    unrouted = any(route is None for route in routes)
    return SLURM if unrouted and (config.dispatch.default == SLURM or SLURM in schedulers) else LOCAL


def preparation(config: Config, executor: str, user: str) -> Placement:
    """A preparation's: one core, and what nodes get that ask for nothing."""
    slurm = config.slurm
    if executor != SLURM or slurm is None:
        return Placement()
    return Placement(
        executor=SLURM, memory=int(slurm.memory), time=float(slurm.time), partition=slurm.partition,
        account=config.slurm_account_of(user),
    )  # fmt: skip


def executor_of(config: Config, node: PlanNode) -> str:
    route = _route(config, node.step)
    if config.slurm is None:
        return LOCAL
    return route.executor if route else (SLURM if node.scheduler == SLURM else config.dispatch.default)


def place(config: Config, node: PlanNode, user: str) -> Placement:
    """Raises Misplaced."""
    route, slurm = _route(config, node.step), config.slurm
    if slurm is None or executor_of(config, node) == LOCAL:
        # A node that names no number of threads gets the machine, as in a local run.
        return Placement(cores=max(1, min(node.cores or config.cores, config.cores)))
    wanted = (route.partition if route else "") or _queue(slurm, node) or slurm.partition
    limit = node.timeout + _TIME_MARGIN if node.timeout else float(slurm.time)
    return Placement(
        executor=SLURM,
        cores=int(_bounded(max(1, node.cores or slurm.cores), slurm.max_cores)),
        memory=int(_bounded((node.memory or 0) * _MEGABYTE or slurm.memory, slurm.max_memory)),
        time=float(_bounded(limit, slurm.max_time)),
        partition=wanted,
        account=config.slurm_account_of(user),
        begin=_begin(node),
        options=tuple(_options(slurm, node)),
        license=_license_in_slurm(config, node),
    )


def check(placement: Placement, partitions: Mapping[str, Partition], what: str) -> None:
    """Refuse what Slurm would take, and never start. ``partitions`` is empty while Slurm has not told them.

    Raises Misplaced.
    """
    found = partitions.get(placement.partition)
    if placement.executor != SLURM or not partitions:
        return
    if not placement.partition:
        found = next((partition for partition in partitions.values() if partition.default), None)
    elif found is None:
        known = ", ".join(sorted(partitions))
        raise Misplaced(f"{what} asks for the queue {placement.partition!r}; there are {known}.")
    if found is None:
        return
    time = math.ceil(placement.time / 60) * 60  # sbatch takes minutes
    if found.time is not None and time > found.time:
        _refuse(what, format_duration(time), found, format_duration(found.time), "MaxTime")
    if found.cores is not None and placement.cores > found.cores:
        _refuse(what, f"{placement.cores} cores", found, str(found.cores), "its largest node has no more")
    if found.memory is not None and placement.memory > found.memory:
        _refuse(what, format_size(placement.memory), found, format_size(found.memory), "its largest node has no more")


def _refuse(what: str, asked: str, partition: Partition, most: str, limit: str) -> NoReturn:
    raise Misplaced(
        f"{what} asks for {asked}, and Slurm's partition {partition.name} gives {most} at most ({limit}): "
        "it would never start. Ask for less, or for another queue."
    )


def license_of(config: Config, node: PlanNode) -> str:
    """The licence that a node holds while it runs, "" for none: one of its task comes before one of its tool."""
    for tool in (f"{node.tool}/{node.task}", node.tool) if config.licenses else ():
        for name, one in config.licenses.items():
            if tool in one.tools:
                return name
    return ""


def in_words(name: str) -> str:
    """``a vcs licence``, ``an innovus licence``."""
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name} licence"


def is_counted_here(config: Config, name: str, executor: str) -> bool:
    """Whether scd counts a licence for a node that runs there. Slurm counts those that it is told of."""
    return executor == LOCAL or not config.licenses[name].slurm


def check_license(config: Config, node: PlanNode) -> None:
    """Refuse what would wait for ever. Raises Misplaced."""
    name = license_of(config, node)
    if name and config.licenses[name].count == 0 and is_counted_here(config, name, executor_of(config, node)):
        raise Misplaced(f"{node.key} needs {in_words(name)}, and this server has none.")


def _license_in_slurm(config: Config, node: PlanNode) -> str:
    name = license_of(config, node)
    return config.licenses[name].slurm if name else ""


def vouch(config: Config, placement: Placement, account: str) -> None:
    """Refuse what ``place`` and ``preparation`` give no job of a Unix account, whatever its manifest says.

    For whoever is told a placement, and need not believe it. Raises Misplaced.
    """
    slurm = config.slurm
    if slurm is None or placement.executor != SLURM:
        raise Misplaced("This is not for Slurm.")
    charged = {config.slurm_account_of(user) for user in ("", *config.users) if config.account_of(user) == account}
    routes = {route.partition for route in config.dispatch.route}
    queue = placement.partition
    ranges = (
        (placement.cores, 1, slurm.max_cores, slurm.cores), (placement.memory, 0, slurm.max_memory, slurm.memory),
        (placement.time, 0, slurm.max_time, slurm.time),
    )  # fmt: skip
    if not all(least <= value <= (max(most, usual) if most else _MOST) for value, least, most, usual in ranges):
        raise Misplaced("Its cores, memory or time are out of the range that [slurm] gives.")
    if queue not in {"", slurm.partition, *routes} and not _is_allowed(slurm, queue):
        raise Misplaced(f"The queue {queue!r} is none that [slurm] or a route names.")
    if placement.account not in charged | {slurm.account}:
        raise Misplaced(f"The Slurm account {placement.account!r} is none of {account}'s.")
    if placement.license not in {"", *(one.slurm for one in config.licenses.values())}:
        raise Misplaced(f"The licence {placement.license!r} is none of [licenses].")
    if placement.begin and not _BEGIN.fullmatch(placement.begin):
        raise Misplaced("Its start is not a time.")
    for option in placement.options:
        name, _, value = option.partition("=")
        if name not in slurm.allow_options or not _VALUE.fullmatch(value):
            raise Misplaced(f"The option {name!r} of sbatch is not one that [slurm] allows.")


def more_memory(config: Config, memory: int) -> int | None:
    """What a node gets that ran out of ``memory``, None if nothing more."""
    slurm = config.slurm
    if slurm is None or not memory or slurm.memory_on_oom <= 1:
        return None
    grown = int(_bounded(memory * slurm.memory_on_oom, slurm.max_memory))
    return grown if grown > memory else None


def _route(config: Config, step: str) -> Route | None:
    return next((route for route in config.dispatch.route if fnmatchcase(step, route.step)), None)


def _bounded(wanted: float, most: float) -> float:
    """``most`` also for what asks for nothing, if there is a bound."""
    return min(wanted or most, most) if most else wanted


def _queue(slurm: Slurm, node: PlanNode) -> str:
    queue = node.queue or ""
    if not queue or _is_allowed(slurm, queue):
        return queue
    raise Misplaced(f"{node.key} asks for the queue {queue!r}, which this server does not use.")


def _is_allowed(slurm: Slurm, queue: str) -> bool:
    return bool(_QUEUE.fullmatch(queue)) and any(fnmatchcase(queue, allowed) for allowed in slurm.queues)


def _begin(node: PlanNode) -> str:
    begin = node.defer or ""
    if begin and not _BEGIN.fullmatch(begin):
        raise Misplaced(f"{node.key} asks to start at {begin!r}: write it as 16:00, now+1hour or 2030-01-31T16:00.")
    return begin


def _options(slurm: Slurm, node: PlanNode) -> Iterator[str]:
    """Each as one word, whichever way the manifest has it: an option's value can never become an option."""
    words = [word for text in node.options for word in _words(text)]
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name not in slurm.allow_options:
            raise Misplaced(f"{node.key} asks for the option {name!r} of sbatch, which this server does not allow.")
        if not equals and words and not words[0].startswith("-"):
            equals, value = "=", words.pop(0)
        if not _VALUE.fullmatch(value):
            raise Misplaced(f"{node.key} gives the option {name} a value that cannot be one.")
        yield f"{name}{equals}{value}"


def _words(text: str) -> Sequence[str]:
    """``--qos high`` in one text are two words; a value with ``=`` before it may hold spaces."""
    name, _, rest = text.strip().partition(" ")
    return [text.strip()] if "=" in name or not rest else [name, rest.strip()]
