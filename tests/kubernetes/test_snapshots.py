"""Snapshots, restores and clones by the real sidecars of CSI: the contract, and what becomes of the files and of failures."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sandbox.v1 import snapshot_pb2
from sandbox_client import AsyncClient, VerificationFailed
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import HOME_FOLDER, Key
from sandbox_server.domain.snapshot import SnapshotReason, State

from tests.contract.snapshots import *  # noqa: F403 - the tests themselves
from tests.contract.snapshots import WITHIN, B, become
from tests.kubernetes.csi.ground import csi_rig
from tests.kubernetes.csi.sidecars import SNAPSHOT, Sidecars
from tests.kubernetes.ground import KubernetesGround, started
from tests.support.rig import A, Rig
from tests.support.waiting import eventually

C = "suite-c"
SNAPSHOT_OBJECTS = SNAPSHOT.removeprefix("/")


@pytest.fixture
async def rig(csi: Sidecars, ground: KubernetesGround, tmp_path: Path) -> AsyncIterator[Rig]:
    """The service, whose sandboxes have disks of CSI, which take a second: so what waits for one is seen to."""
    csi.driver.tell("CreateVolume", seconds=1.0)
    async with started(await csi_rig(ground, tmp_path)) as running:
        yield running


async def disk(ground: KubernetesGround, sandbox: str) -> Path:
    """The folder that is the disk of a sandbox."""

    def found() -> Path:
        claim = ground.cluster.request("GET", ground.path("persistentvolumeclaims", f"vn-homevn-agent-{sandbox}-0"))
        volume = ground.cluster.request("GET", f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        return Path(volume["spec"]["csi"]["volumeAttributes"]["path"])

    return await asyncio.to_thread(found)


async def told(rig: Rig, made: snapshot_pb2.Snapshot, reason: SnapshotReason) -> str:
    """The message of a snapshot once that is why it is as it is."""
    async with asyncio.timeout(WITHIN):
        while (last := await rig.snapshots.last(Key(made.namespace, made.snapshot_id))) is None or (
            last.snapshot.reason is not reason
        ):
            await asyncio.sleep(0.05)
    return last.snapshot.message


async def none_left(ground: KubernetesGround, csi: Sidecars) -> None:
    """Waits until neither the cluster nor the storage has a snapshot."""
    async with asyncio.timeout(WITHIN):
        while await asyncio.to_thread(ground.names, "volumesnapshots", SNAPSHOT_OBJECTS) or csi.driver.disks.snapshots:
            await asyncio.sleep(0.05)


async def test_files_are_as_they_were_when_the_snapshot_was_taken_and_a_clone_has_those_of_now(
    rig: Rig, caller: AsyncClient, csi: Sidecars, ground: KubernetesGround
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    (await disk(ground, A) / "file").write_text("before")
    made = await caller.create_snapshot(A)
    await become(rig, made, State.READY)
    (await disk(ground, A) / "file").write_text("after")
    await caller.create("other", sandbox_id=B, snapshot_id=made.snapshot_id)
    await caller.clone(A, clone_id=C)
    for name, text in ((B, "before"), (C, "after")):
        await rig.settled(name, Phase.RUNNING)
        assert (await disk(ground, name) / "file").read_text() == text
    await caller.delete_snapshot(made)
    await become(rig, made, State.DELETED)
    await none_left(ground, csi)


async def test_what_the_storage_says_of_a_snapshot_is_told(
    rig: Rig, caller: AsyncClient, csi: Sidecars, ground: KubernetesGround
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    csi.driver.tell("CreateSnapshot", "RESOURCE_EXHAUSTED", "no room for snapshots")
    made = await caller.create_snapshot(A)
    assert "no room for snapshots" in await told(rig, made, SnapshotReason.NO_SPACE)
    csi.driver.heal()
    await become(rig, made, State.READY)
    csi.driver.tell("CreateSnapshot", "FAILED_PRECONDITION", "this disk cannot be copied")
    refused = await caller.create_snapshot(A)
    assert "this disk cannot be copied" in await told(rig, refused, SnapshotReason.STORAGE_FAILED)
    await become(rig, refused, State.FAILED)
    path = ground.path("volumesnapshots", f"snapshot-{made.uid}", SNAPSHOT_OBJECTS)
    await asyncio.to_thread(ground.cluster.request, "DELETE", path)
    await told(rig, made, SnapshotReason.LOST)


async def waits(rig: Rig, words: str, reason: Reason = Reason.VOLUME_RESTORING) -> None:
    await rig.until(C, lambda one: one.status.reason is reason and words in one.status.message, WITHIN)


async def test_what_the_storage_says_of_a_clone_is_told_and_nothing_is_left_of_it(
    rig: Rig, caller: AsyncClient, csi: Sidecars, ground: KubernetesGround
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    (await disk(ground, A) / "file").write_text("kept")
    csi.driver.tell("CreateSnapshot", "UNAVAILABLE", "the array does not answer")
    await caller.clone(A, clone_id=C)
    await waits(rig, "the array does not answer")
    csi.driver.tell("CreateSnapshot", "FAILED_PRECONDITION", "this disk cannot be copied")
    await waits(rig, "this disk cannot be copied", Reason.RESTORE_FAILED)
    csi.driver.heal()
    await rig.settled(C, Phase.RUNNING, WITHIN)
    assert (await disk(ground, C) / "file").read_text() == "kept"
    assert [one async for one in caller.snapshots()] == []
    await none_left(ground, csi)


async def test_a_source_that_is_deleted_while_it_is_cloned_goes_when_that_ends(
    rig: Rig, caller: AsyncClient, csi: Sidecars, ground: KubernetesGround
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    csi.driver.tell("CreateSnapshot", "UNAVAILABLE", "the array does not answer")
    await caller.clone(A, clone_id=C)
    await waits(rig, "the array does not answer")
    await rig.delete(A)
    held = "snapshot.storage.kubernetes.io/pvc-as-source-protection"
    await rig.until(A, lambda one: held in one.status.message, WITHIN)
    await rig.delete(C)
    await rig.settled(C, Phase.TERMINATED, WITHIN)
    csi.driver.heal()
    await rig.settled(A, Phase.TERMINATED, WITHIN)
    await none_left(ground, csi)


async def test_the_snapshot_of_a_clone_goes_with_its_service_also_if_it_is_made_later(
    rig: Rig, caller: AsyncClient, csi: Sidecars, ground: KubernetesGround
) -> None:
    def taken(former: str) -> dict[str, Any]:
        """The VolumeSnapshot that is there, once it is not the one with that uid."""

        def others() -> list[dict[str, Any]]:
            listed = ground.cluster.request("GET", ground.path("volumesnapshots", group=SNAPSHOT_OBJECTS))["items"]
            return [one for one in listed if one["metadata"]["uid"] != former]

        eventually(lambda: bool(others()), within=30)
        return others()[0]

    def owner() -> dict[str, str]:
        uid = ground.cluster.request("GET", ground.path("services", f"{C}-service"))["metadata"]["uid"]
        return {"apiVersion": "v1", "kind": "Service", "name": f"{C}-service", "uid": uid}

    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    csi.driver.tell("CreateSnapshot", "UNAVAILABLE", "the array does not answer")
    await caller.clone(A, clone_id=C)
    await waits(rig, "the array does not answer")
    first = (await asyncio.to_thread(taken, ""))["metadata"]
    assert first["ownerReferences"] == [await asyncio.to_thread(owner)]
    # Somebody removes the Service, which the service makes again. The storage takes the first snapshot while its VolumeSnapshot is
    # being removed.
    csi.driver.tell("CreateSnapshot", seconds=1.0)
    await asyncio.to_thread(ground.cluster.request, "DELETE", ground.path("services", f"{C}-service"))
    await waits(rig, "is being removed and has to go first")
    second = (await asyncio.to_thread(taken, first["uid"]))["metadata"]
    assert second["ownerReferences"] == [await asyncio.to_thread(owner)]
    assert second["ownerReferences"] != first["ownerReferences"]
    await rig.settled(C, Phase.RUNNING, WITHIN)
    await rig.delete(C)
    await rig.settled(C, Phase.TERMINATED, WITHIN)
    await none_left(ground, csi)
    # The write of it arrives only now. Its class is one that nobody has, so that no storage takes it at the same moment: it would
    # be the snapshot controller's to remove that copy, some minutes later.
    made = {"name": second["name"], "ownerReferences": second["ownerReferences"]}
    spec = {"source": {"persistentVolumeClaimName": f"vn-homevn-agent-{A}-0"}, "volumeSnapshotClassName": "nobodys"}
    body = {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": made, "spec": spec}
    path = ground.path("volumesnapshots", group=SNAPSHOT_OBJECTS)
    late = await asyncio.to_thread(ground.cluster.request, "POST", path, body)
    assert late["metadata"]["ownerReferences"] == second["ownerReferences"]
    await none_left(ground, csi)


async def ended(caller: AsyncClient, made: snapshot_pb2.Snapshot) -> snapshot_pb2.Verification:
    """What comes of a verification, whether or not it has passed."""
    try:
        await caller.verify_snapshot(made)
        return (await caller.wait_for_verification(made, timeout=WITHIN)).verification
    except VerificationFailed as failed:
        return failed.snapshot.verification


async def test_a_snapshot_is_restored_counted_and_compared_and_nothing_is_left_of_that(
    rig: Rig, caller: AsyncClient, csi: Sidecars, ground: KubernetesGround
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    home = await disk(ground, A) / HOME_FOLDER
    home.mkdir(exist_ok=True)
    (home / "file").write_text("before")
    (home / "line\nbreak").symlink_to("file")
    made = await caller.create_snapshot(A)
    await become(rig, made, State.READY)
    found = await ended(caller, made)
    assert (found.reason, found.message) == (SnapshotReason.VERIFIED.value, found.message), found.message
    assert (found.files, found.folders, found.links, found.bytes) == (1, 0, 1, 6)
    (copy,) = csi.driver.disks.snapshots
    (csi.driver.disks.path(copy) / HOME_FOLDER / "file").write_text("Before")
    again = await ended(caller, made)
    assert (again.reason, again.expected_sha256) == (SnapshotReason.MISMATCH.value, found.sha256)
    csi.driver.tell("CreateVolume", "RESOURCE_EXHAUSTED", "no room for disks")
    refused = await ended(caller, made)
    assert refused.reason == SnapshotReason.NO_SPACE.value
    assert "no room for disks" in refused.message
    csi.driver.heal()
    # external-provisioner takes its finalizer from the VolumeSnapshot only when it has made a disk from it.
    assert (await ended(caller, made)).reason == SnapshotReason.MISMATCH.value
    for kind in ("pods", "persistentvolumeclaims"):
        assert [one for one in await asyncio.to_thread(ground.names, kind) if one.startswith("verify-")] == []
    assert (await rig.settled(A, Phase.RUNNING)).uid == made.sandbox_uid
    await caller.delete_snapshot(made)
    await become(rig, made, State.DELETED)
    await none_left(ground, csi)
