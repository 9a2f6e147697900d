"""The node-start rules, compared with a literal transcription of what SiliconCompiler's own scheduler does."""

import itertools
from collections.abc import Iterable, Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scd.flowgraph import dropped, ready, room, settled, verdict, waiting
from scd.model import NodeKey, Plan, PlanNode
from scd.states import JobState, NodeState

P, Q, S, R = NodeState.PENDING, NodeState.QUEUED, NodeState.SUBMITTED, NodeState.RUNNING
OK, ERR, SKIP, LATE = NodeState.SUCCESS, NodeState.ERROR, NodeState.SKIPPED, NodeState.TIMEOUT
DONE = (OK, ERR, SKIP, LATE)
LIVE = (Q, S, R)

X = NodeKey("x", "0")

States = dict[NodeKey, NodeState]


def node(
    name: str, *inputs: str, builtin: bool = False, alone: bool = False, excused: bool = False, status: NodeState = P
) -> PlanNode:
    """``"syn"`` or ``"syn/1"``; ``alone`` is its ``breakpoint``, ``excused`` its ``continue``."""
    found = key(name)
    return PlanNode(
        step=found.step, index=found.index, level=0, status=status, key_inputs=tuple(map(key, inputs)),
        builtin=builtin, breakpoint=alone, continue_=excused,
    )  # fmt: skip


def key(name: str) -> NodeKey:
    step, _, index = name.partition("/")
    return NodeKey(step, index or "0")


def plan(*nodes: PlanNode, exits: Iterable[str] = (), maxnodes: int | None = None) -> Plan:
    return Plan("top", "job0", "flow", nodes, tuple(map(key, exits)), maxnodes)


def states(**by_step: NodeState) -> States:
    return {key(step): state for step, state in by_step.items()}


def names(nodes: Iterable[PlanNode]) -> list[str]:
    return [str(found.key) for found in nodes]


# -- one node, every combination of inputs


def rules(builtin: bool, inputs: list[tuple[NodeState, bool]]) -> str:
    """What becomes of a pending node, input by input, as ``__launch_nodes`` has it: start, drop or wait."""
    is_ready, able_to_run, excused, unexcused = True, True, False, False
    for state, continue_ in inputs:
        if state not in DONE:
            is_ready = False
        if state not in (ERR, LATE):
            continue
        if continue_:
            excused = True
            continue
        unexcused = True
        if not builtin:
            able_to_run = False
    any_success = any(state is OK for state, _ in inputs) if inputs else True
    if is_ready and builtin and not any_success and not (excused and not unexcused):
        able_to_run = False
    if not able_to_run:
        return "drop"
    return "start" if is_ready else "wait"


def fan_ins() -> Iterator[tuple[bool, list[tuple[NodeState, bool]]]]:
    for count in range(4):
        for inputs in itertools.product(itertools.product(NodeState, (False, True)), repeat=count):
            for builtin in (False, True):
                yield builtin, list(inputs)


def test_every_fan_in_of_up_to_three_inputs() -> None:
    for builtin, inputs in fan_ins():
        before = [node(f"i/{n}", excused=excused) for n, (_, excused) in enumerate(inputs)]
        tested = plan(*before, node("x", *(f"i/{n}" for n in range(len(inputs))), builtin=builtin))
        now = {key(f"i/{n}"): state for n, (state, _) in enumerate(inputs)} | {X: P}
        expected = rules(builtin, inputs)
        case = f"{'builtin' if builtin else 'node'} with inputs (state, continue) {inputs}"

        starts = X in {found.key for found in ready(tested, now)}
        drops = X in dropped(tested, now)

        assert starts == (expected == "start"), f"{case}: must {expected}, and {'starts' if starts else 'does not'}"
        assert drops == (expected == "drop"), f"{case}: must {expected}, and is {'' if drops else 'not '}dropped"


@pytest.mark.parametrize("state", [state for state in NodeState if state is not P])
def test_only_pending_nodes_start(state: NodeState) -> None:
    """A node that was skipped at set-up, or is kept from an earlier run, has its state from prepare."""
    assert ready(plan(node("x")), {X: state}) == []
    assert dropped(plan(node("a"), node("x", "a")), {key("a"): ERR, X: state}) == set()


# -- single rules, in words


