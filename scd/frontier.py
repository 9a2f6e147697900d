"""The nodes of one job that may start, kept up to date change by change: a large flowgraph is not walked each time.

The rules are those of ``flowgraph.ready``, which this must always agree with.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping

from .flowgraph import choose, may_start, room
from .model import NodeKey, Plan, PlanNode
from .states import NodeState


class Frontier:
    def __init__(self, plan: Plan, states: Mapping[NodeKey, NodeState]):
        self.plan = plan
        self.states = dict(states)
        self.by_key = {node.key: node for node in plan.nodes}
        self.place = {node.key: place for place, node in enumerate(plan.nodes)}  # in execution order
        self._after: dict[NodeKey, list[NodeKey]] = {}
        for node in plan.nodes:
            for key in node.key_inputs:
                self._after.setdefault(key, []).append(node.key)
        self._running = {key for key, state in self.states.items() if state.live and key in self.by_key}
        self._startable = [self.place[key] for key in self.by_key if self._may_start(key)]

    def move(self, key: NodeKey, state: NodeState) -> None:
        self.states[key] = state
        if state.live and key in self.by_key:
            self._running.add(key)
        else:
            self._running.discard(key)
        for changed in (key, *self._after.get(key, ())):
            if changed in self.by_key:
                self._look(changed)

    def ready(self) -> list[PlanNode]:
        """The nodes that may start now, in execution order."""
        nodes = self.plan.nodes
        return choose(
            self.plan, [nodes[place] for place in self._startable], [self.by_key[key] for key in self._running]
        )

    def room(self) -> int | None:
        """How many of these there is room for; None for all."""
        return room(self.plan, len(self._running))

    def before(self, key: NodeKey) -> list[PlanNode]:
        """All nodes that ``key`` depends on, in execution order."""
        found: set[NodeKey] = set()
        todo = [key]
        while todo:
            node = self.by_key.get(todo.pop())
            fresh = set(node.key_inputs) - found if node else set()
            found |= fresh
            todo.extend(fresh)
        return [self.plan.nodes[place] for place in sorted(self.place[one] for one in found if one in self.place)]

    def _look(self, key: NodeKey) -> None:
        place = self.place[key]
        at = bisect_left(self._startable, place)
        there = at < len(self._startable) and self._startable[at] == place
        may = self._may_start(key)
        if may and not there:
            insort(self._startable, place)
        elif there and not may:
            del self._startable[at]

    def _may_start(self, key: NodeKey) -> bool:
        return self.states[key] is NodeState.PENDING and may_start(self.by_key[key], self.by_key, self.states)
