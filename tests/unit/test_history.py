"""Watches that are behind: what they read, in which order they are served, and how many may be."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterable

import pytest
from sandbox_server import feed
from sandbox_server.domain import errors, selector
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import Tenant
from sandbox_server.feed import history
from sandbox_server.feed.feed import RECENT
from sandbox_server.rpc import render

from tests.support import samples
from tests.support.feeds import ALL, MINE, MemoryLog, Reader, publish, until, watch
from tests.support.waiting import PATIENCE

SANDBOXES = 20
pytestmark = pytest.mark.find(29)


@contextlib.asynccontextmanager
async def restarted(log: MemoryLog, heartbeat: float = 60) -> AsyncIterator[feed.Feed]:
    """A feed that has nothing of the log in memory."""
    made = feed.Feed(log, render.Encoder(), Pace(heartbeat=heartbeat))
    made.load(*await log.load())
    yield made
    made.close()


def filled(count: int) -> MemoryLog:
    """A log about sandboxes of as many projects, in turns, and as many of another tenant."""
    log = MemoryLog()
    for number in range(count):
        name, spec = f"s{number % SANDBOXES}", samples.spec(project=f"p{number % SANDBOXES}", labels={"tier": "web"})
        log.append(samples.sandbox(name, spec=spec))
        log.append(samples.sandbox(name, tenant="other", namespace="other"))
    return log


FILTERS = {
    "all": ALL,
    "project": feed.Filter(MINE, project="p3"),
    "label": feed.Filter(MINE, labels=selector.parse("labels", "tier=web")),
    "no label": feed.Filter(MINE, labels=selector.parse("labels", "tier!=web")),
    "one": feed.Filter(MINE, frozenset({Key("default", "s3")})),
    "some": feed.Filter(MINE, frozenset({Key("default", "s3"), Key("default", "s11"), Key("default", "s12")})),
    "others": feed.Filter(Tenant("other", ("other",))),
    "namespace": feed.Filter(MINE, namespace="elsewhere"),
}


@pytest.mark.parametrize("name", FILTERS)
async def test_watch_resumes_from_every_place_with_nothing_missing_or_twice(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PAGE", 7)
    monkeypatch.setattr(history, "PAGES_A_TURN", 3)
    monkeypatch.setattr(history, "SENT_MOST", 5)
    log, selection, chance = filled(100), FILTERS[name], random.Random(1)
    places = [chance.randrange(200) for _ in range(30)]
    async with restarted(log) as memory:
        readers = [Reader() for _ in places]
        tasks = [watch(memory, reader, after, selection) for reader, after in zip(readers, places, strict=True)]
        for _ in range(20):
            publish(memory, log, 1, "s3")
            await asyncio.sleep(0)
        for reader, after in zip(readers, places, strict=True):
            expected = [one.sequence for one in log.entries if one.sequence > after and selection.matches(one.sandbox)]
            await until(reader, len(expected))
            assert reader.sequences() == expected
        for task in tasks:
            task.cancel()


async def finished(tasks: Iterable[asyncio.Task[None]], readers: Iterable[Reader], count: int) -> None:
    """Waits until each has so many messages, then ends all."""
    for reader in readers:
        await until(reader, count)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.fault(72)
@pytest.mark.slow
async def test_watches_of_a_tenant_share_what_they_read() -> None:
    log = filled(2000)
    async with restarted(log) as memory:
        readers = [Reader() for _ in range(SANDBOXES)]
        # From places of their own within the first page, with as many filters.
        tasks = [
            watch(memory, reader, number % 3, feed.Filter(MINE, labels=selector.parse("labels", f"tier!=t{number}")))
            for number, reader in enumerate(readers)
        ]
        await finished(tasks, readers, 1990)
    # The entries of the other tenant are not read; the first watch may have begun behind another.
    assert log.read <= 2000 + 2 * history.PAGE


@pytest.mark.slow
async def test_watch_of_a_project_reads_its_entries_alone() -> None:
    log = filled(2000)
    async with restarted(log) as memory:
        readers = [Reader() for _ in range(SANDBOXES)]
        tasks = [
            watch(memory, reader, 0, feed.Filter(MINE, project=f"p{number}")) for number, reader in enumerate(readers)
        ]
        await finished(tasks, readers, 100)
    assert log.read == 2000


@pytest.mark.slow
async def test_watch_of_some_sandboxes_reads_their_entries_alone() -> None:
    log = filled(2000)
    async with restarted(log) as memory:
        readers = [Reader() for _ in range(SANDBOXES)]
        tasks = [
            watch(memory, reader, 0, feed.Filter(MINE, frozenset({Key("default", f"s{number}")})))
            for number, reader in enumerate(readers)
        ]
        await finished(tasks, readers, 100)
    assert log.read == 2000


@pytest.mark.fault(72)
@pytest.mark.slow
async def test_watches_beyond_the_bound_are_sent_away_until_others_have_caught_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "READERS_MOST", 2)
    log = filled(500)
    async with restarted(log) as memory:
        readers = [Reader() for _ in range(3)]
        for reader in readers[:2]:
            reader.gate.clear()
        tasks = [watch(memory, reader, 0) for reader in readers[:2]]
        async with asyncio.timeout(10 * PATIENCE):
            while memory.history._readers < 2:
                await asyncio.sleep(0)
        with pytest.raises(errors.Unavailable) as caught:
            await feed.Watch(memory, ALL, readers[2].send).run(0)
        assert caught.value.reason == "TOO_FAR_BEHIND"
        # What memory has needs no reading.
        publish(memory, log, 3)
        late = Reader()
        tasks.append(watch(memory, late, 1001))
        await until(late, 2)
        for reader in readers[:2]:
            reader.gate.set()
            await until(reader, 503)
        tasks.append(watch(memory, readers[2], 0))
        await finished(tasks, readers, 503)


@pytest.mark.fault(72)
@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.slow
async def test_caller_that_does_not_read_holds_no_other_up(remembered: bool) -> None:
    log = filled(RECENT // 4)
    async with restarted(log if not remembered else filled(1)) as memory:
        if remembered:
            log = memory.store  # type: ignore[assignment]
            publish(memory, log, RECENT // 2)
        stuck, others = [Reader() for _ in range(20)], [Reader() for _ in range(5)]
        for reader in stuck:
            reader.gate.clear()
        tasks = [watch(memory, reader, 2) for reader in (*stuck, *others)]
        await finished(tasks, others, RECENT // 4 - 1)


@pytest.mark.fault(72)
@pytest.mark.slow
async def test_watches_that_are_behind_are_served_in_turns() -> None:
    log = filled(3000)
    async with restarted(log) as memory:
        readers = [Reader() for _ in range(10)]
        tasks = [watch(memory, reader, 0) for reader in readers]
        while len(readers[0].seen) < 2500:
            await asyncio.sleep(0)
        assert min(len(reader.seen) for reader in readers) > 1000
        await finished(tasks, readers, 3000)


@pytest.mark.slow
async def test_watch_that_finds_nothing_for_long_has_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PAGE", 1)
    monkeypatch.setattr(history, "PAGES_A_TURN", 1)
    log = filled(2000)
    async with restarted(log, heartbeat=0.01) as memory:
        beats, reader = asyncio.create_task(memory.beat()), Reader()
        task = watch(memory, reader, 0, FILTERS["no label"])
        await until(reader, 2)
        assert reader.sequences()[0] < memory.sequence
        assert reader.sequences() == sorted(reader.sequences())
        task.cancel()
        beats.cancel()


async def test_watch_of_one_sandbox_that_resumes_ends_with_its_end() -> None:
    log = filled(100)
    log.append(samples.sandbox("s3", status=samples.status(phase=Phase.TERMINATED)))
    log.append(samples.sandbox("s3"))
    async with restarted(log) as memory:
        reader = Reader()
        await asyncio.wait_for(feed.Watch(memory, FILTERS["one"], reader.send).run(100), 10 * PATIENCE)
        assert reader.sequences()[-1] == 201


@pytest.mark.slow
async def test_shutdown_ends_watches_that_wait_for_their_turn() -> None:
    log = filled(2000)
    async with restarted(log) as memory:
        readers = [Reader() for _ in range(50)]
        tasks = [watch(memory, reader, 0) for reader in readers]
        await asyncio.sleep(0.01)
        memory.close()
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10 * PATIENCE)
    assert {type(one) for one in ended} == {errors.Unavailable}
    assert max(len(reader.seen) for reader in readers) < 2000


@pytest.mark.slow
async def test_watches_that_are_ahead_of_this_replica_read_the_log_once() -> None:
    log = filled(1)
    async with restarted(log) as memory:
        for _ in range(3000):
            log.append(samples.sandbox("s1"))
        readers = [Reader() for _ in range(50)]
        tasks = [watch(memory, reader, 3001) for reader in readers]
        await finished(tasks, readers, 1)
    # Each page once, and for each watch a look at whether there is more.
    assert log.reads <= 3000 / feed.feed.PAGE + 2 + len(readers)
