"""What a monitoring system reads of scd, counted where it happens: a scrape reads no table.

Users and jobs are no labels: there are too many, and whoever reads the metrics need not know them.
"""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

from . import __version__
from .model import Attempt, Job
from .states import JOB_ENDED, NODE_DONE, JobState, NodeState

disable_created_metrics()  # type: ignore[no-untyped-call]
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_WAITS = (0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_TURNS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

Collect = Callable[[], Iterator[Metric]]


class Metrics:
    """Times are seconds. Each counter begins at 0 when the daemon starts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._jobs_ended = Counter("scd_jobs_ended", "Jobs that ended, by state.", ["state"], registry=self.registry)
        self._nodes_ended = Counter(
            "scd_nodes_ended", "Runs of nodes that ended, by state.", ["state"], registry=self.registry
        )
        self._queue_wait = Histogram(
            "scd_job_queue_seconds", "From the submission of a job to the beginning of its preparation.",
            buckets=_WAITS, registry=self.registry,
        )  # fmt: skip
        self._dispatch = Histogram(
            "scd_node_dispatch_seconds", "From the decision to run a node to its start, by executor.",
            ["executor"], buckets=_WAITS, registry=self.registry,
        )  # fmt: skip
        self.turn = Histogram(
            "scd_scheduler_turn_seconds", "One turn of the scheduler: a transaction.",
            buckets=_TURNS, registry=self.registry,
        )  # fmt: skip
        self._requests = Histogram(
            "scd_http_request_seconds", "From a request to the beginning of its answer; polls are held on purpose.",
            ["endpoint", "status"], buckets=_LATENCIES, registry=self.registry,
        )  # fmt: skip
        self.received = Counter("scd_http_received_bytes", "Bytes of requests' bodies.", registry=self.registry)
        self.sent = Counter("scd_http_sent_bytes", "Bytes of answers' bodies.", registry=self.registry)
        build = Gauge("scd_build_info", "The version that runs.", ["version"], registry=self.registry)
        build.labels(__version__).set(1)
        ProcessCollector(registry=self.registry)
        for job in JOB_ENDED:
            self._jobs_ended.labels(job)
        for node in NODE_DONE:
            self._nodes_ended.labels(node)

    def add(self, collect: Collect) -> None:
        """What is not counted but looked at, at each scrape, from the thread that asks."""
        self.registry.register(_Look(collect))

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)

    def taken_up(self, job: Job) -> None:
        """A job leaves the queue. When one that was resumed had entered it is not known."""
        if job.generation == 1 and not job.retries:
            self._queue_wait.observe(max(0.0, time.time() - job.created))

    def started(self, attempt: Attempt) -> None:
        if attempt.started is not None:
            self._dispatch.labels(attempt.executor).observe(max(0.0, attempt.started - attempt.queued))

    def node_ended(self, state: NodeState) -> None:
        self._nodes_ended.labels(state).inc()

    def job_ended(self, state: JobState) -> None:
        self._jobs_ended.labels(state).inc()

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        self._requests.labels(endpoint, f"{status // 100}xx").observe(seconds)


class _Look:
    def __init__(self, collect: Collect):
        self.collect = collect
