"""What Slurm's states and reasons mean to a user."""

import pytest

from scd.executors.slurm_words import ending, explains, waiting
from scd.slurm_queue import ENDED, QueueRow
from scd.states import NodeState


def row(state: str, reason: str = "None", nodes: str = "node3") -> QueueRow:
    return QueueRow("1", state, 1.0, 2.0, nodes, "name", reason)


@pytest.mark.parametrize(
    ("state", "node", "words", "lost"),
    [
        ("COMPLETED", "error", "left no record (on node3)", True),
        ("FAILED", "error", "could not run it to its end: JobLaunchFailure (on node3)", True),
        ("TIMEOUT", "timeout", "over its time limit of 01:00:00", False),
        ("DEADLINE", "timeout", "over its deadline in Slurm", False),
        ("OUT_OF_MEMORY", "error", "out of memory: 512 MiB were asked for (on node3)", False),
        ("NODE_FAIL", "error", "its node failed (on node3)", True),
        ("PREEMPTED", "error", "preempted by a job of higher priority", True),
        ("CANCELLED", "error", "cancelled in Slurm, not by scd", False),
        ("BOOT_FAIL", "error", "its node could not be started (on node3)", True),
        ("REVOKED", "error", "taken over by another cluster", True),
    ],
)
def test_each_final_state_is_a_nodes_state_with_a_reason(state: str, node: str, words: str, lost: bool) -> None:
    found = ending(row(state, "JobLaunchFailure"), 512 * 2**20, "01:00:00")
    assert found.state is NodeState(node)
    assert words in found.reason
    assert found.lost is lost
    assert found.out_of_memory is (state == "OUT_OF_MEMORY")


def test_no_final_state_is_forgotten() -> None:
    for state in ENDED:
        assert ending(row(state), 0, "").reason
        assert row(state).has_ended


@pytest.mark.parametrize(
    "state", ["PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING", "REQUEUED", "A_NEW_ONE"]
)
def test_other_states_have_not_ended(state: str) -> None:
    assert not row(state).has_ended


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ("PENDING", "Resources", "waiting for resources"),
        ("PENDING", "None", ""),
        ("PENDING", "PartitionDown", "the partition is down"),
        ("PENDING", "JobHeldAdmin", "held by Slurm's administrator: it starts when he releases it"),
        ("PENDING", "PartitionConfig", "no node of the partition has what it asks for: it will never start like this"),
        ("PENDING", "AssocMaxJobsLimit", "a limit of the Slurm account is reached (AssocMaxJobsLimit)"),
        ("PENDING", "QOSMaxCpuPerUserLimit", "a limit of the quality of service is reached (QOSMaxCpuPerUserLimit)"),
        (
            "PENDING", "ReqNodeNotAvail, UnavailableNodes:node4",
            "nodes that it needs are not available (ReqNodeNotAvail, UnavailableNodes:node4)",
        ),
        ("PENDING", "SomethingNew\x1b[1m", "waiting in Slurm (SomethingNew [1m)"),
        ("SUSPENDED", "None", "suspended by Slurm"),
        ("RUNNING", "None", ""),
        ("A_NEW_ONE", "None", "Slurm says A_NEW_ONE"),
    ],
)  # fmt: skip
def test_why_a_node_waits(state: str, reason: str, words: str) -> None:
    assert waiting(row(state, reason)) == words


def test_a_node_that_waits_for_a_licence_names_it() -> None:
    assert waiting(row("PENDING", "Licenses"), "innovus@flex") == "waiting for an innovus@flex licence in Slurm"
    assert waiting(row("PENDING", "Licenses")) == "waiting for a licence"
    assert waiting(row("PENDING", "Resources"), "vcs") == "waiting for resources"


def test_what_slurm_did_explains_a_failure_and_a_failure_does_not() -> None:
    assert explains(row("TIMEOUT"), outside=True)
    assert not explains(row("FAILED"), outside=True)
    assert not explains(row("COMPLETED"), outside=True)
