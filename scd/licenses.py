"""The licences of tools: what is held of each, and who is next to have one.

A node holds its licence from the moment it is decided to start it until it has ended. So nothing is remembered of who
holds what: it follows from the attempts that live, those of before a restart too.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from .config import License, Settings
from .live import LiveJob
from .model import Attempt, NodeKey, PlanNode
from .placement import executor_of, in_words, is_counted_here, license_of
from .share import Running, Shares, Stock, Waiting


class Licenses:
    def __init__(self, settings: Settings):
        self._settings = settings
        self._shares: dict[str, Shares] = {}  # what the users have had of each
        self._known: Mapping[str, License] = {}
        self._names: dict[tuple[str | None, str | None], str] = {}  # by tool and task

    def copy(self) -> "Licenses":
        made = Licenses(self._settings)
        made._shares = {name: shares.copy() for name, shares in self._shares.items()}
        made._known, made._names = self._known, self._names
        return made

    def wanted(self, live: LiveJob) -> dict[NodeKey, str]:
        """The ready nodes of a job that need a licence which is counted here."""
        config = self._settings.config
        if not config.licenses or live.ending:
            return {}
        found = {node.key: self._of(node, executor_of(config, node)) for node in live.ready()}
        return {key: name for key, name in found.items() if name}

    def held(self, lives: Iterable[LiveJob]) -> Counter[str]:
        """How many of each are in use."""
        return Counter(name for live in lives for name, _ in self._holders(live))

    def charge(self, live: LiveJob, attempt: Attempt) -> None:
        """A node ended."""
        planned = live.planned(attempt.key)
        name = "" if planned is None else self._of(planned, attempt.executor)
        if name in self._shares:
            self._shares[name].charge(live.job.user, 1, attempt.elapsed or 0.0)

    def stock(self, jobs: Collection[LiveJob], wanted: Mapping[str, Mapping[NodeKey, str]]) -> Stock:
        """What is free of each. ``wanted``, by job, names the nodes that could go if they had one."""
        licenses, most = self._settings.config.licenses, self._settings.config.cores
        by_hash = {live.job_hash: live for live in jobs if wanted.get(live.job_hash)}
        self._shares = {name: self._shares.get(name) or Shares() for name in licenses}
        running: dict[str, dict[str, list[Running]]] = {name: {} for name in licenses}
        for live in jobs if licenses else ():
            for name, holder in self._holders(live):
                running[name].setdefault(live.job.user, []).append(holder)
        free = {name: licenses[name].count - sum(map(len, running[name].values())) for name in licenses}
        waiting: dict[str, dict[str, list[Waiting]]] = {name: {} for name in licenses}
        asking: set[tuple[str, NodeKey]] = set()
        for live in by_hash.values():
            names = wanted[live.job_hash]
            by_name: dict[str, list[tuple[NodeKey, int]]] = {}
            for node in live.offered({key for key, name in names.items() if free[name] <= 0}):
                if node.key in names:
                    by_name.setdefault(names[node.key], []).append((node.key, 1))
                    asking.add((live.job_hash, node.key))
            for name, keys in by_name.items():
                waiting[name].setdefault(live.job.user, []).append(Waiting(live.job_hash, keys))
        due = [  # each takes one licence, and the cores that it needs
            pick._replace(cores=min(by_hash[pick.job_hash].nodes[pick.key].cores, most), license=name)
            for name, shares in self._shares.items()
            for pick in shares.choose(waiting[name], running[name], {}, free[name], licenses[name].count)
        ]
        return Stock(free, due, asking)

    def lacking(self, job_hash: str, wanted: Mapping[NodeKey, str], stock: Stock) -> dict[NodeKey, str]:
        """What is said of those of a job's nodes that wait for a licence; the others start, or wait for cores."""
        said = {name: self._why(name, stock) for name in set(wanted.values())}
        return {key: said[name] for key, name in wanted.items() if stock.is_short(job_hash, key, name)}

    def _why(self, name: str, stock: Stock) -> str:
        count = self._settings.config.licenses[name].count
        return f"waiting for {in_words(name)} ({count - stock.free[name]} of {count} in use)"

    def _holders(self, live: LiveJob) -> Iterator[tuple[str, Running]]:
        if not self._settings.config.licenses:
            return
        for attempt in live.attempts.values():
            planned = live.planned(attempt.key)
            if planned is not None and (name := self._of(planned, attempt.executor)):
                yield name, Running(1, live.seconds(attempt.name))

    def _of(self, node: PlanNode, executor: str) -> str:
        config = self._settings.config
        if self._known is not config.licenses:
            self._known, self._names = config.licenses, {}
        tool = node.tool, node.task
        if tool not in self._names:
            self._names[tool] = license_of(config, node)
        name = self._names[tool]
        return name if name and is_counted_here(config, name, executor) else ""
