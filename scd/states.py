"""The states of jobs and nodes, the changes that are allowed, and what the client is told of each."""

from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"
    TIMEOUT = "timeout"

    @property
    def ended(self) -> bool:
        return self in JOB_ENDED


class NodeState(StrEnum):
    PENDING = "pending"
    QUEUED = "queued"
    SUBMITTED = "submitted"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    SKIPPED = "skipped"
    TIMEOUT = "timeout"

    @property
    def done(self) -> bool:
        """As SiliconCompiler's NodeStatus.is_done."""
        return self in NODE_DONE

    @property
    def failed(self) -> bool:
        """As SiliconCompiler's NodeStatus.is_error."""
        return self in (NodeState.ERROR, NodeState.TIMEOUT)

    @property
    def live(self) -> bool:
        """An attempt of this node may have a process."""
        return self in NODE_LIVE

    @property
    def wire(self) -> str:
        """What check_progress says. A word outside the client's own set crashes it."""
        return "queued" if self is NodeState.SUBMITTED else str(self)


JOB_ENDED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELED, JobState.REJECTED, JobState.TIMEOUT})
NODE_DONE = frozenset({NodeState.SUCCESS, NodeState.ERROR, NodeState.SKIPPED, NodeState.TIMEOUT})
NODE_LIVE = frozenset({NodeState.QUEUED, NodeState.SUBMITTED, NodeState.RUNNING})

_J, _N = JobState, NodeState

JOB_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    _J.QUEUED: frozenset({_J.PREPARING, _J.CANCELED, _J.REJECTED}),
    # Back to the queue: a preparation that was lost with its machine is tried again.
    _J.PREPARING: frozenset({_J.QUEUED, _J.RUNNING, _J.FAILED, _J.CANCELED, _J.REJECTED, _J.TIMEOUT}),
    _J.RUNNING: frozenset({_J.COMPLETED, _J.FAILED, _J.CANCELED, _J.TIMEOUT}),
    # A job that ended may be resumed, in the same directory.
    **{ended: frozenset({_J.QUEUED}) for ended in JOB_ENDED},
}

NODE_TRANSITIONS: dict[NodeState, frozenset[NodeState]] = {
    _N.PENDING: frozenset({_N.QUEUED}),
    _N.QUEUED: frozenset({_N.SUBMITTED, _N.RUNNING, *NODE_DONE}),
    _N.SUBMITTED: frozenset({_N.RUNNING, *NODE_DONE}),
    _N.RUNNING: NODE_DONE,
    # A resume prepares the job anew: it decides which nodes run again. A lost node may be retried.
    **{done: frozenset({_N.PENDING}) for done in NODE_DONE},
}


def job_sources(target: JobState) -> tuple[JobState, ...]:
    """The states a job may leave for ``target``."""
    return tuple(state for state, targets in JOB_TRANSITIONS.items() if target in targets)


def node_sources(target: NodeState) -> tuple[NodeState, ...]:
    """The states a node may leave for ``target``."""
    return tuple(state for state, targets in NODE_TRANSITIONS.items() if target in targets)