def test_a_failure_drops_the_dependents_of_the_dependents() -> None:
    flow = plan(node("a"), node("b", "a"), node("c", "b"), node("d", "c"), node("other"))
    now = states(a=ERR, b=P, c=P, d=P, other=P)
    assert dropped(flow, now) == {key("b"), key("c"), key("d")}
    assert names(ready(flow, now)) == ["other/0"]


def test_a_node_is_dropped_before_its_other_inputs_are_done() -> None:
    flow = plan(node("bad"), node("slow"), node("x", "bad", "slow"))
    assert dropped(flow, states(bad=ERR, slow=R, x=P)) == {X}


def test_a_builtin_waits_for_all_inputs_before_it_is_dropped() -> None:
    flow = plan(node("bad"), node("slow"), node("x", "bad", "slow", builtin=True))
    assert dropped(flow, states(bad=ERR, slow=R, x=P)) == set()
    assert dropped(flow, states(bad=ERR, slow=ERR, x=P)) == {X}
    assert names(ready(flow, states(bad=ERR, slow=OK, x=P))) == ["x/0"]


def test_a_builtin_that_lost_one_input_to_a_drop_never_starts() -> None:
    """The dropped input stays pending, so the builtin never has all its inputs, whatever the other brought."""
    flow = plan(node("a"), node("b", "a"), node("good"), node("x", "b", "good", builtin=True))
    now = states(a=ERR, b=P, good=OK, x=P)
    assert dropped(flow, now) == {key("b"), X}
    assert ready(flow, now) == []
    assert settled(flow, now)


def test_continue_excuses_the_node_that_it_is_set_on_and_no_other() -> None:
    flow = plan(node("a", excused=True), node("b", "a"), node("c", "b"))
    assert names(ready(flow, states(a=ERR, b=P, c=P))) == ["b/0"]
    assert dropped(flow, states(a=ERR, b=ERR, c=P)) == {key("c")}


@pytest.mark.parametrize("own", [False, True])
def test_continue_on_the_waiting_node_itself_excuses_nothing(own: bool) -> None:
    flow = plan(node("a"), node("x", "a", excused=own))
    assert dropped(flow, states(a=ERR, x=P)) == {X}


def test_a_builtin_of_skipped_inputs_alone_is_dropped() -> None:
    flow = plan(node("a", status=SKIP), node("x", "a", builtin=True), node("y", "a"))
    now = states(a=SKIP, x=P, y=P)
    assert dropped(flow, now) == {X}
    assert names(ready(flow, now)) == ["y/0"]


def test_inputs_before_from_count_as_there() -> None:
    """A partial run's plan lacks the nodes before ``from``; their files came with the upload."""
    flow = plan(node("place", "syn", "floorplan"), node("pick", "syn", builtin=True))
    assert names(ready(flow, states(place=P, pick=P))) == ["place/0", "pick/0"]
    assert dropped(flow, states(place=P, pick=P)) == set()


def test_what_each_node_waits_for_is_said() -> None:
    flow = plan(
        node("syn"), node("bad"), node("place", "syn"), node("cts", "syn", "bad", "place"), node("drc", "cts"),
        node("free"), node("pick", "skip", builtin=True), maxnodes=1,
    )  # fmt: skip
    now = states(syn=R, bad=OK, place=P, cts=P, drc=P, free=P, pick=P, skip=SKIP)
    assert {str(found): why for found, why in waiting(flow, now).items()} == {
        "place/0": "waiting for syn/0", "cts/0": "waiting for syn/0 and 1 more", "drc/0": "waiting for cts/0",
        "free/0": "waiting for other nodes of its job", "pick/0": "will not run: no node before it succeeded",
    }  # fmt: skip
    now |= states(bad=ERR)
    told = waiting(flow, now)
    assert told[key("cts")] == told[key("drc")] == "will not run: bad/0 failed", "the cause is not named"
    assert told[key("place")] == "waiting for syn/0"


# -- breakpoints and maxnodes


def test_ready_nodes_come_in_execution_order() -> None:
    flow = plan(node("z"), node("a"), node("m"))
    assert names(ready(flow, states(a=P, m=P, z=P))) == ["z/0", "a/0", "m/0"]


