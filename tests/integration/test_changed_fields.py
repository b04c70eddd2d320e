"""What an event of a watch says has changed, through a real gRPC client, on real SQLite and real PostgreSQL."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain.phase import Phase, Reason

from tests.robustness.checker import differing
from tests.support import served as serving
from tests.support.served import Served
from tests.support.waiting import PATIENCE


async def watched(service: Served, last: int, **selection: Any) -> list[pb.WatchStatusResponse]:
    """The messages of a watch up to the event of a sequence or, without `after_sequence`, of its snapshot."""
    end = "status" if "after_sequence" in selection else "snapshot_complete"
    found = []
    async for message in service.stub.WatchStatus(pb.WatchStatusRequest(**selection), timeout=20 * PATIENCE):
        found.append(message)
        if message.sequence >= last and message.WhichOneof("event") == end:
            break
    return found


def fields(message: pb.WatchStatusResponse | pb.Event) -> set[str] | None:
    return set(message.changed_fields.paths) if message.HasField("changed_fields") else None


async def change(service: Served) -> int:
    """Some events of two sandboxes, one of which ends and is created again. Returns the last sequence."""
    await service.create("a")
    await service.create("b", env={"A": "1"})
    await service.write("a", Phase.STARTING, Reason.NOT_READY)
    await service.write("b", Phase.RUNNING, generation=1)
    await service.write("a", Phase.RUNNING, applied_generation=1)
    # What callers do not see.
    await service.write("a", Phase.RUNNING, applied_generation=1, applied_revision=7)
    await service.stub.UpdateEnvVars(pb.UpdateEnvVarsRequest(sandbox_id="b", set={"A": "2"}), timeout=20 * PATIENCE)
    await service.stub.UpdateSandbox(
        pb.UpdateSandboxRequest(sandbox_id="b", spec={"labels": {"tier": "web"}}, update_mask={"paths": ["labels"]}),
        timeout=20 * PATIENCE,
    )
    stop = service.stub.Stop(pb.StopRequest(sandbox_id="a"), timeout=20 * PATIENCE)
    # Both in one transaction, if they meet.
    await asyncio.gather(stop, service.stub.Stop(pb.StopRequest(sandbox_id="b"), timeout=20 * PATIENCE))
    await service.write("a", Phase.TERMINATED, Reason.DELETED)
    return (await service.create("a")).status.sequence


async def test_each_event_names_the_fields_that_differ_from_the_one_before_it(
    database_url: str, tmp_path: Path
) -> None:
    async with serving.served(database_url, tmp_path) as service:
        last = await change(service)
        messages = await watched(service, last, after_sequence=0)
        history = await service.stub.ListEvents(
            pb.ListEventsRequest(order=pb.EVENT_ORDER_OLDEST_FIRST), timeout=20 * PATIENCE
        )
        assert [(one.sequence, fields(one)) for one in history.events] == [
            (one.sequence, fields(one)) for one in messages
        ]
        *snapshot, marker = await watched(service, last)
        assert [fields(one) for one in snapshot] == [None, None]
        assert (fields(marker), marker.snapshot_complete.count) == (None, 2)
    latest: dict[str, pb.SandboxStatus] = {}
    for one in messages:
        former = latest.get(one.status.uid)
        assert fields(one) == (None if former is None else differing(former, one.status))
        latest[one.status.uid] = one.status
    found = {one.sequence: fields(one) for one in messages}
    assert found[1] is found[2] is found[last] is None
    assert {"phase", "reason"} <= (found[3] or set())
    assert found[6] == set()
    assert {"labels", "generation"} <= (found[8] or set())


@pytest.mark.slow
async def test_a_resume_says_the_same_on_a_service_that_has_started_anew(database_url: str, tmp_path: Path) -> None:
    async with serving.served(database_url, tmp_path) as service:
        last = await change(service)
        before = await watched(service, last, after_sequence=0)
    async with serving.served(database_url, tmp_path) as service:
        assert await watched(service, last, after_sequence=0) == before
        # The event of the sandbox before the first of these is in none of the messages.
        assert await watched(service, last, after_sequence=4) == before[4:]
        of_one = [one for one in before if one.status.sandbox_id == "b"]
        assert await watched(service, of_one[-1].sequence, sandbox_ids=["b"], after_sequence=4) == of_one[2:]
        following = await service.write("b", Phase.STOPPED, Reason.POD_GONE, message=of_one[-1].status.message)
        (message,) = await watched(service, following.sequence, after_sequence=last)
        assert fields(message) == differing(of_one[-1].status, message.status)
