"""The slots of schedules where several replicas could work them: each is worked once, by the holder of its namespace."""

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from sandbox_server import store
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.schedule import Target
from sandbox_server.domain.snapshot import Snapshot
from sandbox_server.schedules.steps import Steps

from tests.support import samples
from tests.support.replicas import PACE, Replica, Replicas
from tests.support.waiting import PATIENCE

A = Key("a", "box")
SCHEDULE = Key("a", "nightly")


class Clock:
    """One clock for all replicas."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


def holder(replicas: Replicas) -> Replica:
    (found,) = [one for one in replicas.live if one.running.leases.held("a")]
    return found


async def taken(replica: Replica) -> list[Snapshot]:
    found = await replica.running.store.read(lambda reader: reader.snapshots.of_sandbox(A))
    return [one.snapshot for one in found]


async def until_taken(replica: Replica, count: int) -> None:
    async with asyncio.timeout(30 * PATIENCE):
        while len(await taken(replica)) < count:
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_slot_is_worked_once_whoever_tries_and_the_next_holder_goes_on(replicas: Replicas) -> None:
    clock = Clock()
    pace = dataclasses.replace(PACE, schedule_look_every=0.02)
    replicas.now = clock
    for _ in range(2):
        await replicas.start(base_pace=pace)
    await replicas.until(replicas.shared)
    first = holder(replicas)
    (other,) = [one for one in replicas.live if one is not first]
    await first.create(*A)
    await first.settled(*A, Phase.RUNNING)
    schedule = samples.schedule(namespace="a", target=Target("box"), since=clock.now, create_time=clock.now)
    # The replica that does not hold the namespace takes the call.
    await other.running.store.write_schedule(lambda _: store.ScheduleWrite(schedule=schedule))
    async with asyncio.timeout(30 * PATIENCE):
        while not await first.running.store.read(lambda reader: reader.schedules.all_covered(["a"])):
            await asyncio.sleep(0.02)
    epoch = first.running.leases.held("a")
    # Both replicas look, and the steps of the slot are done again and again at once.
    clock.now += timedelta(days=1)
    tries = [one.running.runner.steps.take(SCHEDULE, A, "", epoch) for one in (first, other) for _ in range(5)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert {type(one) for one in done[:5]} == {bool}
    assert {type(one) for one in done[5:]} <= {bool, store.Stale}
    # The holder's own loop may have come first.
    assert done.count(True) <= 1
    await until_taken(other, 1)
    await asyncio.sleep(0.5)
    assert len(await taken(other)) == 1
    # A former holder records nothing, although the slot is due.
    await replicas.stop(first)
    await replicas.until(lambda: other.running.leases.held("a") > epoch)
    steps = other.running.runner.steps
    late = Steps(other.running.snapshots, other.running.store, steps._manager, 9, lambda: clock.now + timedelta(days=1))
    with pytest.raises(store.Stale):
        await late.take(SCHEDULE, A, "", epoch)
    assert len(await taken(other)) == 1
    clock.now += timedelta(days=1)
    await until_taken(other, 2)
    found = await other.running.store.read(lambda reader: reader.schedules.last(SCHEDULE))
    assert found is not None
    assert found.missed == 0
