"""Turns: how many programs begin at once, in which order, and when a turn is over."""

import asyncio
import contextlib
from collections.abc import Callable

from sandbox_server.engines.local import turns

LONG = 30.0


class Crowd:
    """Tasks that each take a turn and hold it until they are cancelled."""

    def __init__(self, longest: float) -> None:
        self._turns = turns.Turns(longest)
        self._came = asyncio.Event()
        self.begun: list[int] = []
        self.over: dict[int, Callable[[], None]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def _hold(self, number: int) -> None:
        async with self._turns.taken() as over:
            self.begun.append(number)
            self.over[number] = over
            self._came.set()
            await asyncio.Event().wait()

    async def come(self, count: int) -> None:
        self.tasks += [asyncio.create_task(self._hold(len(self.tasks) + number)) for number in range(count)]
        await asyncio.sleep(0)

    async def have_begun(self, count: int) -> None:
        async with asyncio.timeout(LONG):
            while len(self.begun) < count:
                self._came.clear()
                await self._came.wait()

    async def leave(self, number: int) -> None:
        self.tasks[number].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.tasks[number]


async def test_no_more_begin_at_once_and_the_others_follow_in_order() -> None:
    crowd = Crowd(LONG)
    await crowd.come(turns.AT_ONCE + 3)
    await crowd.have_begun(turns.AT_ONCE)
    assert crowd.begun == [*range(turns.AT_ONCE)]
    crowd.over[1]()
    await crowd.leave(0)
    await crowd.have_begun(turns.AT_ONCE + 2)
    assert crowd.begun == [*range(turns.AT_ONCE + 2)]


async def test_turn_that_is_over_is_given_on_once() -> None:
    crowd = Crowd(LONG)
    await crowd.come(turns.AT_ONCE + 3)
    crowd.over[0]()
    crowd.over[0]()
    await crowd.leave(0)
    await crowd.have_begun(turns.AT_ONCE + 1)
    await asyncio.sleep(0)
    assert crowd.begun == [*range(turns.AT_ONCE + 1)]


async def test_one_that_leaves_while_it_waits_takes_no_turn() -> None:
    crowd = Crowd(LONG)
    await crowd.come(turns.AT_ONCE + 2)
    await crowd.leave(turns.AT_ONCE)
    await crowd.leave(0)
    await crowd.have_begun(turns.AT_ONCE + 1)
    assert crowd.begun == [*range(turns.AT_ONCE), turns.AT_ONCE + 1]


async def test_turn_of_one_that_never_answers_is_over_in_time() -> None:
    crowd = Crowd(0.01)
    await crowd.come(3 * turns.AT_ONCE)
    await crowd.have_begun(3 * turns.AT_ONCE)
