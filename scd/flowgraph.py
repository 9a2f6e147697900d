"""When a node may start, which nodes will never start, and whether the job succeeded. Pure.

The rules are SiliconCompiler's own (``TaskScheduler.__launch_nodes`` and ``Scheduler.run`` of 0.38), so that a flow
ends here as it ends in a local run:

1. A node is ready when every input is done (success, error, skipped, timeout).
2. An input that failed is excused if ``continue`` is set on that input node. A failure that is not excused drops a
   non-builtin node at once.
3. A ready builtin with inputs of which none is ``success`` is dropped, unless every failure among them is excused.
4. A dropped node stays ``pending`` and so do its dependents.
5. With every failure excused the node starts, and halts itself if it finds no input to work on.
6. A breakpoint node runs alone, in execution order, when nothing else of the job runs.
7. No more than ``maxnodes`` nodes of the job run at once: the first of those for which there are resources.
"""

from collections.abc import Mapping, Sequence

from .model import NodeKey, Plan, PlanNode
from .states import JobState, NodeState

States = Mapping[NodeKey, NodeState]


def ready(plan: Plan, states: States) -> list[PlanNode]:
    """The nodes that may start now, in execution order; no more of them than there is ``room`` for.

    Which these are is the caller's business, as their resources are.
    """
    by_key = {node.key: node for node in plan.nodes}
    running = [by_key[key] for key, state in states.items() if state.live and key in by_key]
    pending = [node for node in plan.nodes if states[node.key] is NodeState.PENDING]
    return choose(plan, [node for node in pending if may_start(node, by_key, states)], running)


def choose(plan: Plan, startable: list[PlanNode], running: Sequence[PlanNode]) -> list[PlanNode]:
    """Those of the ``startable`` nodes that may start beside those that are ``running``."""
    if any(node.breakpoint for node in running) or room(plan, len(running)) == 0:
        return []
    breakpoints = [node for node in startable if node.breakpoint]
    if breakpoints:
        return [] if running else breakpoints[:1]
    return startable


def room(plan: Plan, running: int) -> int | None:
    """How many more nodes ``maxnodes`` lets run beside those that are ``running``; None for any number."""
    return max(0, plan.maxnodes - running) if plan.maxnodes else None


def dropped(plan: Plan, states: States) -> set[NodeKey]:
    """The pending nodes that can never start: those that lost an input, and all that wait for them."""
    by_key = {node.key: node for node in plan.nodes}
    lost: set[NodeKey] = set()
    for node in plan.nodes:
        if states[node.key] is not NodeState.PENDING:
            continue
        if _lost_input(node, by_key, states) or any(key in lost for key in node.key_inputs):
            lost.add(node.key)
    return lost


def waiting(plan: Plan, states: States) -> dict[NodeKey, str]:
    """What each pending node waits for in its own job, or why it will never start, in words for the user."""
    by_key = {node.key: node for node in plan.nodes}
    lost: dict[NodeKey, str] = {}
    found: dict[NodeKey, str] = {}
    for node in plan.nodes:
        if states[node.key] is not NodeState.PENDING:
            continue
        if (cause := _cause(node, by_key, states, lost)) is not None:
            found[node.key] = lost[node.key] = cause
            continue
        awaited = [key for key in node.key_inputs if not _input_state(key, states).done]
        more = f" and {len(awaited) - 1} more" if len(awaited) > 1 else ""
        found[node.key] = f"waiting for {awaited[0]}{more}" if awaited else "waiting for other nodes of its job"
    return found


def settled(plan: Plan, states: States) -> bool:
    """Nothing runs and nothing can start any more."""
    if any(state.live for state in states.values()):
        return False
    lost = dropped(plan, states)
    return not any(states[node.key] is NodeState.PENDING and node.key not in lost for node in plan.nodes)


def verdict(plan: Plan, states: States) -> JobState:
    """How a settled job ended: ``completed`` if every exit step has a success or a skipped node.

    A job that failed by time limits alone is ``timeout``.
    """
    exits: dict[str, bool] = {}
    for key in plan.exit_nodes:
        good = states.get(key) in (NodeState.SUCCESS, NodeState.SKIPPED)
        exits[key.step] = exits.get(key.step, False) or good
    if all(exits.values()):
        return JobState.COMPLETED
    failures = {state for state in states.values() if state.failed}
    return JobState.TIMEOUT if failures == {NodeState.TIMEOUT} else JobState.FAILED


def may_start(node: PlanNode, by_key: Mapping[NodeKey, PlanNode], states: States) -> bool:
    """Whether a pending node's inputs are done, and allow it."""
    inputs_done = all(_input_state(key, states).done for key in node.key_inputs)
    return inputs_done and not _lost_input(node, by_key, states)


def _lost_input(node: PlanNode, by_key: Mapping[NodeKey, PlanNode], states: States) -> bool:
    """Whether the inputs known so far already forbid this node."""
    failed = [key for key in node.key_inputs if _input_state(key, states).failed]
    unexcused = [key for key in failed if not (key in by_key and by_key[key].continue_)]
    if not node.builtin:
        return bool(unexcused)
    inputs = [_input_state(key, states) for key in node.key_inputs]
    if not inputs or not all(state.done for state in inputs) or NodeState.SUCCESS in inputs:
        return False
    return bool(unexcused) or not failed


def _cause(
    node: PlanNode, by_key: Mapping[NodeKey, PlanNode], states: States, lost: Mapping[NodeKey, str]
) -> str | None:
    """Why a pending node will never start, None if it may."""
    before = next((lost[key] for key in node.key_inputs if key in lost), None)
    if before is not None or not _lost_input(node, by_key, states):
        return before
    failed = next((key for key in node.key_inputs if _input_state(key, states).failed), None)
    return f"will not run: {failed} failed" if failed is not None else "will not run: no node before it succeeded"


def _input_state(key: NodeKey, states: States) -> NodeState:
    """An input outside the plan lies before the client's ``from``: its files are there, prepare saw to that."""
    return states.get(key, NodeState.SUCCESS)
