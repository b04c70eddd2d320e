"""A rolling upgrade under load and its rollback, with everything that must hold in any pair of releases."""

import asyncio
from collections.abc import Awaitable, Callable

from sandbox.v1 import sandbox_pb2 as pb

from tests.support.waiting import PATIENCE
from tests.upgrade.load import Load
from tests.upgrade.releases import Release
from tests.upgrade.replicas import NAMESPACES, Replicas

COUNT = 3
WATCHES = 6


async def until(holds: Callable[[], bool]) -> None:
    async def answer() -> bool:
        return holds()

    await until_async(answer)


async def until_async(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20 * PATIENCE):
        while not await holds():
            await asyncio.sleep(0.1)


async def nothing(_: Load) -> None:
    """Has nothing more to look at."""


async def roll(
    replicas: Replicas,
    before: Release,
    after: Release,
    beside: Callable[[Load], Awaitable[None]] = nothing,
    replaced: Callable[[Load], Awaitable[None]] = nothing,
) -> None:
    """Replaces three replicas of `before` by `after`, one by one, and those by `before` again.

    `beside` is called when the first replica is of `after` and the others are of `before`; `replaced` when all are of `after`.
    """
    migrated = await replicas.migrate(before)
    assert migrated.returncode == 0, migrated.stderr
    await replicas.add(before, COUNT)
    await replicas.shared()
    load = Load([one.address for one in replicas.places])
    try:
        for namespace in NAMESPACES:
            await load.create(namespace, f"busy-{namespace}")
            await load.create(namespace, f"quiet-{namespace}")
        await load.settled()
        pods = {name: uid for name, uid in replicas.pods().items() if name.startswith("quiet")}
        load.start(WATCHES)

        migrated = await replicas.migrate(after)
        assert migrated.returncode == 0, migrated.stderr
        # A replica of `before` that starts again uses the newer schema, and its `migrate` leaves it alone.
        migrated = await replicas.migrate(before)
        assert migrated.returncode == 0, migrated.stderr
        first, *others = replicas.places
        await replicas.replace(first, before)
        await replicas.replace(first, after)
        await beside(load)
        for place in others:
            await replicas.replace(place, after)
        await replaced(load)
        for place in replicas.places:
            await replicas.replace(place, before)
        # Each is written once more by `before`.
        counts = {key: len(requests) for key, requests in load.requests.items() if key[1].startswith("busy")}
        await until(lambda: all(len(load.requests[key]) > count for key, count in counts.items()))
        await load.end()

        await check(replicas, load)
        assert {name: uid for name, uid in replicas.pods().items() if name.startswith("quiet")} == pods
        for place in replicas.places:
            await replicas.terminate(place)
        said = replicas.said()
        assert not [word for word in ("Traceback", "reconcile_failed") if word in said], said[-5000:]
        print(f"{load.calls} calls, {load.retried} tried again, {load.heard[0]} events in each of {WATCHES} watches")
    finally:
        await load.close()


async def check(replicas: Replicas, load: Load) -> None:
    """Each mutation that was acknowledged has taken effect once, and a repeat of it has none. No event is missing."""
    last = await load.sequence()
    found = {(one.namespace, one.sandbox_id): one for one in await load.sandboxes()}
    assert found.keys() == load.requests.keys()
    for key, requests in load.requests.items():
        sandbox = found[key]
        assert sandbox.status.generation == len(requests) == requests[-1][1]
        set_by = [request.set for request, _ in requests if isinstance(request, pb.UpdateEnvVarsRequest)]
        assert {*sandbox.env_names} == {"FIRST"}.union(*set_by)
        assert (sandbox.spec.labels["tier"], [*sandbox.spec.command], sandbox.status.stale) == ("web", ["serve"], False)
        for request, _ in requests:
            repeated = await load.call(type(request).__name__.removesuffix("Request"), request)
            assert repeated is not None
            assert repeated.sandbox.uid == sandbox.uid
    assert await load.sequence() == last
    assert await replicas.rows("SELECT count(*), min(sequence), max(sequence) FROM status_event") == [(last, 1, last)]
    assert set(load.heard) == {last}
    assert not load.violations, load.violations
