"""Requests to a controller that counts them: never more than it answers, whenever they are sent."""

import random

import pytest

from scd.executors.bucket import Bucket
from scd.slurm_site import Limit

STEPS = 20_000


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


class Slurmctld:
    """Whole requests, and more of them at the end of each period. At first half of what there can be."""

    def __init__(self, limit: Limit, now: float):
        self._limit, self._left, self._then = limit, limit.burst // 2, int(now / limit.period)

    def answers(self, now: float) -> bool:
        periods = int(now / self._limit.period)
        self._left = min(self._limit.burst, self._left + (periods - self._then) * self._limit.refill) - 1
        self._then = periods
        return self._left >= 0


@pytest.mark.parametrize("limit", [Limit(), Limit(10, 1, 1), Limit(60, 5, 3), Limit(200, 50, 1)])
def test_the_controller_answers_all_that_it_is_asked(limit: Limit) -> None:
    chance, clock = random.Random(1), Clock()
    bucket, slurmctld = Bucket(limit, clock), Slurmctld(limit, clock.time)
    sent = 0
    for _ in range(STEPS):
        clock.time += chance.choice([0.0, 0.01, 0.3, 1.0, 5.0]) * chance.random()
        if bucket.take(1):
            sent += 1
            assert slurmctld.answers(clock.time), f"request {sent} is one too many"
    most = min(STEPS, (clock.time - Clock.time) * limit.refill / limit.period)
    assert sent > 0.8 * most, "far less is sent than the controller answers"


def test_what_is_urgent_finds_something_left() -> None:
    clock = Clock()
    bucket = Bucket(Limit(30, 2, 1), clock)
    clock.time += 60
    ordinary = 0
    while bucket.take(1, 1 / 3):
        ordinary += 1
    urgent = 0
    while bucket.take(1):
        urgent += 1
    assert (ordinary, urgent) == (18, 10)


def test_a_command_that_needs_more_than_there_can_be_goes_when_it_is_full() -> None:
    clock = Clock()
    bucket = Bucket(Limit(6, 2, 1), clock)
    clock.time += 60
    assert bucket.take(10)
    clock.time += 3
    assert not bucket.take(1), "what was taken too much is not waited for"
    clock.time += 1
    assert bucket.take(1)


@pytest.mark.anyio
async def test_waiting_ends_when_there_is_something() -> None:
    bucket = Bucket(Limit(10, 100, 1))
    while bucket.take(1):
        pass
    await bucket.wait(1)
