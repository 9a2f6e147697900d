"""An unfinished job as the scheduler holds it in memory. The database is the truth; this is read from it."""

import itertools
import time
from collections.abc import Collection, Iterable

import msgspec

from . import flowgraph
from .board import JobView, NodeView, Waits
from .executors.base import Observation, Spec
from .frontier import Frontier
from .model import PREPARE, Attempt, Job, Node, NodeKey, Plan, PlanNode, attempt_name
from .placement import LOCAL, Placement
from .standing import Standing
from .states import JobState, NodeState
from .units import format_elapsed

_MAX_FAILURES_NAMED = 5
# Never the same twice, also not for a job that is read from the database again.
_VERSIONS = itertools.count(1)


class LiveJob:
    def __init__(self, job: Job, nodes: Iterable[Node], attempts: Iterable[Attempt]):
        self.job = job
        self.nodes: dict[NodeKey, Node] = {node.key: node for node in nodes}
        plan = job.decoded_plan() if job.state is JobState.RUNNING else None
        self._frontier = None if plan is None else Frontier(plan, self.states)
        self._limits, self._planned = _limits(plan), _by_key(plan)
        attempts = list(attempts)
        self.attempts: dict[str, Attempt] = {attempt.name: attempt for attempt in attempts if attempt.ended is None}
        self.preparations = max((attempt.attempt for attempt in attempts if attempt.key == PREPARE), default=0)
        self.elapsed: dict[NodeKey, float] = {
            attempt.key: attempt.elapsed for attempt in attempts if attempt.elapsed is not None
        }
        self.recorded: dict[NodeKey, str] = {}  # reasons of nodes that may not be written down as they are
        self.seen: dict[str, Observation] = {}
        self.killed: set[str] = set()
        self._memory: dict[NodeKey, int] = {}  # of nodes that ran out of it and get more
        self.expired = ""  # why its time is up, once it is
        self._standing = Standing()
        self.version = next(_VERSIONS)
        self._ready: list[PlanNode] | None = None

    @property
    def job_hash(self) -> str:
        return self.job.job_hash

    @property
    def _rebuilt(self) -> bool:
        """Whether its tree went when it ended before: it is one that was to be encrypted."""
        return bool(self.job.public_key) and self.job.generation > 1

    @property
    def plan(self) -> Plan | None:
        return None if self._frontier is None else self._frontier.plan

    @property
    def states(self) -> dict[NodeKey, NodeState]:
        return {key: node.state for key, node in self.nodes.items()}

    def outcome(self, key: NodeKey, seen: Observation) -> tuple[NodeState, str]:
        """A node's final state and its reason in words. SiliconCompiler calls a tool that it timed out an error."""
        assert seen.state is not None
        if seen.state in (NodeState.SUCCESS, NodeState.SKIPPED):
            return seen.state, seen.reason
        limit = self.limit(key)
        if seen.state is NodeState.ERROR and limit and seen.elapsed >= limit and seen.exit_code:
            return NodeState.TIMEOUT, over(limit)
        return seen.state, seen.reason or (f"failed (exit code {seen.exit_code})" if seen.exit_code else "failed")

    def on_record(self, attempt: Attempt, seen: Observation, reason: str) -> str:
        """What of a reason may be written down: of a job that is to be encrypted scd's own words alone.

        These are of what was lost, ended by scd, or never got as far as a record in the journal.
        """
        own = seen.lost or seen.ended is None or attempt.name in self.killed or seen.state is NodeState.TIMEOUT
        if not self.job.public_key or not reason or own:
            return reason
        if seen.refused:
            return "SiliconCompiler refused the job; of an encrypted job it is not kept why"
        return "failed" + (f" (exit code {seen.exit_code})" if seen.exit_code else "") + "; its log says why"

    def ready(self) -> list[PlanNode]:
        """The nodes that may start, in execution order; worked out once between two changes."""
        if self._ready is None:
            self._ready = [] if self._frontier is None else self._frontier.ready()
        return self._ready

    def offered(self, lacking: Collection[NodeKey]) -> list[PlanNode]:
        """The ready nodes; of more than there is room for the first, and those ``lacking`` a licence last."""
        room = None if self._frontier is None else self._frontier.room()
        if room is None:
            return self.ready()
        return sorted(self.ready(), key=lambda node: node.key in lacking)[:room]

    def verdict(self) -> JobState | None:
        """How the job ends if nothing more of it can start, None while something can, or it was never prepared."""
        if self.plan is None or not flowgraph.settled(self.plan, self.states):
            return None
        return flowgraph.verdict(self.plan, self.states)

    def all_went_well(self) -> bool:
        """Whether each node of the plan ran, or needed not to. A verdict asks less: one success of each exit step."""
        good = (NodeState.SUCCESS, NodeState.SKIPPED)
        return self.plan is not None and all(self.nodes[node.key].state in good for node in self.plan.nodes)

    def changed(self) -> None:
        self.version, self._ready = next(_VERSIONS), None

    def limit(self, key: NodeKey) -> float | None:
        """A node's time limit in seconds, from the manifest."""
        return self._limits.get(key)

    @property
    def cores(self) -> int:
        """This machine's cores in use by this job's live attempts."""
        return sum(attempt.cores for attempt in self.attempts.values() if attempt.executor == LOCAL)

    def planned(self, key: NodeKey) -> PlanNode | None:
        return self._planned.get(key)

    @property
    def ending(self) -> bool:
        """It was decided that nothing more of it starts."""
        return self.job.cancel_reason is not None or bool(self.expired)

    def seconds(self, name: str) -> float:
        """How long a live attempt has run, by the monotonic clock."""
        begun = self.seen[name].started_mono if name in self.seen else None
        return 0.0 if begun is None else max(0.0, time.monotonic() - begun)

    @property
    def running_nodes(self) -> int:
        return sum(attempt.key != PREPARE for attempt in self.attempts.values())

    def change_node(self, key: NodeKey, state: NodeState, reason: str = "") -> None:
        self._put(msgspec.structs.replace(self.nodes[key], state=state, reason=reason))

    def change_job(self, state: JobState, reason: str = "") -> None:
        self.job = msgspec.structs.replace(self.job, state=state, reason=reason)
        self.changed()

    def retry(self, key: NodeKey, memory: int | None = None) -> None:
        """A node whose attempt was lost, or gets more ``memory``, is pending again."""
        if memory is not None:
            self._memory[key] = memory
        node = self.nodes[key]
        self._put(msgspec.structs.replace(node, state=NodeState.PENDING, retries=node.retries + 1))

    def retry_job(self, reason: str) -> None:
        """A job whose preparation was lost is queued again."""
        self.job = msgspec.structs.replace(self.job, state=JobState.QUEUED, reason=reason, retries=self.job.retries + 1)
        self.changed()

    def take_plan(self, plan: Plan, nodes: Iterable[Node]) -> None:
        self.nodes = {node.key: node for node in nodes}
        self._frontier = Frontier(plan, self.states)
        self._limits, self._planned = _limits(plan), _by_key(plan)
        self.changed()

    def queue(self, attempt: Attempt) -> None:
        """An attempt of a node that was claimed in the database."""
        node = self.nodes[attempt.key]
        self.attempts[attempt.name] = attempt
        self._put(msgspec.structs.replace(node, state=NodeState.QUEUED, attempt=attempt.attempt, reason=""))

    def wait(self, position: int, why: str, lacking: dict[NodeKey, str], *, stands: bool) -> None:
        """Where the job stands in the queue, why what could start of it does not, and which nodes lack a licence.

        ``stands``: nothing of it runs, so that its user is told.
        """
        if self._standing.take(position, why, lacking, stands=stands):
            self.version = next(_VERSIONS)

    def waits(self) -> Waits:
        """Why it waits, and its nodes, as of now."""
        if self.plan is None or self.ending:
            return Waits(self.reason)
        offered = self.offered(self._standing.lacking)
        nodes = flowgraph.waiting(self.plan, self.states) | {node.key: self._standing.why for node in offered}
        nodes |= self._standing.lacking | self._elsewhere()
        return Waits(self.told, {str(key): why for key, why in nodes.items()})

    @property
    def told(self) -> str:
        """What the user of a job that runs is told of why nodes of it wait."""
        return self._standing.running

    @property
    def reason(self) -> str:
        """Why it is in its state, in words for the user."""
        if self.job.state is JobState.QUEUED:
            return self._standing.queued(self.job.reason)
        if self.job.state is JobState.PREPARING:
            return self._standing.preparing
        return self.job.reason

    def prepare_attempt(self, executor: str, memory: int, now: float) -> Attempt:
        self.preparations += 1
        return Attempt(
            name=attempt_name(self.job_hash, 0, self.preparations), job_hash=self.job_hash, step="", index="",
            attempt=self.preparations, executor=executor, cores=1, queued=now, memory=memory or None,
        )  # fmt: skip

    def node_attempt(self, node: Node, cores: int, executor: str, memory: int, now: float) -> Attempt:
        return Attempt(
            name=attempt_name(self.job_hash, node.n, node.attempt + 1), job_hash=self.job_hash, step=node.step,
            index=node.index, attempt=node.attempt + 1, executor=executor, cores=cores, queued=now,
            memory=self._memory.get(node.key) or memory or None,
        )  # fmt: skip

    def spec(self, attempt: Attempt, placement: Placement) -> Spec:
        """The order for an attempt; the same again after a restart."""
        key = None if attempt.key == PREPARE else attempt.key
        n = 0 if key is None else self.nodes[key].n
        return Spec(
            name=attempt.name, job_hash=self.job_hash, design=self.job.design, jobname=self.job.jobname,
            runtime=self.job.runtime, archive=f"{n}.{attempt.attempt}.tar.gz", generation=self.job.generation, key=key,
            unpack=self.job.plan is None or self._rebuilt, ancestors=() if key is None else self._ancestors(key),
            user=self.job.user, rebuilt=self._rebuilt, placement=placement, handle=attempt.handle or "",
            array=attempt.array, element=attempt.element,
        )  # fmt: skip

    def view(self) -> JobView:
        mono = {
            attempt.key: self.seen[name].started_mono for name, attempt in self.attempts.items() if name in self.seen
        }
        hidden = set() if self.plan is None else {node.key for node in self.plan.nodes if not node.visible}
        nodes = {
            key: NodeView(
                node.state, key not in hidden, mono.get(key), self.elapsed.get(key) if node.state.done else None
            )
            for key, node in self.nodes.items()
        }
        return JobView(
            self.job_hash, self.job.user, self.job.state, self.reason, nodes if self.plan else {}, self.version,
            waiting=self.told if self.job.state is JobState.RUNNING else "",
        )  # fmt: skip

    def note_waiting(self) -> None:
        """Take up why nodes do not run that are in a queue elsewhere."""
        if self._standing.note(self._elsewhere()):
            self.version = next(_VERSIONS)

    def _elsewhere(self) -> dict[NodeKey, str]:
        """What is said of attempts in a queue elsewhere; a preparation is among them."""
        seen = {attempt.key: self.seen[name] for name, attempt in self.attempts.items() if name in self.seen}
        return {key: one.waiting for key, one in seen.items() if one.waiting and one.started is None}

    def failures(self, *, recorded: bool = False) -> str:
        """What went wrong, in words for the user; ``recorded``: as far as it may be written down."""
        failed = [node for node in self.nodes.values() if node.state.failed]
        reasons = {node.key: node.reason for node in failed} | (self.recorded if recorded else {})
        named = [f"{node.key} {reasons[node.key] or node.state}" for node in failed[:_MAX_FAILURES_NAMED]]
        more = len(failed) - len(named)
        return "; ".join(named) + (f"; and {more} more" if more > 0 else "")

    def _ancestors(self, key: NodeKey) -> tuple[tuple[str, str, str], ...]:
        """The nodes before ``key`` that ran, in execution order: their journals are replayed before it starts."""
        assert self._frontier is not None
        return tuple(
            (node.step, node.index, str(self.nodes[node.key].state))
            for node in self._frontier.before(key)
            if node.status is NodeState.PENDING and self.nodes[node.key].state.done
        )

    def _put(self, node: Node) -> None:
        self.nodes[node.key] = node
        if self._frontier is not None:
            self._frontier.move(node.key, node.state)
        self.changed()


def over(limit: float) -> str:
    """Why a node was ended that took longer than ``limit`` seconds."""
    return f"over its time limit of {format_elapsed(limit)}"


def _by_key(plan: Plan | None) -> dict[NodeKey, PlanNode]:
    return {node.key: node for node in plan.nodes} if plan is not None else {}


def _limits(plan: Plan | None) -> dict[NodeKey, float]:
    return {node.key: node.timeout for node in plan.nodes if node.timeout} if plan is not None else {}
