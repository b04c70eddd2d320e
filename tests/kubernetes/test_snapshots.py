"""Snapshots, restores and clones as callers have them, by the real sidecars of CSI: the service is a process of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2
from sandbox_client import AsyncClient, ServiceError

from tests.kubernetes.csi.sidecars import EXPANDABLE, SNAPSHOT, SNAPSHOTS, Sidecars
from tests.kubernetes.ground import KubernetesGround, grant_snapshots
from tests.support.service import Service
from tests.support.waiting import PATIENCE

A, B, C = "snap-a", "snap-b", "snap-c"
WITHIN = 30 * PATIENCE


@pytest.fixture
async def client(ground: KubernetesGround, make_service: Callable[..., Service]) -> AsyncIterator[AsyncClient]:
    """A caller of the service, which has the rights of both its Roles."""
    await asyncio.to_thread(grant_snapshots, ground.cluster, ground.namespace)
    flags = ["--engine", "kubernetes", "--kubeconfig", str(ground.settings.kubeconfig)]
    flags += ["--namespaces", ground.namespace, "--storage-class", EXPANDABLE, "--snapshot-class", SNAPSHOTS]
    service = await asyncio.to_thread(make_service(*flags, "--log-format", "json").start)
    async with AsyncClient(service.address, timeout=WITHIN) as made:
        yield made
        for sandbox in (A, B, C):
            with contextlib.suppress(ServiceError):
                await made.delete(sandbox)
                await made.wait_until(sandbox, "TERMINATED")


async def disk(ground: KubernetesGround, sandbox: str) -> Path:
    """The folder that is the disk of a sandbox."""

    def found() -> Path:
        claim = ground.cluster.request("GET", ground.path("persistentvolumeclaims", f"vn-homevn-agent-{sandbox}-0"))
        volume = ground.cluster.request("GET", f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        return Path(volume["spec"]["csi"]["volumeAttributes"]["path"])

    return await asyncio.to_thread(found)


async def reason(client: AsyncClient, snapshot: snapshot_pb2.Snapshot, wanted: str) -> snapshot_pb2.Snapshot:
    """The snapshot once that is why it is as it is."""
    number = snapshot_pb2.SnapshotReason.Value(f"SNAPSHOT_REASON_{wanted}")
    async with asyncio.timeout(WITHIN):
        while (found := await client.get_snapshot(snapshot)).reason != number:
            await asyncio.sleep(0.1)
    return found


async def running(client: AsyncClient, sandbox: pb.Sandbox) -> None:
    await client.wait_until(sandbox, "RUNNING", timeout=WITHIN)


async def test_a_disk_is_restored_and_cloned_and_its_snapshot_goes_when_it_is_deleted(
    csi: Sidecars, ground: KubernetesGround, client: AsyncClient
) -> None:
    await running(client, await client.create("demo", sandbox_id=A))
    (await disk(ground, A) / "file").write_text("before")
    taken = await reason(client, await client.create_snapshot(A), "READY")
    (await disk(ground, A) / "file").write_text("after")
    await running(client, await client.create("other", sandbox_id=B, snapshot_id=taken.snapshot_id))
    assert (await disk(ground, B) / "file").read_text() == "before"
    await running(client, await client.clone(A, clone_id=C))
    assert (await disk(ground, C) / "file").read_text() == "after"
    await client.delete_snapshot(taken)
    await reason(client, taken, "DELETED")
    assert ground.names("volumesnapshots", SNAPSHOT.removeprefix("/")) == []
    assert csi.driver.disks.snapshots == {}


async def test_what_the_storage_says_of_a_snapshot_is_told(
    csi: Sidecars, ground: KubernetesGround, client: AsyncClient
) -> None:
    await running(client, await client.create("demo", sandbox_id=A))
    csi.driver.tell("CreateSnapshot", "RESOURCE_EXHAUSTED", "no room for snapshots")
    made = await client.create_snapshot(A)
    told = await reason(client, made, "NO_SPACE")
    assert told.state == snapshot_pb2.SNAPSHOT_STATE_CREATING
    assert "no room for snapshots" in told.message
    csi.driver.heal()
    await reason(client, made, "READY")
    csi.driver.tell("CreateSnapshot", "FAILED_PRECONDITION", "this disk cannot be copied")
    failed = await reason(client, await client.create_snapshot(A), "STORAGE_FAILED")
    assert failed.state == snapshot_pb2.SNAPSHOT_STATE_FAILED
    assert "this disk cannot be copied" in failed.message
    path = ground.path("volumesnapshots", f"snapshot-{made.uid}", SNAPSHOT.removeprefix("/"))
    await asyncio.to_thread(ground.cluster.request, "DELETE", path)
    await reason(client, made, "LOST")
