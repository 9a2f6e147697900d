import pytest
from siliconcompiler import NodeStatus

from scd.states import (
    JOB_ENDED,
    JOB_TRANSITIONS,
    NODE_DONE,
    NODE_LIVE,
    NODE_TRANSITIONS,
    JobState,
    NodeState,
    job_sources,
    node_sources,
)

# Another word crashes the client: its schema has them as an enum.
CLIENT_NODE_WORDS = {word for name, word in vars(NodeStatus).items() if name.isupper()}
# What ends the client's loop; any other word but "running" is polled for ever.
CLIENT_FINAL_WORDS = {"completed", "failed", "canceled", "rejected", "timeout", "unknown"}


def test_the_tables_name_every_state() -> None:
    assert set(JOB_TRANSITIONS) == set(JobState)
    assert set(NODE_TRANSITIONS) == set(NodeState)


def test_every_state_can_be_reached_from_the_first() -> None:
    jobs, nodes = {JobState.QUEUED}, {NodeState.PENDING}
    for _ in JobState:
        jobs |= {after for state in jobs for after in JOB_TRANSITIONS[state]}
    for _ in NodeState:
        nodes |= {after for state in nodes for after in NODE_TRANSITIONS[state]}
    assert jobs == set(JobState)
    assert nodes == set(NodeState)


def test_no_state_leads_to_itself() -> None:
    """A guarded move would otherwise report a change where there is none."""
    assert all(state not in after for state, after in JOB_TRANSITIONS.items())
    assert all(state not in after for state, after in NODE_TRANSITIONS.items())


def test_an_ended_job_goes_on_only_by_a_resume() -> None:
    assert {state for state in JobState if state.ended} == JOB_ENDED
    assert all(JOB_TRANSITIONS[state] == {JobState.QUEUED} for state in JOB_ENDED)


def test_every_unfinished_job_can_be_canceled() -> None:
    assert set(job_sources(JobState.CANCELED)) == set(JobState) - JOB_ENDED


def test_a_job_that_ran_is_not_rejected_any_more() -> None:
    assert set(job_sources(JobState.REJECTED)) == {JobState.QUEUED, JobState.PREPARING}


@pytest.mark.parametrize("state", sorted(NODE_LIVE))
def test_a_live_node_can_end_in_every_way(state: NodeState) -> None:
    assert NODE_TRANSITIONS[state] >= NODE_DONE


def test_a_node_is_never_run_twice_by_a_transition() -> None:
    """Only through pending, which a resume alone gives, does a done node become live again."""
    for state in NODE_DONE:
        assert not NODE_TRANSITIONS[state] & NODE_LIVE
    assert node_sources(NodeState.QUEUED) == (NodeState.PENDING,)


def test_a_live_node_never_goes_back() -> None:
    order = [NodeState.QUEUED, NodeState.SUBMITTED, NodeState.RUNNING]
    for position, state in enumerate(order):
        assert not NODE_TRANSITIONS[state] & {NodeState.PENDING, *order[:position]}


def test_pending_live_and_done_are_all_there_is() -> None:
    assert {NodeState.PENDING} | NODE_LIVE | NODE_DONE == set(NodeState)
    assert not NODE_LIVE & NODE_DONE
    for state in NodeState:
        assert state.live == (state in NODE_LIVE)
        assert state.done == (state in NODE_DONE)
        assert state.failed == (state in (NodeState.ERROR, NodeState.TIMEOUT))


@pytest.mark.parametrize("state", list(NodeState))
def test_the_client_knows_every_word_for_a_node(state: NodeState) -> None:
    assert state.wire in CLIENT_NODE_WORDS, f"the client crashes at {state.wire!r}"


@pytest.mark.parametrize("state", [state for state in NodeState if state is not NodeState.SUBMITTED])
def test_done_and_failed_mean_what_siliconcompiler_means(state: NodeState) -> None:
    assert state.done == NodeStatus.is_done(state.value)
    assert state.failed == NodeStatus.is_error(state.value)


def test_submitted_reads_queued_and_the_rest_reads_as_it_is() -> None:
    assert NodeState.SUBMITTED.wire == "queued"
    assert all(state.wire == state.value for state in NodeState if state is not NodeState.SUBMITTED)


def test_the_client_knows_every_word_for_an_ended_job() -> None:
    assert {str(state) for state in JOB_ENDED} <= CLIENT_FINAL_WORDS


@pytest.mark.parametrize("target", list(JobState))
def test_job_sources_are_the_table_read_backwards(target: JobState) -> None:
    assert set(job_sources(target)) == {state for state in JobState if target in JOB_TRANSITIONS[state]}


@pytest.mark.parametrize("target", list(NodeState))
def test_node_sources_are_the_table_read_backwards(target: NodeState) -> None:
    assert set(node_sources(target)) == {state for state in NodeState if target in NODE_TRANSITIONS[state]}
