"""``/metrics``: what is counted in memory, and a look at the queue and the disks; and the counting of requests."""

import asyncio
import ipaddress
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import Forbidden
from ..metrics import CONTENT_TYPE, Metrics
from ..scheduler import Scheduler
from ..states import JobState, NodeState
from .health import Health
from .peers import is_admin
from .stream import Audience

# A proxy's mark on a request: it hides where that came from.
_FORWARDED = ("x-forwarded-for", "forwarded", "via")


class Monitor:
    """Who may read: whoever can open the Unix socket, and ``readers``, addresses and networks of the configuration."""

    def __init__(
        self, metrics: Metrics, scheduler: Scheduler, health: Health, audience: Audience, places: dict[str, Path],
        readers: Iterable[str],
    ):  # fmt: skip
        self._metrics = metrics
        self._scheduler = scheduler
        self._health = health
        self._audience = audience
        self._places = places
        self._readers = [ipaddress.ip_network(reader) for reader in readers]
        self._census, self._licenses = scheduler.census(), scheduler.licenses()
        metrics.add(self._unfinished)
        metrics.add(self._in_use)
        metrics.add(self._able)
        metrics.add(self._disks)

    async def metrics(self, request: Request) -> Response:
        """Prometheus's text format. 403 for whoever is not named."""
        if not is_admin(request.scope) and not self._may_read(request):
            raise Forbidden("The metrics are for the Unix socket, and for the addresses in [server] metrics.")
        await self._health.look()
        # The census is of the event loop; disks that hang must not hold it up.
        self._census, self._licenses = self._scheduler.census(), self._scheduler.licenses()
        return Response(await asyncio.to_thread(self._metrics.text), media_type=CONTENT_TYPE)

    def _may_read(self, request: Request) -> bool:
        if request.client is None or any(header in request.headers for header in _FORWARDED):
            return False
        try:
            address = ipaddress.ip_address(request.client.host)
        except ValueError:
            return False
        return any(address in network for network in self._readers)

    def _unfinished(self) -> Iterator[Metric]:
        jobs, nodes = self._census
        by_job = GaugeMetricFamily("scd_jobs", "Unfinished jobs, by state.", labels=["state"])
        for job in JobState:
            if not job.ended:
                by_job.add_metric([job], jobs[job])
        by_node = GaugeMetricFamily("scd_nodes", "Nodes of unfinished jobs, by state.", labels=["state"])
        for node in NodeState:
            by_node.add_metric([node], nodes[node])
        yield by_job
        yield by_node

    def _in_use(self) -> Iterator[Metric]:
        held = GaugeMetricFamily("scd_licenses_in_use", "Licences that nodes hold, by name.", labels=["license"])
        count = GaugeMetricFamily("scd_licenses", "Licences that scd gives out, by name.", labels=["license"])
        for name, (used, of) in self._licenses.items():
            held.add_metric([name], used)
            count.add_metric([name], of)
        yield held
        yield count

    def _able(self) -> Iterator[Metric]:
        able = GaugeMetricFamily("scd_executor_up", "1 if an executor can start nodes.", labels=["executor"])
        for name, trouble in self._health.troubles.items():
            able.add_metric([name], not trouble)
        yield able
        yield GaugeMetricFamily("scd_page_viewers", "Open live views of the status page.", self._audience.size)

    def _disks(self) -> Iterator[Metric]:
        free = GaugeMetricFamily("scd_disk_free_bytes", "Bytes free on the disk of a directory.", labels=["directory"])
        size = GaugeMetricFamily("scd_disk_size_bytes", "Bytes of the disk of a directory.", labels=["directory"])
        for name, place in self._places.items():
            usage = shutil.disk_usage(place)
            free.add_metric([name], usage.free)
            size.add_metric([name], usage.total)
        yield free
        yield size


class Counted:
    """Counts each request by the name of its handler, and the bytes of its body and its answer's."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, begun = time.monotonic(), False

        def answered(status: int) -> None:
            handler = scope.get("endpoint")  # none where the guard or the router refused
            name = getattr(handler, "__name__", "other")
            self._metrics.answered(name, status, time.monotonic() - begin)

        async def counted_receive() -> Message:
            message = await receive()
            self._metrics.received.inc(len(message.get("body", b"")))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                answered(message["status"])
            else:
                self._metrics.sent.inc(len(message.get("body", b"")))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        except Exception:  # it is answered further out
            if not begun:
                answered(500)
            raise
