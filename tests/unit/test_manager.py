"""What a caller reads while things change."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import feed, manager, store
from sandbox_server.domain import errors, mutations
from sandbox_server.domain.event import Cause, Event, Kind
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import render

from tests.support import samples
from tests.support.waiting import PATIENCE


def ended(sandbox: Sandbox, sequence: int) -> Event:
    status = dataclasses.replace(sandbox.status, phase=Phase.TERMINATED)
    return samples.event(dataclasses.replace(sandbox, status=status), sequence)


async def complete(told: Sequence[pb.WatchStatusResponse]) -> None:
    """Waits until a watch has been told the whole snapshot."""
    async with asyncio.timeout(10 * PATIENCE):
        while not told or told[-1].WhichOneof("event") != "snapshot_complete":
            await asyncio.sleep(0)


@pytest.mark.fault(13)
async def test_sandbox_of_another_replica_is_sent_in_order_and_once() -> None:
    a, b = samples.sandbox("a"), samples.sandbox("b")

    class Ahead:
        """A database where another replica made `a`, and it ended, before this one looked at the log."""

        async def last(self, _keys: Any) -> tuple[int, list[Event]]:
            return 3, [ended(a, 3), samples.event(b, 1)]

    database: Any = Ahead()
    memory = feed.Feed(database, render.Encoder(), Pace(heartbeat=60))
    memory.load(1, [samples.event(b, 1)])
    told: list[pb.WatchStatusResponse] = []

    async def send(message: bytes) -> None:
        told.append(pb.WatchStatusResponse.FromString(message))

    selection = feed.Filter(Tenant(a.tenant, (a.namespace,)), frozenset((a.key, b.key)))
    sandboxes = manager.StatefulSetManager(database, memory, database, database, database)
    task = asyncio.create_task(sandboxes.watch(selection, None, send))
    await complete(told)
    memory.publish([samples.event(a, 2), ended(a, 3)])
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sorted((one.status.sandbox_id, one.sequence) for one in told[:2]) == [("a", 3), ("b", 1)]
    assert [(one.WhichOneof("event"), one.sequence) for one in told[2:]] == [("snapshot_complete", 3)]


@pytest.mark.parametrize("request_id", ["", "r1"])
async def test_event_of_a_mutation_has_its_tenant_and_request_id(request_id: str) -> None:
    sandbox = samples.sandbox()
    written: list[store.Write] = []

    class Kept:
        def last(self, _key: Any) -> Event:
            return samples.event(sandbox, 7)

        async def write(self, mutation: Any, _request: Any) -> None:
            written.append(mutation(self))

    kept: Any = Kept()
    request = store.Request(sandbox.tenant, request_id, b"") if request_id else None
    sandboxes = manager.StatefulSetManager(kept, kept, kept, kept, kept)
    await sandboxes.stop(manager.Mutation(Tenant(sandbox.tenant, (sandbox.namespace,)), sandbox.key, request, None))
    assert [(one.decided_on, one.cause) for one in written] == [(7, Cause(Kind.MUTATION, sandbox.tenant, request_id))]


@pytest.mark.fault(48)
@pytest.mark.parametrize("adopt", [False, True])
def test_kept_volume_is_not_adopted_by_another_tenant_of_its_namespace(adopt: bool) -> None:
    status = samples.status(phase=Phase.TERMINATED, reason=Reason.VOLUME_KEPT)
    former = samples.sandbox("a", tenant="former", volume_uid="disk", status=status)
    with pytest.raises(errors.AlreadyExists):
        mutations.kept_volume(former, samples.sandbox("a", tenant="new"), adopt)
    assert mutations.kept_volume(former, samples.sandbox("a", tenant="former"), True) == "disk"


@pytest.mark.find(31)
@pytest.mark.slow
async def test_what_a_tenant_reads_looks_at_no_sandbox_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    database: Any = None
    memory = feed.Feed(database, render.Encoder(), Pace(heartbeat=60))
    others = [samples.sandbox(f"s{number}", tenant="other", namespace="other") for number in range(1000)]
    mine = [
        samples.sandbox(f"s{number}", tenant="mine", namespace=namespace)
        for namespace in ("mine-b", "mine-a")
        for number in range(3)
    ]
    memory.load(0, [samples.event(one, 0) for one in (*others[:500], *mine, *others[500:])])
    sandboxes = manager.StatefulSetManager(database, memory, database, database, database)
    looked: list[Sandbox] = []
    matches = feed.Filter.matches

    def counted(selection: feed.Filter, sandbox: Sandbox) -> bool:
        looked.append(sandbox)
        return matches(selection, sandbox)

    async def send(message: bytes) -> None:
        told.append(pb.WatchStatusResponse.FromString(message))

    monkeypatch.setattr(feed.Filter, "matches", counted)
    tenant = Tenant("mine", ("mine-b", "mine-a"))
    for selection, count in ((feed.Filter(tenant), 6), (feed.Filter(tenant, namespace="mine-a"), 3)):
        looked.clear()
        told: list[pb.WatchStatusResponse] = []
        task = asyncio.create_task(sandboxes.watch(selection, None, send))
        await complete(told)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert told[-1].WhichOneof("event") == "snapshot_complete"
        assert len(told) - 1 == len(looked) == count
        looked.clear()
        listed = await sandboxes.list(selection, frozenset(), None, lambda _sequence, found: list(found))
        assert [one.sandbox.key for one in listed] == sorted(one.key for one in mine)[:count]
        assert len(looked) == count
