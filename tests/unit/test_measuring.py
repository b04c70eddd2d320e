"""Which disks are measured, when, and how many at once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from sandbox_server.access import measuring
from sandbox_server.access.measuring import Measuring
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.usage import Usage

from tests.support import idle_time, samples

USAGE = Usage(1, 2, 3, 4)
HELD, FOREIGN = "held", "foreign"


def running(sandbox_id: str, namespace: str = HELD, phase: Phase = Phase.RUNNING) -> Sandbox:
    status = samples.status(phase=phase, reason=Reason.READY)
    return samples.sandbox(sandbox_id, namespace=namespace, status=status)


class World:
    """A catalogue, leases and disks. `answer`: what a disk answers; `goes_on`: when."""

    def __init__(self, *there: Sandbox) -> None:
        self.there = {one.key: one for one in there}
        self.answer: Usage | Exception = USAGE
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.open = self.most = 0
        self.begun: list[tuple[float, str]] = []
        self.heard: list[tuple[str, Usage | None]] = []
        self.catalogue = self

    def sandboxes(self) -> list[Sandbox]:
        return list(self.there.values())

    def get(self, key: Key) -> Any:
        return SimpleNamespace(event=SimpleNamespace(sandbox=self.there[key])) if key in self.there else None

    def held(self, namespace: str) -> int:
        return int(namespace == HELD)

    async def measured(self, sandbox: Sandbox) -> Usage:
        self.begun.append((time.monotonic(), sandbox.id))
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await self.goes_on.wait()
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer
        finally:
            self.open -= 1

    def hear(self, sandbox: Sandbox, usage: Usage | None) -> None:
        self.heard.append((sandbox.id, usage))

    @contextlib.asynccontextmanager
    async def measuring(self, interval: float, within: float = 60) -> AsyncIterator[Measuring]:
        world: Any = self
        made = Measuring(world, world, world, Pace(usage_interval=interval, usage_within=within), self.hear)
        task = asyncio.create_task(made.run())
        yield made
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        assert self.open == 0

    async def until(self, check: Any) -> None:
        async with asyncio.timeout(30):
            while not check():
                await asyncio.sleep(0.005)


async def test_disks_of_what_runs_here_are_measured_in_turn_and_spread_over_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    idle_time.begin(monkeypatch)
    world = World(
        *(running(f"a-{number}") for number in range(4)),
        running("stopped", phase=Phase.STOPPED),
        running("elsewhere", FOREIGN),
    )
    async with world.measuring(0.4) as made:
        await world.until(lambda: len(world.heard) >= 8)
    assert [one for one, _ in world.heard[:8]] == ["a-0", "a-1", "a-2", "a-3"] * 2
    assert made.outcomes == {"": len(world.heard)}
    times = [at for at, _ in world.begun]
    assert [at - times[0] for at in times[:8]] == pytest.approx([0.1 * number for number in range(8)], abs=0.01)


async def test_what_was_measured_last_is_shown_while_the_sandbox_runs_here() -> None:
    world = World(running("a"), running("b"), running("elsewhere", FOREIGN))
    a, b, _ = world.there
    async with world.measuring(0.01) as made:
        await world.until(lambda: len(list(made.usages())) == 2)
        assert list(made.usages()) == [(a, USAGE), (b, USAGE)]
        world.there[b] = running("b", phase=Phase.STOPPED)
        assert list(made.usages()) == [(a, USAGE)]
        # Another sandbox of the same id, of which nothing is known yet.
        world.goes_on.clear()
        world.there[a] = running("a")
        assert list(made.usages()) == []
        world.goes_on.set()
        await world.until(lambda: list(made.usages()))
        world.answer = errors.Unavailable("SANDBOX_NOT_REACHED", "words")
        await world.until(lambda: not list(made.usages()))


async def test_few_disks_are_measured_at_once_and_none_twice() -> None:
    assert measuring.AT_ONCE == 8
    world = World(*(running(f"a-{number}") for number in range(20)))
    world.goes_on.clear()
    async with world.measuring(0.01):
        await world.until(lambda: world.open == measuring.AT_ONCE)
        await asyncio.sleep(0.1)
        assert world.most == measuring.AT_ONCE
        world.goes_on.set()
        await world.until(lambda: len(world.heard) >= 20)
    assert world.most == measuring.AT_ONCE
    alone = World(running("a"))
    alone.goes_on.clear()
    async with alone.measuring(0.01):
        await asyncio.sleep(0.1)
        assert alone.most == 1


@pytest.mark.parametrize("answer", [errors.Unavailable("SANDBOX_NOT_REACHED", "words"), None])
async def test_failures_are_told_unless_the_sandbox_has_ended(answer: Exception | None) -> None:
    world = World(running("a"))
    if answer is None:
        world.goes_on.clear()
    else:
        world.answer = answer
    async with world.measuring(0.01, within=0.02) as made:
        await world.until(lambda: len(world.heard) >= 2)
    assert set(world.heard) == {("a", None)}
    assert set(made.outcomes) == {"DEADLINE_EXCEEDED" if answer is None else "SANDBOX_NOT_REACHED"}
    ended = World(running("a"))
    ended.goes_on.clear()
    ended.answer = errors.Unavailable("SANDBOX_NOT_REACHED", "words")
    async with ended.measuring(0.01) as made:
        await ended.until(lambda: ended.open == 1)
        ended.there = {key: running("a", phase=Phase.STOPPING) for key in ended.there}
        ended.goes_on.set()
        await ended.until(lambda: made.outcomes["SANDBOX_NOT_REACHED"] == 1)
    assert ended.heard == []


async def test_an_unforeseen_error_ends_no_more_than_its_measurement() -> None:
    world = World(running("a"))
    world.answer = ZeroDivisionError()
    async with world.measuring(0.01):
        await world.until(lambda: len(world.begun) > 2 * measuring.AT_ONCE)
        world.answer = USAGE
        await world.until(lambda: world.heard)
    assert world.heard[0] == ("a", USAGE)
