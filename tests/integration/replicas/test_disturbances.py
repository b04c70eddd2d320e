"""What disturbs the leases: a clock that is set, a database that is slow, a feed that is behind, an end in the middle."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support import relay
from tests.support.replicas import EXPIRING, NAMESPACES, PACE, Replica, Replicas
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow


def execute(url: str, *statements: str) -> list[Any]:
    """Runs statements in one transaction, and returns the rows of the last one if it has rows."""
    engine = sa.create_engine(url)
    try:
        with engine.begin() as opened:
            results = [opened.execute(sa.text(one)) for one in statements]
            return list(results[-1].all()) if results[-1].returns_rows else []
    finally:
        engine.dispose()


def give_clock(url: str) -> None:
    """Gives the database a clock that `set_clock` sets."""
    name = sa.make_url(url).database
    execute(
        url,
        "CREATE SCHEMA clock",
        "CREATE TABLE clock.ahead (seconds float)",
        "INSERT INTO clock.ahead VALUES (0)",
        "CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
        "$$ SELECT pg_catalog.clock_timestamp() + seconds * interval '1 s' FROM clock.ahead $$",
        f'ALTER DATABASE "{name}" SET search_path = clock, pg_catalog, public',
    )


def set_clock(url: str, ahead: float) -> None:
    execute(url, f"UPDATE clock.ahead SET seconds = {ahead}")


def epochs(url: str) -> dict[str, int]:
    return {one.namespace: one.epoch for one in execute(url, "SELECT namespace, epoch FROM public.lease")}


async def watched(seconds: float, check: Any) -> None:
    """Has `check` hold at every moment."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        assert check()
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("ahead", [300, -300])
async def test_clock_of_the_database_that_is_set_moves_no_lease(replicas: Replicas, ahead: float) -> None:
    give_clock(replicas.url)
    three = [await replicas.start() for _ in range(3)]
    await replicas.until(replicas.shared)
    held, before = [one.held() for one in three], epochs(replicas.url)
    set_clock(replicas.url, ahead)
    await watched(1.25 * PACE.lease, lambda: [one.held() for one in three] == held)
    assert epochs(replicas.url) == before


async def test_clock_that_is_set_back_keeps_no_namespace_of_a_replica_that_died(replicas: Replicas) -> None:
    give_clock(replicas.url)
    with relay.postgresql(replicas.url) as (between, url):
        dead, other = await replicas.start(url, base_pace=EXPIRING), await replicas.start(base_pace=EXPIRING)
        await replicas.until(replicas.shared)
        between.hold_answers()
        set_clock(replicas.url, -300)
        await replicas.until(lambda: other.held() == set(NAMESPACES), within=10 * EXPIRING.lease)
        assert not dead.held()
        between.cut()
        await replicas.until(replicas.shared)


@contextmanager
def unread(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has the replica's reads of the log hang."""
    read, goes_on = replica.running.store.events, asyncio.Event()

    async def events(*arguments: Any) -> Any:
        await goes_on.wait()
        return await read(*arguments)

    monkeypatch.setattr(replica.running.store, "events", events)
    try:
        yield
    finally:
        goes_on.set()


async def test_replica_whose_feed_is_behind_keeps_what_it_holds_and_takes_the_rest_once_it_has_caught_up(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await replicas.start(), await replicas.start()
    await replicas.until(replicas.shared)
    held = first.held()
    with unread(first, monkeypatch):
        for namespace in NAMESPACES:
            await second.create(namespace, "box")
        await replicas.stop(second)
        await watched(1.25 * PACE.lease, lambda: first.held() == held)
    await replicas.until(lambda: first.held() == set(NAMESPACES))


async def test_statuses_of_a_replica_whose_feed_is_behind_are_stale(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await replicas.start(), await replicas.start()
    await replicas.until(lambda: replicas.shared() and not stale(first) and not stale(second))
    with unread(first, monkeypatch):
        await second.create("a", "box")
        await replicas.until(lambda: stale(first) and not stale(second))
    await replicas.until(lambda: not stale(first))


def stale(replica: Replica) -> bool:
    return any(map(replica.running.manager.stale, NAMESPACES))


async def test_leases_are_renewed_while_no_mutation_can_be_committed(replicas: Replicas) -> None:
    first, second = await replicas.start(), await replicas.start()
    await replicas.until(replicas.shared)
    held = [one.held() for one in (first, second)]
    engine = sa.create_engine(replicas.url)
    try:
        with engine.begin() as stalled:
            stalled.execute(sa.text("SELECT * FROM watch_log FOR UPDATE"))
            creates = [asyncio.create_task(one.create("a", f"box-{one.name[-3:]}")) for one in (first, second)]
            await watched(1.25 * PACE.lease, lambda: [one.held() for one in (first, second)] == held)
        await asyncio.gather(*creates)
    finally:
        engine.dispose()


async def test_replica_that_stops_in_the_middle_of_a_turn_leaves_no_lease(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await replicas.start(), await replicas.start()
    await replicas.until(replicas.shared)
    leasing, taken = first.running.store.leasing, asyncio.Event()

    async def unanswered(work: Any, *arguments: Any) -> Any:
        found = await leasing(work, *arguments)
        if work.__name__ == "turn" and len(found.share) == len(NAMESPACES):
            taken.set()
            await asyncio.Event().wait()
        return found

    monkeypatch.setattr(first.running.store, "leasing", unanswered)
    await replicas.stop(second)
    async with asyncio.timeout(20 * PATIENCE):
        await taken.wait()
    await replicas.stop(first)
    assert execute(replicas.url, "SELECT namespace, holder FROM lease WHERE holder <> ''") == []


async def test_of_two_local_services_that_start_at_once_one_refuses(replicas: Replicas) -> None:
    made = await asyncio.gather(
        *(replicas.start(engine="local", data_dir=replicas.folder / name) for name in ("one", "two")),
        return_exceptions=True,
    )
    assert sorted(isinstance(one, OSError) for one in made) == [False, True]
