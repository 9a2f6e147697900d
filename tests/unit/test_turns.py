"""Nobody waits for one who asks for much."""

import asyncio
import contextlib

import pytest

from scd.web.turns import Turns

pytestmark = pytest.mark.anyio


class Room:
    """Whoever had a turn, in that order; each stays until he is let go."""

    def __init__(self, turns: Turns):
        self._turns = turns
        self.entered: list[str] = []
        self._tasks: list[tuple[str, asyncio.Task[None]]] = []
        self._leave: dict[str, asyncio.Event] = {}

    async def come(self, *names: str) -> None:
        """Each is one of somebody: "a1" and "a2" are a's."""
        for name in names:
            self._leave[name] = asyncio.Event()
            self._tasks.append((name, asyncio.create_task(self._stay(name))))
        await settle()

    async def _stay(self, name: str) -> None:
        async with self._turns.turn(name[0]):
            self.entered.append(name)
            await self._leave[name].wait()

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await settle()

    async def give_up(self, name: str) -> None:
        task = dict(self._tasks)[name]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_turns_go_round() -> None:
    room = Room(Turns(1))
    await room.come("a1", "a2", "a3", "a4", "b1", "c1", "b2")
    for name in ("a1", "a2", "b1", "c1", "a3", "b2"):
        await room.leave(name)
    assert room.entered == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_no_more_at_once_than_there_may_be() -> None:
    room = Room(Turns(2))
    await room.come("a1", "b1", "c1")
    assert room.entered == ["a1", "b1"]
    await room.leave("b1")
    assert room.entered == ["a1", "b1", "c1"]
    await room.leave("a1")
    await room.leave("c1")
    await room.come("d1", "d2", "d3")
    assert room.entered[3:] == ["d1", "d2"], "both places are free again"


async def test_who_gives_up_takes_no_turn() -> None:
    room = Room(Turns(1))
    await room.come("a1", "b1", "c1")
    await room.give_up("b1")
    await room.give_up("a1")
    assert room.entered == ["a1", "c1"]
    await room.leave("c1")
    await room.come("d1")
    assert room.entered[-1] == "d1"


async def test_a_turn_that_comes_to_one_who_has_just_given_up_is_passed_on() -> None:
    turns = Turns(1)
    room = Room(turns)
    await room.come("a1", "b1", "c1")
    room._leave["a1"].set()
    await asyncio.sleep(0)  # a's task ends, and gives b the turn
    await room.give_up("b1")
    assert room.entered[-1] == "c1"
