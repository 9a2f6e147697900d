"""Slurm's controller as the daemon meets it: asked seldom, never waited for by the event loop, and sometimes away."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .. import slurm_cli as cli
from ..config import Slurm
from ..placement import Partition
from ..slurm_calls import call
from ..slurm_cli import Answer
from ..slurm_partitions import partitions, sinfo
from ..slurm_queue import squeue
from ..slurm_site import Site, show_config, site
from .bucket import Bucket
from .readers import NoAnswer, Queue, Reader, Squeue
from .slurm_pyslurm import Choice, choose

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between two looks while things change
_BACKOFF = 1.5  # of looks at a queue in which nothing changes
_LOAD = 20.0  # a look takes at most this part of the time
_SITE_EVERY = 300.0
_KEPT = 1 / 3  # of a limit on requests: for looks at the queue and cancels
_LOOKS = 0.5  # of the same, the part that looks may take

T = TypeVar("T")


class Controller:
    def __init__(self, config: Slurm):
        self._config = config
        self._env = cli.environment(config.conf)
        self._reader: Reader = Squeue(self._env)
        self._threads = ThreadPoolExecutor(config.parallel + 4, thread_name_prefix="slurm")
        self._pace = TICK
        self._earliest = 0.0
        self._site_due = 0.0
        self._buckets: dict[int, Bucket] = {}  # by the account's uid, where requests are limited
        self._tick = TICK
        self.due = 0.0  # of the next look at the queue, by the monotonic clock
        self.site: Site | None = None  # until it is known
        self.partitions: Mapping[str, Partition] = {}
        self.reachable = asyncio.Event()
        self.reachable.set()

    async def do(self, function: Callable[..., T], *arguments: object) -> T:
        """Call what blocks, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def choose_reader(self) -> Choice:
        """Until then the queue is read by squeue."""
        choice = await self.do(choose, self._env)
        self._reader = choice.reader
        return choice

    def close(self) -> None:
        self._reader.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def hurry(self) -> None:
        """Something is about to change: look soon."""
        self._pace = self._tick
        self.due = min(self.due, max(self._earliest, time.monotonic() + TICK / 2))

    @property
    def largest_array(self) -> int:
        """How many nodes of one job go with one submission, where requests are limited; 0: each alone."""
        return 0 if self.site is None or self.site.limit is None else self.site.largest_array

    def limits(self, uid: int | None) -> bool:
        """Whether the site answers only so many requests of an account (``rl_enable``)."""
        return self._bucket(uid) is not None

    def may(self, uid: int | None, requests: int) -> bool:
        """Whether so many requests may be sent now as this account. They count as sent."""
        bucket = self._bucket(uid)
        return bucket is None or bucket.take(requests)

    def submissions(self, uid: int | None, most: int) -> int:
        """How many may be sent now as this account, and enough be left for what is urgent. They count as sent."""
        bucket = self._bucket(uid)
        return most if bucket is None else next((n for n in range(most) if not bucket.take(1, _KEPT)), most)

    def pause(self, uid: int | None) -> float:
        """Seconds until one may be."""
        bucket = self._bucket(uid)
        return 0.0 if bucket is None else bucket.lacks(1, _KEPT)

    def _bucket(self, uid: int | None) -> Bucket | None:
        if self.site is None or self.site.limit is None or uid is None or uid == self.site.unlimited:
            return None
        if uid not in self._buckets:
            self._buckets[uid] = Bucket(self.site.limit)
        return self._buckets[uid]

    async def ask(self, argv: Sequence[str]) -> Answer:
        if (bucket := self._bucket(os.geteuid())) is not None:
            await bucket.wait(cli.requests(argv))
        return await self.do(call, argv, self._env, cli.QUERY_DEADLINE)

    async def queue(self) -> Queue | None:
        """All that Slurm has with names of ours, in one look; None if it did not answer: then nothing is known."""
        try:
            await self._make_ready()
            begin = time.monotonic()
            found = await self.do(self._reader.read)
        except NoAnswer as error:
            self._set_reachable(error.message)
            self._earliest = self.due = time.monotonic() + self._pace
            self._pace = min(self._pace * _BACKOFF, self._config.poll_interval)
            return None
        now = time.monotonic()
        self._set_reachable()
        self._earliest = now + max(self._tick, _LOAD * (now - begin))
        self.due = max(now + self._pace, self._earliest)
        self._pace = min(self._pace * _BACKOFF, self._config.poll_interval)
        return found

    async def _make_ready(self) -> None:
        """Raises NoAnswer."""
        if (bucket := self._bucket(os.geteuid())) is not None:
            await bucket.wait(cli.requests(squeue()))
        # A reader tries for ten seconds; this says at once whether anybody is there, and that nobody is to whoever has
        # sent too many requests.
        elif not self.reachable.is_set():
            answer = await self.ask(cli.ping())
            if answer.code != 0:
                raise NoAnswer(answer.words)

    async def has(self, job: str, name: str) -> bool | None:
        """Whether it has this job under this name, None if it does not say."""
        return cli.is_known(await self.ask(cli.show_job(job)), name)

    async def read_site(self) -> None:
        """Now and then: a site changes seldom."""
        if time.monotonic() < self._site_due or not self.reachable.is_set():
            return
        given, found = partitions(await self.ask(sinfo())), site(await self.ask(show_config()))
        self._site_due = time.monotonic() + _SITE_EVERY
        if given is not None:
            self.partitions = given
        if found is None or found == self.site:
            return
        self.site, self._buckets, self._tick = found, {}, TICK
        if (bucket := self._bucket(os.geteuid())) is not None:
            self._tick = max(TICK, cli.requests(squeue()) / (_LOOKS * bucket.rate))
        if found.limit:
            log.info("Slurm limits requests to %s; scd keeps within that", found.limit)

    def _set_reachable(self, complaint: str = "") -> None:
        if not complaint and not self.reachable.is_set():
            self.reachable.set()
            self._site_due = 0.0
            log.info("Slurm answers again")
        elif complaint and self.reachable.is_set():
            self.reachable.clear()
            log.warning("Slurm does not answer (%s): nothing is submitted until it does, what runs goes on", complaint)
