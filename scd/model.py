"""The nouns of scd as frozen values."""

import msgspec

from .states import JobState, NodeState


class NodeKey(msgspec.Struct, frozen=True, order=True, array_like=True):
    """A node of a flowgraph, ``["syn", "0"]`` in JSON. ``name`` is the client's word for it, ``str()`` ours."""

    step: str
    index: str

    @property
    def name(self) -> str:
        return f"{self.step}{self.index}"

    def __str__(self) -> str:
        return f"{self.step}/{self.index}"


# Where a job's preparation stands among attempts of nodes.
PREPARE = NodeKey("", "")


class PlanNode(msgspec.Struct, frozen=True, rename={"key_inputs": "inputs", "continue_": "continue"}):
    """One node of a prepared flowgraph, as the runner's ``prepare`` reports it."""

    step: str
    index: str
    level: int
    status: NodeState  # after prepare: pending, or what an earlier run or the set-up made of it
    key_inputs: tuple[NodeKey, ...]  # skipped nodes looked through
    visible: bool = True  # in the client's own runtime graph; another name would crash it
    builtin: bool = False
    breakpoint: bool = False
    continue_: bool = False
    cores: int | None = None
    timeout: float | None = None  # seconds
    tool: str | None = None
    task: str | None = None
    scheduler: str | None = None  # and the rest of option,scheduler, as the manifest has it
    memory: int | None = None  # MB
    queue: str | None = None
    defer: str | None = None
    options: tuple[str, ...] = ()

    @property
    def key(self) -> NodeKey:
        return NodeKey(self.step, self.index)


class Plan(msgspec.Struct, frozen=True):
    """What prepare found: the nodes in execution order and where they live."""

    design: str
    jobname: str
    flow: str
    nodes: tuple[PlanNode, ...]
    exit_nodes: tuple[NodeKey, ...]
    maxnodes: int | None = None
    sc_version: str | None = None


class Job(msgspec.Struct, frozen=True):
    """A row of ``jobs``. Times are seconds since 1970, UTC."""

    job_hash: str
    user: str  # "" is the anonymous user
    state: JobState
    reason: str
    design: str
    jobname: str
    flow: str
    runtime: str
    created: float
    started: float | None
    ended: float | None
    upload_bytes: int
    digest: str
    answered: bool
    cancel_reason: str | None  # set once a cancel was asked for
    generation: int  # 1, then one more a resume
    plan: bytes | None
    retries: int = 0  # of this generation's preparation
    disk_bytes: int | None = None  # of an ended job, once measured
    public_key: str = ""  # the owner's, to which its files are encrypted at the end
    sealed: bool = False  # they are
    executor: str = "local"  # where it is prepared
    upload_seconds: float | None = None  # from the first byte of the import to the last

    def decoded_plan(self) -> Plan | None:
        return msgspec.json.decode(self.plan, type=Plan) if self.plan else None


class Node(msgspec.Struct, frozen=True):
    """A row of ``nodes``; ``attempt`` 0 is a node that never ran."""

    job_hash: str
    step: str
    index: str
    n: int
    state: NodeState
    reason: str
    attempt: int
    cores: int
    retries: int = 0  # in this generation

    @property
    def key(self) -> NodeKey:
        return NodeKey(self.step, self.index)


class Attempt(msgspec.Struct, frozen=True):
    """A row of ``attempts``: one try of one node, or of a job's preparation (step "")."""

    name: str
    job_hash: str
    step: str
    index: str
    attempt: int
    executor: str
    cores: int
    queued: float
    started: float | None = None
    ended: float | None = None
    elapsed: float | None = None  # seconds by the monotonic clock
    state: NodeState | None = None  # how it ended
    reason: str = ""
    exit_code: int | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    archive: str | None = None  # file name below the job's archives/
    archive_bytes: int | None = None  # of it, once measured; before it is encrypted
    handle: str | None = None  # what the executor calls it: Slurm's job id
    memory: int | None = None  # bytes that were asked for
    lost: bool = False  # its runner, shim or host went away: not the node's own fault
    unpack_seconds: float | None = None  # of a preparation
    archive_seconds: float | None = None  # packing a node's results, a part of elapsed
    array: str = ""  # the job array that it is submitted with, as which element of it
    element: int = 0

    @property
    def key(self) -> NodeKey:
        return NodeKey(self.step, self.index)


def attempt_name(job_hash: str, n: int, attempt: int) -> str:
    """What an attempt is called everywhere; ``n`` is 0 for a preparation."""
    return f"scd-{job_hash}-{n}.{attempt}"


def attempt_number(name: str) -> str:
    """``<n>.<attempt>`` of an attempt's name: what its own files and directories are called."""
    return name.rpartition("-")[2]


def number_in(name: str) -> int:
    """The ``n`` of an attempt's name."""
    return int(attempt_number(name).partition(".")[0])


class Event(msgspec.Struct, frozen=True):
    """A row of ``events``: a change of a job's state (step ``""``) or of a node's."""

    id: int
    at: float
    job_hash: str
    step: str
    index: str
    old: str | None
    new: str
    reason: str


class Tombstone(msgspec.Struct, frozen=True):
    """What stays of a deleted job: that it was, whose it was, and how it ended."""

    job_hash: str
    user: str
    state: JobState
    reason: str
    deleted: float


class Usage(msgspec.Struct, frozen=True):
    """What a user, or those of a group, have used in the current period, and have here now."""

    core_seconds: float
    result_bytes: int
    unfinished_jobs: int
    period_ends: float
    unfinished_bytes: int = 0  # uploads of unfinished jobs


class ResourceUsage(msgspec.Struct, frozen=True):
    """What a process tree has used: CPU time, the largest memory seen, bytes read and written."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    def merged(self, other: "ResourceUsage") -> "ResourceUsage":
        """The larger of each: samples miss the end, the end misses what escaped."""
        return ResourceUsage(*(max(mine, yours) for mine, yours in zip(
            msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True
        )))  # fmt: skip