@pytest.mark.parametrize("live", LIVE)
def test_nothing_starts_beside_a_breakpoint_that_runs(live: NodeState) -> None:
    flow = plan(node("stop", alone=True), node("x"))
    assert ready(flow, states(stop=live, x=P)) == []


@pytest.mark.parametrize("live", LIVE)
def test_a_ready_breakpoint_waits_until_the_rest_has_ended_and_holds_it_back(live: NodeState) -> None:
    flow = plan(node("a"), node("stop", alone=True), node("x"))
    assert ready(flow, states(a=live, stop=P, x=P)) == [], "a ready breakpoint lets nothing new start"
    assert names(ready(flow, states(a=OK, stop=P, x=P))) == ["stop/0"]


def test_breakpoints_go_one_by_one_in_execution_order() -> None:
    flow = plan(node("b", alone=True), node("a", alone=True))
    assert names(ready(flow, states(a=P, b=P))) == ["b/0"]
    assert ready(flow, states(a=P, b=R)) == []
    assert names(ready(flow, states(a=P, b=ERR))) == ["a/0"]


def test_a_breakpoint_that_is_not_ready_holds_nobody_back() -> None:
    flow = plan(node("a"), node("b"), node("stop", "a", alone=True))
    assert names(ready(flow, states(a=R, b=P, stop=P))) == ["b/0"]


@pytest.mark.parametrize(
    ("maxnodes", "running", "expected"),
    [(None, 2, 3), (0, 2, 3), (1, 0, 1), (2, 0, 2), (2, 1, 1), (2, 2, 0), (2, 3, 0), (9, 1, 3)],
)
def test_maxnodes_counts_what_runs(maxnodes: int | None, running: int, expected: int) -> None:
    flow = plan(*(node(f"r/{n}") for n in range(running)), *(node(f"w/{n}") for n in range(3)), maxnodes=maxnodes)
    now = {key(f"r/{n}"): LIVE[n % 3] for n in range(running)} | {key(f"w/{n}"): P for n in range(3)}
    assert len(ready(flow, now)[: room(flow, running)]) == expected


# -- the end


@pytest.mark.parametrize(
    ("exits", "expected"),
    [
        ({"a/0": OK}, JobState.COMPLETED),
        ({"a/0": SKIP}, JobState.COMPLETED),
        ({"a/0": ERR}, JobState.FAILED),
        ({"a/0": P}, JobState.FAILED),
        ({"a/0": LATE}, JobState.TIMEOUT),
        ({"a/0": ERR, "a/1": OK}, JobState.COMPLETED),  # an exit step needs one good index
        ({"a/0": ERR, "a/1": LATE, "a/2": SKIP}, JobState.COMPLETED),
        ({"a/0": ERR, "a/1": P}, JobState.FAILED),
        ({"a/0": OK, "b/0": ERR}, JobState.FAILED),  # every exit step counts
        ({"a/0": OK, "b/0": P}, JobState.FAILED),
        ({"a/0": OK, "b/0": LATE}, JobState.TIMEOUT),
        ({"a/0": LATE, "b/0": ERR}, JobState.FAILED),
        ({"a/1": OK, "b/0": ERR, "b/1": SKIP}, JobState.COMPLETED),
    ],
)
def test_verdict_asks_each_exit_step_for_one_good_index(exits: dict[str, NodeState], expected: JobState) -> None:
    flow = plan(*map(node, exits), exits=exits)
    assert verdict(flow, {key(name): state for name, state in exits.items()}) is expected


def test_verdict_ignores_a_failure_that_did_not_reach_an_exit() -> None:
    flow = plan(node("try/0"), node("try/1"), node("pick", "try/0", "try/1", builtin=True), exits=["pick"])
    assert verdict(flow, {key("try/0"): ERR, key("try/1"): OK, key("pick"): OK}) is JobState.COMPLETED


def test_verdict_after_a_time_limit_upstream_is_timeout() -> None:
    flow = plan(node("work"), node("after", "work"), exits=["after"])
    assert verdict(flow, states(work=LATE, after=P)) is JobState.TIMEOUT


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (states(a=P, b=P), False),
        (states(a=Q, b=P), False),
        (states(a=S, b=P), False),
        (states(a=R, b=P), False),
        (states(a=OK, b=P), False),
        (states(a=OK, b=R), False),
        (states(a=OK, b=ERR), True),
        (states(a=ERR, b=P), True),
        (states(a=SKIP, b=SKIP), True),
    ],
)
def test_settled(now: States, expected: bool) -> None:
    assert settled(plan(node("a"), node("b", "a")), now) is expected


