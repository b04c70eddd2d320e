"""Snapshots of disks: VolumeSnapshots of CSI, which the snapshot controller and the driver of the disk take.

Each has a name that no other ever has, is made once, and is never changed: a write that comes late finds it made.
"""

import re

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.snapshot import Snapshot, SnapshotReason, State, Taken
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import (
    client,
    inspection,
    manifests,
    provisioners,
    resources,
    volume_snapshots,
    writer,
)
from sandbox_server.engines.kubernetes.resources import Kind

LABEL = f"{manifests.OURS}/snapshot"
_REFUSALS = {
    Reason.QUOTA_EXCEEDED: SnapshotReason.QUOTA_EXCEEDED,
    Reason.CLUSTER_FORBIDDEN: SnapshotReason.FORBIDDEN,
    Reason.ADMISSION_DENIED: SnapshotReason.FORBIDDEN,
}
"""What a refusal of the API server means; of others the message says it."""
_LOST = "VolumeSnapshotContent is missing|is not bound to the VolumeSnapshot correctly"
"""The words of external-snapshotter/pkg/common-controller/snapshot_controller.go, syncReadySnapshot."""
_CAUSES: tuple[tuple[str, State, SnapshotReason], ...] = (
    # external-snapshotter/pkg/common-controller: snapshot_controller_base.go, checkAndUpdateSnapshotClass
    (r"^Failed to get snapshot class", State.FAILED, SnapshotReason.UNSUPPORTED),
    # snapshot_controller.go, SetDefaultSnapshotClass
    (
        r"cannot find default snapshot class|default snapshot classes were found",
        State.FAILED,
        SnapshotReason.UNSUPPORTED,
    ),
    # pvDriverFromSnapshot and createSnapshotContent
    (r"non-CSI volumes|cannot find CSI PersistentVolumeSource", State.FAILED, SnapshotReason.UNSUPPORTED),
    # getClaimFromVolumeSnapshot
    (r"failed to retrieve PVC", State.FAILED, SnapshotReason.DISK_GONE),
    # What a driver answers, by the codes of gRPC; pkg/sidecar-controller, isCSIFinalError says which are final.
    (r"code = (Canceled|DeadlineExceeded|Unavailable|Aborted) ", State.CREATING, SnapshotReason.BUSY),
    (r"code = (ResourceExhausted|OutOfRange) ", State.CREATING, SnapshotReason.NO_SPACE),
    (r"code = NotFound ", State.FAILED, SnapshotReason.DISK_GONE),
    (r"code = Unimplemented ", State.FAILED, SnapshotReason.UNSUPPORTED),
    (r"code = (InvalidArgument|FailedPrecondition|PermissionDenied) ", State.FAILED, SnapshotReason.STORAGE_FAILED),
)
"""What an error in the status means. It is tried again for ever: it has failed where that cannot help."""


class Snapshots:
    """See `engines.Snapshots`."""

    def __init__(self, api: client.Client, snapshot_class: str) -> None:
        """`snapshot_class`: the VolumeSnapshotClass; empty for the default of the driver of each disk."""
        self._api = api
        self._class = snapshot_class
        self._refused: dict[str, Taken] = {}
        """Why snapshots, by uid, could not be begun: the cluster shows nothing of it."""

    async def missing(self, namespace: str) -> str:
        """Returns why none can be taken in a namespace; empty if they can."""
        try:
            async with self._api.call("GET", f"apis/{Kind.SNAPSHOT.api_version}"):
                pass
            missing = await inspection.missing_snapshots(self._api, namespace)
        except client.Missing:
            return volume_snapshots.MISSING
        except engines.Refused as refused:
            return str(refused)
        if not missing:
            return ""
        return f"the service may not {', '.join(missing)} in {namespace}: grant it deploy/snapshots.yaml"

    async def take(self, snapshot: Snapshot, sandbox: Sandbox, fence: Fence) -> None:
        """Makes the VolumeSnapshot, unless it is there or the claim of the sandbox is of another disk."""
        claim = resources.names(sandbox).claim
        found = await self._api.find(claim)
        if found is None or found.metadata.uid != snapshot.volume_uid:
            self._refused[snapshot.uid] = _failed(
                SnapshotReason.DISK_GONE, "the disk was removed or replaced before the snapshot was taken"
            )
            return
        where = resources.snapshot(snapshot.namespace, snapshot.uid)
        labels = {manifests.ID: snapshot.sandbox_id, LABEL: snapshot.id}
        made = volume_snapshots.manifest(
            where, snapshot.uid, labels, claim.name, provisioners.of_claim(found.metadata), self._class
        )
        try:
            await volume_snapshots.make(self._api, made, fence)
        except client.Missing:
            self._refused[snapshot.uid] = _failed(SnapshotReason.UNSUPPORTED, volume_snapshots.MISSING)
        except engines.Refused as refused:
            self._refused[snapshot.uid] = _failed(reason_of(refused.fault), refused.fault.message)

    async def taken(self, snapshot: Snapshot) -> Taken:
        """Returns what the VolumeSnapshot shows."""
        found = await self._find(snapshot)
        if found is None:
            nothing = Taken(state=State.DELETED, reason=SnapshotReason.DELETED)
            return self._refused.get(snapshot.uid, nothing)
        if found.metadata.deletionTimestamp:
            words = f"the {resources.snapshot(snapshot.namespace, snapshot.uid)} is being removed; its finalizers: "
            words += writer.listed(found.metadata.finalizers)
            return Taken(state=State.DELETING, reason=SnapshotReason.DELETING, message=words)
        error = found.error
        if re.search(_LOST, error):
            return _failed(SnapshotReason.LOST, error)
        # What was ready stays so, whatever fails beside it: a snapshot that is taken for lost is removed.
        if found.status.readyToUse or snapshot.state is State.READY:
            size = found.status.restoreSize
            return Taken(state=State.READY, reason=SnapshotReason.READY, message=error, size=size)
        if error:
            return judged(error)
        return Taken(state=State.CREATING, reason=SnapshotReason.COPYING, message="the storage is taking it")

    async def discard(self, snapshot: Snapshot, fence: Fence) -> None:
        """Asks for the removal of the VolumeSnapshot, whatever has become of it since it was looked at."""
        found = await self._find(snapshot)
        self._refused.pop(snapshot.uid, None)
        where = resources.snapshot(snapshot.namespace, snapshot.uid)
        await volume_snapshots.remove(self._api, where, found, fence)

    async def _find(self, snapshot: Snapshot) -> volume_snapshots.Found | None:
        where = resources.snapshot(snapshot.namespace, snapshot.uid)
        return await volume_snapshots.find(self._api, where, snapshot.uid)


def reason_of(fault: Fault) -> SnapshotReason:
    """Returns what a refusal of the API server means."""
    return _REFUSALS.get(fault.reason, SnapshotReason.STORAGE_FAILED)


def _failed(reason: SnapshotReason, message: str) -> Taken:
    return Taken(state=State.FAILED, reason=reason, message=message)


def judged(message: str) -> Taken:
    """Returns what an error in the status of a VolumeSnapshot means."""
    for pattern, state, reason in _CAUSES:
        if re.search(pattern, message):
            return Taken(state=state, reason=reason, message=message)
    return Taken(state=State.CREATING, reason=SnapshotReason.STORAGE_FAILED, message=message)
