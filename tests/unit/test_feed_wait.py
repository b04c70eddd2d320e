"""A wait of the feed: every event is judged, and nothing but an event, the time or the end of the service ends it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sandbox_server import feed
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key
from sandbox_server.rpc import render

from tests.support import samples
from tests.support.feeds import MINE, MemoryLog, publish

ONE = feed.Filter(MINE, frozenset({Key("default", "demo-1")}))


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
async def memory(log: MemoryLog) -> AsyncIterator[feed.Feed]:
    made = feed.Feed(log, render.Encoder(), Pace(heartbeat=0.05, read_again=0.01))
    yield made
    made.close()


class Judge:
    """Waits for `phase`, and keeps what it was asked about."""

    def __init__(self, phase: Phase = Phase.RUNNING, seconds: float = 20) -> None:
        self.phase = phase
        self.seconds = seconds
        self.end = asyncio.get_running_loop().time() + seconds
        self.seen: list[int] = []

    def __call__(self, event: Event) -> float:
        self.seen.append(event.sequence)
        if event.sandbox.status.phase is self.phase:
            return 0
        return self.end - asyncio.get_running_loop().time()


async def begun(memory: feed.Feed, judge: Judge) -> asyncio.Task[feed.Encoded]:
    task = asyncio.create_task(feed.until(memory, ONE, judge))
    await asyncio.sleep(0.01)
    return task


def enters(log: MemoryLog, phase: Phase) -> Event:
    return log.append(samples.sandbox(status=samples.status(phase=phase)))


async def test_a_wait_that_is_over_reads_no_more(memory: feed.Feed, log: MemoryLog) -> None:
    memory.publish([enters(log, Phase.RUNNING)])
    found = await feed.until(memory, ONE, Judge())
    assert found is memory.catalogue.get(Key("default", "demo-1"))
    assert log.reads == 0


async def test_a_phase_that_comes_and_goes_in_one_commit_ends_a_wait(memory: feed.Feed, log: MemoryLog) -> None:
    publish(memory, log, 1)
    waiting = await begun(memory, Judge())
    memory.publish([enters(log, Phase.STARTING), enters(log, Phase.RUNNING), enters(log, Phase.ERROR)])
    assert (await waiting).event.sequence == 3


async def test_heartbeats_and_other_sandboxes_end_no_wait(memory: feed.Feed, log: MemoryLog) -> None:
    publish(memory, log, 1)
    beating = asyncio.create_task(memory.beat())
    judge = Judge(seconds=0.3)
    waiting = await begun(memory, judge)
    publish(memory, log, 5, "demo-2")
    found = await waiting
    assert found.event.sequence == 1
    assert set(judge.seen) == {1}
    beating.cancel()


async def test_waits_of_one_sandbox_are_ended_by_one_event_and_leave_nothing_behind(
    memory: feed.Feed, log: MemoryLog
) -> None:
    publish(memory, log, 1)
    waits = [await begun(memory, Judge()) for _ in range(3)]
    (opened,) = memory.waits._waits.values()
    assert len(opened) == 3
    waits[0].cancel()
    await asyncio.sleep(0)
    assert len(opened) == 2
    memory.publish([enters(log, Phase.RUNNING)])
    found = await asyncio.gather(*waits[1:])
    assert found[0] is found[1]
    assert not memory.waits._waits


async def test_a_wait_that_missed_events_reads_the_last_one(memory: feed.Feed, log: MemoryLog) -> None:
    publish(memory, log, 1)
    waiting = await begun(memory, Judge(Phase.STOPPED))
    for _ in range(300):
        enters(log, Phase.STARTING)
    enters(log, Phase.STOPPED)
    log.trimmed = 200
    await memory.follow()
    assert (await waiting).event.sequence == 302


async def test_an_event_during_the_first_read_is_not_missed(
    memory: feed.Feed, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    enters(log, Phase.TERMINATED)
    memory.sequence = 1
    last = log.last

    async def slow(keys: list[Key]) -> tuple[int, list[Event]]:
        found = await last(keys)
        memory.publish([enters(log, Phase.CREATING), enters(log, Phase.RUNNING)])
        return found

    monkeypatch.setattr(log, "last", slow)
    assert (await feed.until(memory, ONE, Judge())).event.sequence == 3


async def test_the_end_of_the_service_ends_a_wait_with_the_present_status(memory: feed.Feed, log: MemoryLog) -> None:
    publish(memory, log, 2)
    waiting = await begun(memory, Judge())
    memory.close()
    assert (await asyncio.wait_for(waiting, 30)).event.sequence == 2


async def test_a_wait_for_an_unknown_sandbox_is_refused(memory: feed.Feed, log: MemoryLog) -> None:
    with pytest.raises(errors.NotFound):
        await feed.until(memory, ONE, Judge())