# -- whole runs

OUTCOMES = st.sampled_from(DONE)


@st.composite
def flows(draw: st.DrawFn) -> tuple[Plan, dict[NodeKey, NodeState]]:
    """Any graph in execution order, and how each node would end if it ran."""
    count = draw(st.integers(1, 9))
    nodes: list[PlanNode] = []
    for n in range(count):
        inputs = draw(st.sets(st.integers(-1, n - 1), max_size=3)) if n else set()
        nodes.append(
            node(
                f"s{n}", *(f"s{i}" if i >= 0 else "before" for i in sorted(inputs)), builtin=draw(st.booleans()),
                alone=draw(st.sampled_from([False, False, False, True])), excused=draw(st.booleans()),
                status=draw(st.sampled_from([P, P, P, P, SKIP, OK])),
            )
        )  # fmt: skip
    inner = {found for each in nodes for found in each.key_inputs}
    exits = tuple(each.key for each in nodes if each.key not in inner)
    outcomes = {each.key: draw(OUTCOMES) for each in nodes}
    return Plan("top", "job0", "flow", tuple(nodes), exits, draw(st.sampled_from([None, 1, 2]))), outcomes


def literal_ready(flow: Plan, now: Mapping[NodeKey, NodeState]) -> list[NodeKey]:
    by_key = {each.key: each for each in flow.nodes}

    def fate(each: PlanNode) -> str:
        known = ((now.get(found, OK), found in by_key and by_key[found].continue_) for found in each.key_inputs)
        return rules(each.builtin, list(known))

    return [each.key for each in flow.nodes if now[each.key] is P and fate(each) == "start"]


@given(case=flows(), data=st.data())
def test_any_run_of_any_flow_ends(case: tuple[Plan, dict[NodeKey, NodeState]], data: st.DataObject) -> None:
    flow, outcomes = case
    by_key = {each.key: each for each in flow.nodes}
    now: States = {each.key: each.status for each in flow.nodes}
    started: set[NodeKey] = set()
    for _ in range(3 * len(flow.nodes) + 1):
        lost_before = dropped(flow, now)
        live = [found for found, state in now.items() if state in LIVE]
        may = [each.key for each in ready(flow, now)]
        offered = may[: room(flow, len(live))]
        assert bool(offered) == bool(may), "nodes may start, and there is no room for one"
        assert set(may) <= set(literal_ready(flow, now)), "a node may start that the rules forbid"
        assert not lost_before & set(offered), "a dropped node may start"
        told = waiting(flow, now)
        assert told.keys() == {found for found, state in now.items() if state is P}, "a node waits and nothing is said"
        assert {found for found, why in told.items() if why.startswith("will not run")} == lost_before
        assert flow.maxnodes is None or len(live) + len(offered) <= max(flow.maxnodes, len(live))
        if not offered and not live:
            break
        # The scheduler takes as many as there are cores for, and something ends meanwhile.
        take = offered[: data.draw(st.integers(0 if live else 1, len(offered)))] if offered else []
        for found in take:
            assert found not in started, f"{found} starts twice"
            assert all(now.get(before, OK) in DONE for before in by_key[found].key_inputs), f"{found} starts early"
            started.add(found)
            now[found] = R
        live += take
        if len(live) > 1:
            assert not any(by_key[found].breakpoint for found in live), f"a breakpoint runs beside others: {live}"
        ends = data.draw(st.sampled_from(live))
        now[ends] = outcomes[ends]
        assert lost_before <= dropped(flow, now), "a dropped node came back"
    assert settled(flow, now), f"the run hangs at {now}"
    assert literal_ready(flow, now) == [], "the run ended although a node may start"
    assert {found for found, state in now.items() if state is P} == dropped(flow, now)
    good = {each.step for each in flow.exit_nodes if now[each] in (OK, SKIP)}
    completed = good == {each.step for each in flow.exit_nodes}
    assert (verdict(flow, now) is JobState.COMPLETED) == completed
