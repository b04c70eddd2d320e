"""The feed: order, completeness and bounds, for readers of every speed."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import pytest
import uvloop
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import feed
from sandbox_server.domain import errors, selector
from sandbox_server.domain.event import Event
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import Tenant
from sandbox_server.feed.feed import RECENT
from sandbox_server.feed.topic import SHARED
from sandbox_server.rpc import render

from tests.support import idle_time, samples
from tests.support.feeds import ALL, MINE, MemoryLog, Reader, publish, until, watch
from tests.support.waiting import PATIENCE


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
async def memory(log: MemoryLog) -> AsyncIterator[feed.Feed]:
    made = feed.Feed(log, render.Encoder(), Pace(heartbeat=0.05, read_again=0.01))
    yield made
    made.close()


async def test_every_reader_of_a_topic_gets_every_change_in_order(memory: feed.Feed, log: MemoryLog) -> None:
    readers = [Reader() for _ in range(50)]
    tasks = [watch(memory, one, 0) for one in readers]
    await asyncio.sleep(0)
    publish(memory, log, 20)
    for one in readers:
        await until(one, 20)
        assert one.sequences() == list(range(1, 21))
    assert len({id(one.seen[0]) for one in readers}) == 1
    assert log.reads == 0
    for task in tasks:
        task.cancel()


@pytest.mark.fault(42)
@pytest.mark.parametrize("behind", [10, SHARED + 10, RECENT + 10])
@pytest.mark.slow
async def test_a_reader_that_stalls_costs_nothing_and_misses_nothing(
    memory: feed.Feed, log: MemoryLog, behind: int
) -> None:
    slow, fast = Reader(), Reader()
    tasks = [watch(memory, slow, 0), watch(memory, fast, 0)]
    await asyncio.sleep(0)
    slow.gate.clear()
    for start in range(0, behind, 100):
        publish(memory, log, min(100, behind - start))
        await asyncio.sleep(0.001)
    await until(fast, behind)
    slow.gate.set()
    await until(slow, behind)
    assert slow.sequences() == fast.sequences() == list(range(1, behind + 1))
    for task in tasks:
        task.cancel()


async def test_a_resume_goes_on_where_it_was(memory: feed.Feed, log: MemoryLog) -> None:
    publish(memory, log, 30)
    reader = Reader()
    task = watch(memory, reader, 12)
    await until(reader, 18)
    publish(memory, log, 2)
    await until(reader, 20)
    assert reader.sequences() == list(range(13, 33))
    task.cancel()


@pytest.mark.slow
async def test_trimmed_history_and_a_future_sequence_are_out_of_range(memory: feed.Feed, log: MemoryLog) -> None:
    publish(memory, log, RECENT + 50)
    log.trimmed = 20
    for after in (10, 10**6):
        with pytest.raises(errors.OutOfRange):
            await feed.Watch(memory, ALL, Reader().send).run(after)


async def test_only_those_whose_filter_matches_are_woken(memory: feed.Feed, log: MemoryLog) -> None:
    filters = {
        "key": feed.Filter(MINE, keys=frozenset({Key("default", "demo-1")})),
        "other": feed.Filter(MINE, keys=frozenset({Key("default", "demo-2")})),
        "project": feed.Filter(MINE, project="demo"),
        "stranger": feed.Filter(Tenant("another", ("default",))),
        "label": feed.Filter(MINE, labels=selector.parse("x", "tier=web")),
        "namespace": feed.Filter(MINE, namespace="elsewhere"),
        "taken away": feed.Filter(Tenant("default", ("elsewhere",))),
    }
    readers = {name: Reader() for name in filters}
    publish(memory, log, 1, "demo-1")
    publish(memory, log, 1, "demo-2")
    tasks = [watch(memory, readers[name], 2, one) for name, one in filters.items()]
    await asyncio.sleep(0)
    publish(memory, log, 3)
    await until(readers["key"], 3)
    await until(readers["project"], 3)
    assert {name for name, one in readers.items() if one.seen} == {"key", "project"}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not memory._topics._topics
    assert not memory._topics._topics_by_subject


async def test_what_another_replica_appended_is_followed(memory: feed.Feed, log: MemoryLog) -> None:
    reader = Reader()
    task = watch(memory, reader, 0)
    await asyncio.sleep(0)
    mine = [log.append(samples.sandbox(f"demo-{number}")) for number in range(5)]
    memory.publish(mine[3:])
    assert memory.sequence == 0
    waiting = asyncio.create_task(memory.arrived(5))
    await memory.follow()
    await waiting
    await until(reader, 5)
    assert reader.sequences() == [1, 2, 3, 4, 5]
    memory.publish(mine)
    assert memory.sequence == 5
    task.cancel()


@pytest.mark.fault(76)
@pytest.mark.find(33)
@pytest.mark.parametrize("missed", [{1}, {7}, {6, 7}, {2, 5, 8}, {10}], ids=str)
async def test_gap_in_what_is_published_is_read_from_the_log_at_once(
    memory: feed.Feed, log: MemoryLog, missed: set[int]
) -> None:
    reader = Reader()
    task = watch(memory, reader, 0)
    await asyncio.sleep(0)
    written = [log.append(samples.sandbox(f"demo-{number}")) for number in range(11)]
    memory.publish([one for one in written if one.sequence not in missed])
    await until(reader, 11)
    assert reader.sequences() == list(range(1, 12))
    assert memory.sequence == 11
    task.cancel()


@pytest.mark.fault(76)
@pytest.mark.find(33)
async def test_gap_that_appears_while_another_is_read_is_read_too(memory: feed.Feed, log: MemoryLog) -> None:
    written = [log.append(samples.sandbox(f"demo-{number}")) for number in range(3)]
    memory.publish(written[2:])
    for _ in range(100):
        written = [log.append(samples.sandbox("demo-1")) for _ in range(2)]
        memory.publish(written[1:])
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await memory.arrived(203)


@pytest.mark.fault(76)
@pytest.mark.find(33)
async def test_gap_is_read_again_until_the_database_answers(memory: feed.Feed, log: MemoryLog) -> None:
    answer, refusals = log.events, 3

    async def failing(after: int, limit: int) -> list[Event]:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise errors.Unavailable("DATABASE_UNAVAILABLE", "repeat the call")
        return await answer(after, limit)

    log.events = failing  # type: ignore[method-assign]
    written = [log.append(samples.sandbox(f"demo-{number}")) for number in range(2)]
    memory.publish(written[1:])
    async with asyncio.timeout(30):
        await memory.arrived(2)


@pytest.mark.fault(76)
@pytest.mark.find(33)
async def test_entry_that_the_log_does_not_have_keeps_nothing_back(memory: feed.Feed, log: MemoryLog) -> None:
    written = [log.append(samples.sandbox(f"demo-{number}")) for number in range(4)]
    del log.entries[1]
    memory.publish(written[2:])
    async with asyncio.timeout(30):
        await memory.arrived(4)


@pytest.mark.fault(76)
@pytest.mark.find(33)
async def test_feed_that_missed_what_was_trimmed_takes_the_live_sandboxes_anew(
    memory: feed.Feed, log: MemoryLog
) -> None:
    publish(memory, log, 2, "gone")
    publish(memory, log, 1, "kept")
    behind, other, heard = Reader(), Reader(), []
    memory.on_event(lambda event: heard.append(event.sequence))
    behind_task, other_task = watch(memory, behind, 3), watch(memory, other, 3, feed.Filter(MINE, project="none"))
    await asyncio.sleep(0)
    log.append(samples.sandbox("gone", status=samples.status(phase=Phase.TERMINATED)))
    log.append(samples.sandbox("kept"))
    log.trimmed = 5
    publish(memory, log, 1, "new")
    async with asyncio.timeout(30):
        await memory.arrived(6)
    assert [one.id for one in memory.catalogue.sandboxes()] == ["kept", "new"]
    assert heard == [5, 6]
    for task in (behind_task, other_task):
        with pytest.raises(errors.OutOfRange):
            await asyncio.wait_for(task, 10 * PATIENCE)
    reader = Reader()
    task = watch(memory, reader, 6)
    await asyncio.sleep(0)
    publish(memory, log, 1, "new")
    await until(reader, 1)
    task.cancel()


@pytest.mark.fault(13)
async def test_resume_finds_events_that_only_another_replica_has_read(memory: feed.Feed, log: MemoryLog) -> None:
    for number in range(5):
        log.append(samples.sandbox(f"demo-{number}"))
    reader = Reader()
    task = watch(memory, reader, 3)
    await until(reader, 2)
    assert reader.sequences() == [4, 5]
    task.cancel()


async def test_the_memory_holds_the_live_in_the_order_of_their_keys(memory: feed.Feed, log: MemoryLog) -> None:
    for name in ("c", "a", "b"):
        publish(memory, log, 1, name)
    assert [one.id for one in memory.catalogue.sandboxes()] == ["a", "b", "c"]
    gone = samples.sandbox("b", status=samples.status(phase=Phase.TERMINATED))
    memory.publish([log.append(gone)])
    assert [one.id for one in memory.catalogue.sandboxes()] == ["a", "c"]
    assert memory.catalogue.get(Key("default", "b")) is None


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize(
    ("after", "project", "expected"),
    [(3, "", [("heartbeat", 3)]), (0, "none", [("heartbeat", 3)]), (2, "", [("status", 3)])],
)
async def test_resumed_watch_without_an_event_begins_with_a_heartbeat(
    memory: feed.Feed, log: MemoryLog, remembered: bool, after: int, project: str, expected: list[tuple[str, int]]
) -> None:
    publish(memory, log, 3 - memory.sequence)
    if not remembered:
        memory.history.forget()
    messages: list[pb.WatchStatusResponse] = []

    async def send(message: bytes) -> None:
        messages.append(pb.WatchStatusResponse.FromString(message))

    task = asyncio.create_task(feed.Watch(memory, feed.Filter(MINE, project=project), send).run(after))
    async with asyncio.timeout(30):
        while not messages:
            await asyncio.sleep(0.001)
    # It comes once.
    await asyncio.sleep(0.05)
    assert [(one.WhichOneof("event"), one.sequence) for one in messages] == expected
    task.cancel()


async def test_heartbeats_come_only_while_nothing_happens(memory: feed.Feed, log: MemoryLog) -> None:
    reader = Reader()
    task, beats = watch(memory, reader, 0), asyncio.create_task(memory.beat())
    await until(reader, 2)
    publish(memory, log, 1)
    async with asyncio.timeout(30):
        while reader.sequences()[-1] != 1:
            await asyncio.sleep(0.001)
    task.cancel()
    beats.cancel()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_thousand_topics_have_their_heartbeats_as_often_as_one(
    run: Callable[[Coroutine[Any, Any, None]], None], log: MemoryLog
) -> None:
    async def main() -> None:
        memory = feed.Feed(log, render.Encoder(), Pace(heartbeat=0.4 * PATIENCE))
        topics = [feed.Filter(MINE, project=str(number)) for number in range(1000)]
        readers = [Reader() for _ in topics]
        tasks = [watch(memory, reader, 0, one) for reader, one in zip(readers, topics, strict=True)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(memory.beat()))
        began = time.monotonic()
        await asyncio.sleep(1 * PATIENCE)
        periods = (time.monotonic() - began) / (0.4 * PATIENCE)
        counts = [len(one.seen) for one in readers]
        assert min(counts) >= 1
        assert max(counts) <= periods + 1
        for task in tasks:
            task.cancel()

    run(main())


async def test_closing_ends_every_watch_with_unavailable(memory: feed.Feed) -> None:
    task = watch(memory, Reader(), 0)
    await asyncio.sleep(0)
    memory.close()
    with pytest.raises(errors.Unavailable):
        await task


async def test_who_waits_for_a_sequence_is_sent_away_when_the_service_stops(log: MemoryLog) -> None:
    memory = feed.Feed(log, render.Encoder(), Pace(heartbeat=60))
    waiting = asyncio.create_task(memory.arrived(10**9))
    await asyncio.sleep(0)
    memory.close()
    with pytest.raises(errors.Unavailable):
        await asyncio.wait_for(waiting, 30)


@pytest.mark.find(39)
@pytest.mark.slow
async def test_first_heartbeat_comes_within_the_period_whenever_the_watch_begins(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle_time.begin(monkeypatch)
    period = 0.2
    memory = feed.Feed(log, render.Encoder(), Pace(heartbeat=period))
    beats = asyncio.create_task(memory.beat())
    waited: list[float] = []

    async def silence(number: int) -> None:
        """Measures how long a watch of its own filter waits for each of its first heartbeats."""
        await asyncio.sleep(number * 0.01)
        reader = Reader()
        task = watch(memory, reader, 0, feed.Filter(MINE, project=str(number)))
        for count in (1, 2, 3):
            began = time.monotonic()
            await until(reader, count)
            waited.append(time.monotonic() - began)
        task.cancel()

    await asyncio.gather(*(silence(number) for number in range(30)))
    beats.cancel()
    # The readers of this test look every millisecond.
    assert max(waited) <= period + 0.002


@pytest.mark.find(39)
async def test_a_watch_that_joins_others_has_its_first_heartbeat_within_the_period(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle_time.begin(monkeypatch)
    period = 0.5
    memory = feed.Feed(log, render.Encoder(), Pace(heartbeat=period))
    tasks = [asyncio.create_task(memory.beat()), watch(memory, Reader(), 0)]
    await asyncio.sleep(0.6 * period)
    late, began = Reader(), time.monotonic()
    tasks.append(watch(memory, late, 0))
    await until(late, 1)
    assert time.monotonic() - began <= period + 0.002
    for task in tasks:
        task.cancel()


ENDED = samples.status(phase=Phase.TERMINATED)
PAIR = feed.Filter(MINE, keys=frozenset({Key("default", "a"), Key("default", "b")}))


@pytest.mark.parametrize("read", ["before", "after"])
async def test_snapshot_of_named_sandboxes_and_its_events_miss_and_repeat_nothing_while_the_store_is_read(
    log: MemoryLog, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = feed.Feed(log, render.Encoder(), Pace(heartbeat=60))
    memory.publish([log.append(samples.sandbox("a")), log.append(samples.sandbox("b"))])
    memory.publish([log.append(samples.sandbox("a", status=ENDED))])
    asked, goes_on, last = asyncio.Event(), asyncio.Event(), log.last

    async def slow(keys: Sequence[Key]) -> tuple[int, list[Event]]:
        found = await last(keys)
        asked.set()
        await goes_on.wait()
        return found if read == "before" else await last(keys)

    monkeypatch.setattr(log, "last", slow)
    reader = Reader()
    task = asyncio.create_task(feed.Watch(memory, PAIR, reader.send).run(None))
    await asked.wait()
    # All of it changes meanwhile: one is made again and ends again, the other ends.
    for name, status in (("a", samples.status()), ("a", ENDED), ("b", ENDED)):
        memory.publish([log.append(samples.sandbox(name, status=status))])
    log.append(samples.sandbox("b"))
    goes_on.set()
    await until(reader, 3 if read == "after" else 6)
    await memory.follow()
    await until(reader, 3 if read == "after" else 7)
    if read == "before":
        # The snapshot is as of 3: what came since follows.
        assert reader.sequences() == [3, 2, 3, 4, 5, 6, 7]
    else:
        # The store was ahead of the feed: nothing is sent twice when the feed has read it too.
        assert reader.sequences() == [5, 7, 7]
        publish(memory, log, 1, "a")
        await until(reader, 4)
        assert reader.sequences()[3:] == [8]
    task.cancel()
    memory.close()


async def test_watch_of_sandboxes_that_are_missing_names_all_of_them(memory: feed.Feed, log: MemoryLog) -> None:
    publish(memory, log, 1, "a")
    memory.publish([log.append(samples.sandbox("foreign", tenant="another"))])
    named = feed.Filter(MINE, keys=frozenset(Key("default", name) for name in ("a", "foreign", "none")))
    for after in (None, 0):
        with pytest.raises(errors.NotFound) as caught:
            await feed.Watch(memory, named, Reader().send).run(after)
        assert caught.value.facts["sandbox_ids"] == "foreign,none"
    assert not memory._topics._topics
