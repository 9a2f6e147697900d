"""Slurm's controller as the daemon meets it: asked seldom, never waited for by the event loop, and sometimes away."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .. import slurm_cli as cli
from ..config import Slurm
from ..placement import Partition
from ..slurm_cli import Answer
from ..slurm_partitions import partitions, sinfo
from .readers import NoAnswer, Queue, Reader, Squeue
from .slurm_pyslurm import Choice, choose

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between two looks while things change
_BACKOFF = 1.5  # of looks at a queue in which nothing changes
_LOAD = 20.0  # a look takes at most this part of the time
_PARTITIONS_EVERY = 300.0

T = TypeVar("T")


class Controller:
    def __init__(self, config: Slurm):
        self._config = config
        self._env = cli.environment(config.conf)
        self._reader: Reader = Squeue(self._env)
        self._threads = ThreadPoolExecutor(config.parallel + 4, thread_name_prefix="slurm")
        self._pace = TICK
        self._earliest = 0.0
        self._partitions_due = 0.0
        self.due = 0.0  # of the next look at the queue, by the monotonic clock
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
        self._pace = TICK
        self.due = min(self.due, max(self._earliest, time.monotonic() + TICK / 2))

    async def ask(self, argv: Sequence[str]) -> Answer:
        return await self.do(cli.call, argv, self._env, cli.QUERY_DEADLINE)

    async def queue(self) -> Queue | None:
        """All that Slurm has with names of ours, in one look; None if it did not answer: then nothing is known."""
        begin = time.monotonic()
        try:
            found = await self._read()
        except NoAnswer as error:
            self._set_reachable(error.message)
            self._earliest = self.due = time.monotonic() + self._pace
            self._pace = min(self._pace * _BACKOFF, self._config.poll_interval)
            return None
        now = time.monotonic()
        self._set_reachable()
        self._earliest = now + max(TICK, _LOAD * (now - begin))
        self.due = max(now + self._pace, self._earliest)
        self._pace = min(self._pace * _BACKOFF, self._config.poll_interval)
        return found

    async def _read(self) -> Queue:
        if not self.reachable.is_set():  # a reader tries for ten seconds; this says at once whether anybody is there
            answer = await self.ask(cli.ping())
            if answer.code != 0:
                raise NoAnswer(answer.words)
        return await self.do(self._reader.read)

    async def has(self, job: str, name: str) -> bool | None:
        """Whether it has this job under this name, None if it does not say."""
        return cli.is_known(await self.ask(cli.show_job(job)), name)

    async def read_partitions(self) -> None:
        """Now and then: a site changes them seldom."""
        if time.monotonic() < self._partitions_due or not self.reachable.is_set():
            return
        answer = await self.ask(sinfo())
        self._partitions_due = time.monotonic() + _PARTITIONS_EVERY
        if (found := partitions(answer)) is not None:
            self.partitions = found

    def _set_reachable(self, complaint: str = "") -> None:
        if not complaint and not self.reachable.is_set():
            self.reachable.set()
            self._partitions_due = 0.0
            log.info("Slurm answers again")
        elif complaint and self.reachable.is_set():
            self.reachable.clear()
            log.warning("Slurm does not answer (%s): nothing is submitted until it does, what runs goes on", complaint)
