"""Snapshots on Kubernetes: the contract, the VolumeSnapshot that is made, what its status means, and what a disk is made from."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Key, Origin, Sandbox
from sandbox_server.domain.snapshot import Snapshot, SnapshotReason, State
from sandbox_server.engines.kubernetes import observe, resources
from sandbox_server.engines.kubernetes.engine import KubernetesEngine

from tests.contract.snapshots import *  # noqa: F403 - the tests themselves
from tests.support import samples, scripted_disks
from tests.support.rig import A
from tests.support.scripted import CLAIM, CLAIMS, ScriptedGround, until
from tests.support.scripted_api import ScriptedApi, status

SNAPSHOTS = "apis/snapshot.storage.k8s.io/v1/namespaces/default/volumesnapshots"
DRIVER = 'Failed to take snapshot of the volume v: "rpc error: code = {} desc = no"'
PROVISIONING = 'failed to provision volume with StorageClass "x": rpc error: code = {} desc = no'


class World:
    """An engine that holds every namespace, and a sandbox with a claim."""

    def __init__(self, api: ScriptedApi, engine: KubernetesEngine) -> None:
        self.api = api
        api.takes_snapshots = False
        self.engine = engine
        self.epoch = 1
        self.sandbox: Sandbox = samples.sandbox(A)
        spec = {"resources": {"requests": {"storage": "5Gi"}}}
        made_by = {scripted_disks.PROVISIONER: scripted_disks.DRIVER}
        claim = api.put(CLAIMS, {"metadata": {"name": CLAIM, "annotations": made_by}, "spec": spec})
        self.snapshot: Snapshot = samples.snapshot(sandbox_id=A, volume_uid=claim["metadata"]["uid"])
        self.name = f"snapshot-{self.snapshot.uid}"

    @property
    def made(self) -> dict[str, Any]:
        return self.api.objects[SNAPSHOTS][self.name]

    def show(self, **told: Any) -> None:
        self.api.put(SNAPSHOTS, self.made | {"status": told})

    async def take(self) -> None:
        await self.engine.take(self.snapshot, self.sandbox)

    async def taken(self) -> tuple[State, SnapshotReason]:
        found = await self.engine.taken(self.snapshot)
        return found.state, found.reason


@pytest.fixture
async def world(api: ScriptedApi, tmp_path: Path) -> AsyncIterator[World]:
    settings = ScriptedGround(api, tmp_path).settings.model_copy(update={"snapshot_class": "fast"})
    engine = KubernetesEngine(settings.kubernetes, Pace(), settings.default_image)
    made = World(api, engine)
    await engine.open([], lambda _: None, lambda _: made.epoch)
    yield made
    await engine.close()


async def test_a_snapshot_is_made_once_and_goes_when_it_is_discarded(world: World) -> None:
    assert await world.taken() == (State.DELETED, SnapshotReason.DELETED)
    await world.take()
    await world.take()
    assert world.made["spec"] == {"source": {"persistentVolumeClaimName": CLAIM}, "volumeSnapshotClassName": "fast"}
    meta = world.made["metadata"]
    ours = "sandbox.fullstackagent.io"
    assert meta["annotations"] == {f"{ours}/uid": world.snapshot.uid, f"{ours}/driver": scripted_disks.DRIVER}
    assert meta["labels"] == {"sandbox.fullstackagent.io/id": A, "sandbox.fullstackagent.io/snapshot": "nap"}
    assert await world.taken() == (State.CREATING, SnapshotReason.COPYING)
    world.show(readyToUse=True, restoreSize="7Gi")
    assert await world.taken() == (State.READY, SnapshotReason.READY)
    assert (await world.engine.taken(world.snapshot)).size == "7Gi"
    world.api.put(SNAPSHOTS, world.made | {"metadata": meta | {"finalizers": ["snapshot.storage.kubernetes.io/held"]}})
    await world.engine.discard(world.snapshot)
    assert await world.taken() == (State.DELETING, SnapshotReason.DELETING)
    assert "snapshot.storage.kubernetes.io/held" in (await world.engine.taken(world.snapshot)).message
    await world.engine.discard(world.snapshot)
    world.api.delete(SNAPSHOTS, world.name)
    assert await world.taken() == (State.DELETED, SnapshotReason.DELETED)
    await world.engine.discard(world.snapshot)


async def test_nothing_is_written_where_the_namespace_is_not_held(world: World) -> None:
    world.epoch = 0
    with pytest.raises(engines.NotHeld):
        await world.take()
    world.epoch = 1
    await world.take()
    world.epoch = 0
    with pytest.raises(engines.NotHeld):
        await world.engine.discard(world.snapshot)
    assert "deletionTimestamp" not in world.made["metadata"]


@pytest.mark.parametrize(
    ("message", "state", "reason"),
    [
        (
            "Failed to set default snapshot class with error cannot find default snapshot class",
            State.FAILED,
            SnapshotReason.UNSUPPORTED,
        ),
        (
            'Failed to set default snapshot class with error failed to retrieve PVC c from the lister: "not found"',
            State.FAILED,
            SnapshotReason.DISK_GONE,
        ),
        (DRIVER.format("ResourceExhausted"), State.CREATING, SnapshotReason.NO_SPACE),
        (DRIVER.format("DeadlineExceeded"), State.CREATING, SnapshotReason.BUSY),
        (DRIVER.format("Internal"), State.CREATING, SnapshotReason.STORAGE_FAILED),
        (DRIVER.format("InvalidArgument"), State.FAILED, SnapshotReason.STORAGE_FAILED),
        (DRIVER.format("Unimplemented"), State.FAILED, SnapshotReason.UNSUPPORTED),
    ],
)
async def test_an_error_of_the_storage_has_a_cause_and_fails_where_trying_again_cannot_help(
    world: World, message: str, state: State, reason: SnapshotReason
) -> None:
    await world.take()
    world.show(readyToUse=False, error={"message": message})
    found = await world.engine.taken(world.snapshot)
    assert (found.state, found.reason, found.message) == (state, reason, message)


async def test_what_was_ready_is_lost_only_where_its_content_is(world: World) -> None:
    await world.take()
    ready = dataclasses.replace(world.snapshot, state=State.READY)
    world.show(readyToUse=False, error={"message": "Snapshot status update failed"})
    assert (await world.engine.taken(ready)).state is State.READY
    world.show(readyToUse=False, error={"message": "VolumeSnapshotContent is missing"})
    assert (await world.engine.taken(ready)).reason is SnapshotReason.LOST


async def test_a_claim_of_another_disk_is_left_alone(world: World) -> None:
    world.snapshot = dataclasses.replace(world.snapshot, volume_uid="former")
    await world.take()
    assert SNAPSHOTS not in world.api.objects
    assert await world.taken() == (State.FAILED, SnapshotReason.DISK_GONE)
    await world.engine.discard(world.snapshot)
    assert await world.taken() == (State.DELETED, SnapshotReason.DELETED)


async def test_a_snapshot_of_somebody_else_is_left_alone(world: World) -> None:
    world.api.put(SNAPSHOTS, {"metadata": {"name": world.name}})
    for call in (world.engine.taken, world.engine.discard):
        with pytest.raises(engines.Refused, match="belongs to somebody else; it is left alone"):
            await call(world.snapshot)
    assert world.name in world.api.objects[SNAPSHOTS]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("exceeded quota: few, requested: count/volumesnapshots=1", SnapshotReason.QUOTA_EXCEEDED),
        ('User "u" cannot create resource "volumesnapshots"', SnapshotReason.FORBIDDEN),
    ],
)
async def test_a_refusal_of_the_api_server_has_a_cause(world: World, message: str, reason: SnapshotReason) -> None:
    async def refuse(_: Any) -> Any:
        return status(403, message)

    world.api.once(lambda request: request.method == "POST", refuse)
    await world.take()
    assert await world.taken() == (State.FAILED, reason)


async def test_what_a_cluster_lacks_for_snapshots_is_said(world: World) -> None:
    assert await world.engine.snapshots_missing("default") == ""
    world.api.cluster.denied.add(("volumesnapshots.snapshot.storage.k8s.io", "create"))
    words = "the service may not create volumesnapshots in default: grant it deploy/snapshots.yaml"
    assert await world.engine.snapshots_missing("default") == words
    world.api.snapshots = False
    assert "install the snapshot controller" in await world.engine.snapshots_missing("default")
    await world.take()
    assert await world.taken() == (State.FAILED, SnapshotReason.UNSUPPORTED)


async def applied(world: World, origin: Origin) -> Any:
    """What the claim of a sandbox that is made from `origin` is made from."""
    world.engine.follow(["default"])
    await until(lambda: world.engine.synced("default"))
    sandbox = samples.sandbox("copy", uid="copy-uid", origin=origin)
    while True:
        try:
            await world.engine.apply(sandbox, {}, 1)
            break
        except engines.Outdated:
            await asyncio.sleep(0.01)
    return world.api.objects[CLAIMS][resources.claim_name(sandbox)]["spec"]["dataSource"]


async def test_a_disk_is_made_from_a_snapshot_that_is_there(world: World) -> None:
    origin = Origin(world.snapshot.uid, Key("default", A), world.snapshot.volume_uid)
    with pytest.raises(engines.Refused, match=f"VolumeSnapshot {world.name} is gone") as refused:
        await applied(world, origin)
    assert refused.value.fault.reason is Reason.RESTORE_FAILED
    assert world.api.objects[CLAIMS].keys() == {CLAIM}
    await world.take()
    world.show(readyToUse=True, restoreSize="5Gi", of="volume")
    made_from = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": world.name}
    assert await applied(world, origin) == made_from
    world.api.delete(SNAPSHOTS, world.name)
    assert await applied(world, origin) == made_from


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            'error getting handle for DataSource Type VolumeSnapshot by Name s: volumesnapshots "s" not found',
            Reason.RESTORE_FAILED,
        ),
        (
            "error getting handle for DataSource Type VolumeSnapshot by Name s: snapshot s is not Ready",
            Reason.VOLUME_PENDING,
        ),
        ("rpc error: code = NotFound desc = there is no snapshot s", Reason.RESTORE_FAILED),
        ('storageclass.storage.k8s.io "x" not found', Reason.VOLUME_PENDING),
        (PROVISIONING.format("DeadlineExceeded"), Reason.SCHEDULING),
        (PROVISIONING.format("Aborted"), Reason.SCHEDULING),
        (PROVISIONING.format("ResourceExhausted"), Reason.VOLUME_PENDING),
    ],
)
def test_what_keeps_a_disk_from_being_made_from_its_origin_has_a_reason(message: str, reason: Reason) -> None:
    made_from = samples.sandbox(origin=Origin("u", Key("default", A), "volume"))
    assert observe.unbound(made_from, message) is reason
    assert observe.unbound(samples.sandbox(), message) is Reason.VOLUME_PENDING
