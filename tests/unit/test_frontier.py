"""What may start, kept up to date change by change, is what the whole flowgraph says."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scd.flowgraph import ready, room
from scd.frontier import Frontier
from scd.model import NodeKey, Plan, PlanNode
from scd.states import NodeState


def key(number: int) -> NodeKey:
    return NodeKey(f"n{number}", "0")


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    size = draw(st.integers(1, 9))
    nodes = tuple(
        PlanNode(
            step=f"n{n}", index="0", level=n, status=NodeState.PENDING,
            key_inputs=tuple(key(m) for m in sorted(draw(st.sets(st.integers(0, n - 1), max_size=3)))) if n else (),
            builtin=draw(st.booleans()), breakpoint=draw(st.integers(0, 9)) == 0, continue_=draw(st.booleans()),
        )
        for n in range(size)
    )  # fmt: skip
    return Plan("top", "job0", "flow", nodes, (key(size - 1),), draw(st.none() | st.integers(1, 3)))


@settings(max_examples=300)
@given(plans(), st.data())
def test_it_agrees_with_the_rules_after_each_change(plan: Plan, data: st.DataObject) -> None:
    states = {node.key: data.draw(st.sampled_from(NodeState)) for node in plan.nodes}
    frontier = Frontier(plan, states)
    assert frontier.ready() == ready(plan, states)
    assert frontier.room() == room(plan, sum(state.live for state in states.values()))
    for _ in range(data.draw(st.integers(0, 20))):
        changed, state = data.draw(st.sampled_from(plan.nodes)).key, data.draw(st.sampled_from(NodeState))
        states[changed] = state
        frontier.move(changed, state)
        assert frontier.ready() == ready(plan, states)
        assert frontier.room() == room(plan, sum(state.live for state in states.values()))
