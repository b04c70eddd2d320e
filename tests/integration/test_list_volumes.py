"""ListVolumes and DeleteVolume through a real gRPC client, on real SQLite and real PostgreSQL."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import VolumeStatus
from sandbox_server.rpc import listing

from tests.support import samples
from tests.support import served as serving
from tests.support.served import Served
from tests.support.waiting import PATIENCE


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving.served(database_url, tmp_path) as service:
        yield service


async def call(served: Served, request: Any) -> Any:
    return await getattr(served.stub, type(request).__name__.removesuffix("Request"))(request, timeout=20 * PATIENCE)


async def end(served: Served, sandbox_id: str, reason: Reason = Reason.VOLUME_KEPT, **changes: Any) -> None:
    keep = reason is Reason.VOLUME_KEPT
    usual = {"desired": DesiredState.DELETED, "keep_volume": keep, "volume_uid": "disk"}
    await served.write(sandbox_id, Phase.TERMINATED, reason, **{**usual, **changes})


async def kept(served: Served, sandbox_id: str, project: str = "demo", **fields: Any) -> pb.Sandbox:
    """A deleted sandbox whose disk was kept."""
    made = await served.create(sandbox_id, project, **fields)
    await end(served, sandbox_id, namespace=made.namespace)
    return made


async def listed(served: Served, page_size: int = 1, page_token: str = "", **fields: Any) -> list[str]:
    """The sandboxes of the disks of all pages."""
    found: list[str] = []
    token = page_token
    while True:
        page = await call(served, pb.ListVolumesRequest(page_size=page_size, page_token=token, **fields))
        assert len(page.volumes) <= page_size
        found += [f"{one.namespace}/{one.sandbox_id}" for one in page.volumes]
        token = page.next_page_token
        if not token:
            return found


async def refused(served: Served, request: Any) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(served, request)
    found = error_details_pb2.ErrorInfo()
    rpc_status.from_call(caught.value).details[0].Unpack(found)  # type: ignore[arg-type,union-attr]
    return caught.value.code(), found


async def test_a_kept_disk_says_whose_it_was_and_since_when(served: Served) -> None:
    spec = pb.SandboxSpec(
        project="web", labels={"tier": "web"}, storage=pb.Storage(size="2Gi", access_mode="ReadWriteMany")
    )
    request = pb.CreateSandboxRequest(sandbox_id="a", spec=spec)
    made = (await call(served, request)).sandbox
    since = samples.NOW + timedelta(days=1)

    volume = VolumeStatus("claim-a", "3Gi", bound=True)
    await end(served, "a", transition_time=since, message="words", volume=volume)
    answer = await call(served, pb.ListVolumesRequest())
    (found,) = answer.volumes
    assert found.keep_time.ToDatetime(UTC) == since
    found.ClearField("keep_time")
    assert found == pb.KeptVolume(
        sandbox_id="a",
        namespace="default",
        uid=made.uid,
        tenant="default",
        project="web",
        labels={"tier": "web"},
        name="claim-a",
        size="3Gi",
        access_mode="ReadWriteMany",
        message="words",
    )
    assert (answer.sequence, answer.next_page_token) == (2, "")
    await end(served, "a", transition_time=since)
    (found,) = (await call(served, pb.ListVolumesRequest())).volumes
    assert (found.name, found.size) == ("", "2Gi")


@pytest.mark.slow
async def test_lists_have_the_kept_disks_that_match(served: Served) -> None:
    served.tenant("red", "default", "second")
    await kept(served, "b")
    await kept(served, "a", "other")
    await kept(served, "a", namespace="second")
    await served.create("live")
    await served.create("gone")
    await end(served, "gone", Reason.DELETED)
    served.tenant("blue", "blue")
    await kept(served, "c", namespace="blue")
    everything = ["default/a", "default/b", "second/a"]
    assert await listed(served) == await listed(served, tenant="blue") == ["blue/c"]
    assert await listed(served, tenant="red") == await listed(served, namespace="second") == []
    served.tenant("red", "default", "second")
    assert await listed(served) == await listed(served, label_selector="!tier") == everything
    assert await listed(served, namespace="second") == ["second/a"]
    assert await listed(served, project="other") == ["default/a"]
    assert await listed(served, label_selector="tier=web") == await listed(served, namespace="none") == []
    served.operator("billing", "default", "second", "blue")
    assert await listed(served) == ["blue/c", *everything]
    assert await listed(served, tenant="blue") == await listed(served, namespace="blue") == ["blue/c"]
    whole = (await call(served, pb.ListVolumesRequest())).volumes
    assert [one.tenant for one in whole] == ["blue", "red", "red", "red"]


@pytest.mark.slow
async def test_pages_have_each_of_300_kept_disks_once_while_some_are_removed(served: Served) -> None:
    names = [f"d{number:03}" for number in range(150)]
    for tenant in ("red", "blue"):
        served.tenant(tenant, tenant)
        await asyncio.gather(*(kept(served, one, f"p{one[-1]}") for one in names))
        # Between them in every order: none of these has a kept disk.
        await asyncio.gather(*(served.create(f"{one}x") for one in names[::10]))
    served.operator("support", "red", "blue", writes=True)
    assert (await listed(served, page_size=1000)) == [f"{tenant}/{one}" for tenant in ("blue", "red") for one in names]
    assert await listed(served, page_size=7, project="p3", tenant="red") == [f"red/{one}" for one in names[3::10]]
    assert await listed(served, page_size=7, namespace="blue", label_selector="!tier") == [
        f"blue/{one}" for one in names
    ]
    first = await call(served, pb.ListVolumesRequest(page_size=40, tenant="blue"))
    # The last one of the page, from which the next page goes on, and one that is still to come.
    for one in (names[39], names[40]):
        await call(served, pb.DeleteVolumeRequest(namespace="blue", sandbox_id=one))
    rest = await listed(served, page_size=40, tenant="blue", page_token=first.next_page_token)
    assert [one.sandbox_id for one in first.volumes] == names[:40]
    assert rest == [f"blue/{one}" for one in names[41:]]


async def test_a_page_ends_before_clients_refuse_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_BYTES", 600)
    for name in "abcde":
        await kept(served, name)
    page = await call(served, pb.ListVolumesRequest())
    assert 0 < len(page.volumes) < 5
    assert page.ByteSize() <= 600
    assert page.next_page_token == f"default/{page.volumes[-1].sandbox_id}"


async def test_a_removed_disk_is_no_longer_listed_and_the_removal_takes_effect_once(served: Served) -> None:
    made = await kept(served, "a")
    request_id = str(uuid.uuid4())
    request = pb.DeleteVolumeRequest(sandbox_id="a", request_id=request_id, uid=made.uid)
    removed = (await call(served, request)).sandbox
    assert (removed.uid, removed.desired_state) == (made.uid, pb.DESIRED_STATE_DELETED)
    assert (removed.status.phase, removed.status.generation) == (pb.PHASE_TERMINATING, 2)
    assert await listed(served) == []
    (cause,) = (one.cause for one in (await call(served, pb.ListEventsRequest(page_size=1))).events)
    assert (cause.method, cause.actor, cause.request_id) == ("DeleteVolume", "default", request_id)
    # Repeats, before and after the disk is gone.
    again = pb.DeleteVolumeRequest(sandbox_id="a")
    for repeated in (request, again):
        assert (await call(served, repeated)).sandbox.status == removed.status
    await end(served, "a", Reason.DELETED)
    for repeated in (request, again, pb.DeleteRequest(sandbox_id="a")):
        answer = (await call(served, repeated)).sandbox.status
        assert (answer.phase, answer.generation, answer.sequence) == (pb.PHASE_TERMINATED, 2, 4)
    code, found = await refused(served, pb.DeleteVolumeRequest(sandbox_id="b", request_id=request_id))
    assert (code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_a_disk_that_is_to_be_kept_is_removed_with_its_sandbox(served: Served) -> None:
    await served.create("a")
    await call(served, pb.DeleteRequest(sandbox_id="a", keep_volume=True))
    removed = (await call(served, pb.DeleteVolumeRequest(sandbox_id="a"))).sandbox
    assert removed.status.generation == 3


@pytest.mark.parametrize("desired", ["RUNNING", "STOPPED"])
async def test_the_disk_of_a_sandbox_that_was_not_deleted_stays(served: Served, desired: str) -> None:
    made = await kept(served, "a")
    adopted = await served.create("a", adopt_volume=True)
    assert adopted.uid != made.uid
    if desired == "STOPPED":
        await call(served, pb.StopRequest(sandbox_id="a"))
    sequence = (await call(served, pb.ListEventsRequest(page_size=1))).sequence
    code, found = await refused(served, pb.DeleteVolumeRequest(sandbox_id="a", uid=made.uid))
    assert (code, found.reason) == (grpc.StatusCode.ABORTED, "UID_MISMATCH")
    assert found.metadata["uid"] == adopted.uid
    for uid in ("", adopted.uid):
        code, found = await refused(served, pb.DeleteVolumeRequest(sandbox_id="a", uid=uid))
        assert (code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SANDBOX_NOT_DELETED")
    assert (await call(served, pb.ListEventsRequest(page_size=1))).sequence == sequence


async def test_an_unknown_disk_is_answered_as_an_unknown_sandbox(served: Served) -> None:
    await kept(served, "a")
    served.tenant("other", "default")
    for sandbox_id in ("a", "none"):
        for request in (pb.DeleteVolumeRequest(sandbox_id=sandbox_id), pb.DeleteRequest(sandbox_id=sandbox_id)):
            code, found = await refused(served, request)
            assert (code, found.reason) == (grpc.StatusCode.NOT_FOUND, "SANDBOX_NOT_FOUND")


async def test_an_operator_that_may_write_removes_the_disk_of_a_tenant(served: Served) -> None:
    await kept(served, "a")
    served.operator("support", "default", writes=True)
    removed = (await call(served, pb.DeleteVolumeRequest(namespace="default", sandbox_id="a"))).sandbox
    assert (removed.status.tenant, removed.status.generation) == ("default", 2)
    assert await listed(served) == []
