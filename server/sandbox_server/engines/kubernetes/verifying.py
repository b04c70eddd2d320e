"""The scratch in which a snapshot is verified: a claim that is made from it, and a pod that counts what is on that.

Neither is a sandbox's: they have no label and no name by which the service, or a Service, finds what belongs to one. The
garbage collector removes them with the VolumeSnapshot, if a write comes so late that nobody looks for them any more.
"""

import asyncio
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import structlog

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.snapshot import Scratch, Snapshot, SnapshotReason, VerificationState
from sandbox_server.domain.spec import Storage
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import (
    client,
    containers,
    counting,
    drivers,
    manifests,
    observe,
    pods,
    provisioners,
    resources,
    rights,
    volume_snapshots,
)
from sandbox_server.engines.kubernetes.objects import PAGE, Known, Object, State
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.engines.kubernetes.snapshots import LABEL, reason_of
from sandbox_server.settings import Kubernetes

CONTAINER = "verify"
DISK, WORK = "/snapshot", "/tmp"  # noqa: S108 - in the pod, which has it alone
_MEMORY_MOST = "512Mi"
_RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": _MEMORY_MOST}}
"""Of the pod: what it sorts are the names of all files, and hashing one file takes no more than one processor."""
_WORK_MOST = "2Gi"
_KILLED = 137
_TOO_MANY = f"the pod that counts was killed, as one is whose files are more than its {_MEMORY_MOST} of memory can sort"
_KINDS = (Kind.CLAIM, Kind.POD)
_ENDED = ("Succeeded", "Failed")
_NO_RUN = (Reason.IMAGE_PULL, Reason.IMAGE_INVALID, Reason.CONTAINER_CONFIG)
"""Why the pod never runs as it is, where the cause does not pass by itself."""

log = structlog.get_logger()


class Verifying:
    """The scratches of snapshots: see `engines.Snapshots`."""

    def __init__(self, api: client.Client, settings: Kubernetes, pace: Pace, default_image: str) -> None:
        self._api = api
        self._settings = settings
        self._image = settings.verify_image or default_image
        self._most = pace.verify_most
        self._refused: dict[str, tuple[SnapshotReason, str]] = {}
        """Why scratches, by the uid of their snapshot, could not be begun: the cluster shows nothing of it."""
        self._left: set[str] = set()
        """The uids of the snapshots of which a part of the scratch was left to the cluster."""

    async def begin(self, snapshot: Snapshot, fence: Fence) -> None:
        """Makes the claim and the pod, unless they are there."""
        self._left.discard(snapshot.uid)
        try:
            where = resources.snapshot(snapshot.namespace, snapshot.uid)
            source = await volume_snapshots.find(self._api, where, snapshot.uid)
            if source is None:
                self._refused[snapshot.uid] = SnapshotReason.LOST, "somebody removed what the snapshot consists of"
                return
            driver = await drivers.of_snapshot(self._api, source)
            if not driver:
                self._refused[snapshot.uid] = SnapshotReason.UNSUPPORTED, drivers.unknown(source)
                return
            claimed = manifests.annotated(claim(snapshot, source.metadata.uid), provisioners.DRIVER, driver)
            for made in (claimed, self._pod(snapshot, source.metadata.uid)):
                await self._make(made, fence)
        except engines.Refused as refused:
            self._refused[snapshot.uid] = reason_of(refused.fault), _hint(refused.fault, snapshot.namespace)

    async def _make(self, made: resources.Resource, fence: Fence) -> None:
        path = client.path(made.reference.kind, made.reference.namespace)
        try:
            async with self._api.call("POST", path, body=made.manifest, fence=fence):
                pass
        except client.Conflict:
            # It is there, or is being removed and has to go first.
            found = await self._api.find(made.reference)
            if found is not None and not _is_of(found, made.manifest["metadata"]["annotations"][manifests.UID]):
                message = f"the {made.reference} belongs to somebody else; it is left alone. Remove it"
                raise engines.Refused(Fault(Reason.NAME_CONFLICT, message)) from None

    async def scratch(self, snapshot: Snapshot) -> Scratch:
        """Returns what the claim and the pod show. Without the right to look at pods it fails, begun or not."""
        if snapshot.uid in self._left:
            return Scratch(is_there=False)
        try:
            claimed, pod = await self._found(snapshot)
        except engines.Refused as refused:
            if not rights.forbidden(refused):
                raise
            was_begun = snapshot.verification is not None and snapshot.verification.start_time is not None
            failed = _failed(SnapshotReason.FORBIDDEN, _hint(refused.fault, snapshot.namespace))
            return dataclasses.replace(failed, is_there=was_begun)
        if (refusal := self._refused.get(snapshot.uid)) is not None:
            # It is forgotten when the scratch is cleared.
            return _failed(*refusal)
        if claimed is None or pod is None:
            return Scratch(is_there=claimed is not None or pod is not None)
        if words := provisioners.misled(claimed):
            # What is counted there is not what is in the snapshot.
            return _failed(SnapshotReason.STORAGE_FAILED, words)
        if pod.status.phase in _ENDED:
            return _ended(pod)
        if pod.status.phase == "Running":
            return _running(SnapshotReason.COUNTING, "its files are being counted")
        return await self._pending(snapshot, claimed, pod)

    async def _pending(self, snapshot: Snapshot, claimed: Object, pod: Object) -> Scratch:
        """Returns what keeps the pod from counting."""
        if not observe.volume(claimed).bound and (said := await self._said(snapshot.namespace, claimed)):
            reason = observe.unrestored(said)
            if reason is Reason.SCHEDULING:
                return _running(SnapshotReason.RESTORING, said)
            if reason is Reason.RESTORE_FAILED:
                return _failed(SnapshotReason.LOST, said)
            no_space = re.search(r"code = (ResourceExhausted|OutOfRange) ", said)
            return _failed(SnapshotReason.NO_SPACE if no_space else SnapshotReason.STORAGE_FAILED, said)
        found = observe.cause(pod)
        if found.reason in _NO_RUN and not found.passing:
            return _failed(SnapshotReason.POD_FAILED, found.message)
        return _running(SnapshotReason.RESTORING, found.message or "its disk is being made from the snapshot")

    async def _said(self, namespace: str, claimed: Object) -> str:
        """Returns what the storage last said of a claim that it could not make; empty if it did not."""
        asked = f"involvedObject.uid={claimed.metadata.uid},reason=ProvisioningFailed"
        path = client.path(Kind.EVENT, namespace)
        async with self._api.call("GET", path, parameters={"fieldSelector": asked}) as response:
            events = PAGE.decode(await response.read()).objects
        return max(events, key=lambda one: int(one.metadata.resourceVersion or 0)).message if events else ""

    async def clear(self, snapshot: Snapshot, fence: Fence) -> None:
        """Deletes the claim, which the cluster keeps until the pod is gone, and the pod.

        What the service may not delete counts as gone: the pod ends in time, and both go with the VolumeSnapshot.
        """
        self._refused.pop(snapshot.uid, None)
        for kind in _KINDS:
            try:
                found = await self._find(kind, snapshot)
                if found is not None and not found.metadata.deletionTimestamp:
                    where = resources.scratch(kind, snapshot.namespace, snapshot.uid)
                    await self._api.delete(where, Known.of(found), fence)
            except engines.Refused as refused:
                if not rights.forbidden(refused):
                    raise
                self._left.add(snapshot.uid)
                log.warning("scratch_left", namespace=snapshot.namespace, snapshot=snapshot.id, message=str(refused))

    async def _found(self, snapshot: Snapshot) -> tuple[Object | None, Object | None]:
        """Returns the claim and the pod, as `_find` does."""
        claimed, pod = await asyncio.gather(*(self._find(kind, snapshot) for kind in _KINDS))
        return claimed, pod

    async def _find(self, kind: Kind, snapshot: Snapshot) -> Object | None:
        """Returns a part of the scratch; None if it is not there, or is somebody else's."""
        found = await self._api.find(resources.scratch(kind, snapshot.namespace, snapshot.uid), whole=True)
        return found if found is not None and _is_of(found, snapshot.uid) else None

    def _pod(self, snapshot: Snapshot, owner: str) -> resources.Resource:
        """Returns the pod. It has no environment, no address, and no right in the cluster."""
        container = {
            "name": CONTAINER,
            "image": self._image,
            "command": pods.literal(counting.command(f"{DISK}/{snapshot.home_folder}", WORK)),
            "terminationMessagePath": counting.ENDED,
            "resources": _RESOURCES,
            "volumeMounts": [
                {"name": CONTAINER, "mountPath": DISK, "readOnly": True},
                {"name": "work", "mountPath": WORK},
            ],
            "securityContext": {**pods.RESTRICTED, "readOnlyRootFilesystem": True},
        }
        claimed = resources.scratch(Kind.CLAIM, snapshot.namespace, snapshot.uid).name
        spec = {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": pods.security(),
            "restartPolicy": "Never",
            "activeDeadlineSeconds": max(1, math.ceil(self._most)),
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [
                {"name": CONTAINER, "persistentVolumeClaim": {"claimName": claimed}},
                {"name": "work", "emptyDir": {"sizeLimit": _WORK_MOST}},
            ],
            **pods.placed(self._settings),
        }
        return _owned(Kind.POD, snapshot, owner, spec)


def claim(snapshot: Snapshot, owner: str) -> resources.Resource:
    """Returns the claim, of a disk as a sandbox gets that is created from the snapshot."""
    storage = Storage(
        size=snapshot.size,
        storage_class=snapshot.storage_class,
        # That of former releases, which did not store it.
        access_mode=snapshot.access_mode or "ReadWriteOnce",
    )
    spec = manifests.disk(storage, resources.snapshot(snapshot.namespace, snapshot.uid))
    return _owned(Kind.CLAIM, snapshot, owner, spec)


def _owned(kind: Kind, snapshot: Snapshot, owner: str, spec: Mapping[str, Any]) -> resources.Resource:
    """Returns an object that goes with the VolumeSnapshot, whose uid is `owner`."""
    where = resources.scratch(kind, snapshot.namespace, snapshot.uid)
    source = resources.snapshot(snapshot.namespace, snapshot.uid)
    metadata = {
        "name": where.name,
        "namespace": where.namespace,
        "labels": {LABEL: snapshot.id},
        "annotations": {manifests.UID: snapshot.uid, pods.NAMED: CONTAINER},
    }
    made = {"apiVersion": kind.api_version, "kind": kind.title, "metadata": metadata, "spec": spec}
    return manifests.owned_by(resources.Resource(where, made), source, owner)


def _hint(fault: Fault, namespace: str) -> str:
    """Returns the words of a refusal, for a right that is missing with the next step."""
    if fault.reason is not Reason.CLUSTER_FORBIDDEN:
        return fault.message
    return f"the service may not verify snapshots in {namespace}: grant it deploy/verification.yaml ({fault.message})"


def _is_of(found: Object, uid: str) -> bool:
    return found.metadata.annotations.get(manifests.UID) == uid


def _ended(pod: Object) -> Scratch:
    """Returns what a pod has counted that has ended, or why it has not."""
    ended = containers.own(pod).state.get("terminated", State())
    contents = counting.counted(ended.message)
    if contents is not None:
        return Scratch(is_there=True, state=VerificationState.PASSED, contents=contents)
    if said := counting.failure(ended.message):
        return _failed(SnapshotReason.UNREADABLE, said)
    if pod.status.reason == "DeadlineExceeded":
        return _failed(SnapshotReason.VERIFICATION_DEADLINE, pod.status.message)
    if ended.reason == "OOMKilled" or ended.exitCode == _KILLED:
        return _failed(SnapshotReason.POD_FAILED, _TOO_MANY)
    words = (pod.status.reason, pod.status.message, ended.reason, ended.message)
    return _failed(SnapshotReason.POD_FAILED, f"the pod that counts has ended: {': '.join(filter(None, words))}")


def _running(reason: SnapshotReason, message: str) -> Scratch:
    return Scratch(is_there=True, state=VerificationState.RUNNING, reason=reason, message=message)


def _failed(reason: SnapshotReason, message: str) -> Scratch:
    return Scratch(is_there=True, state=VerificationState.FAILED, reason=reason, message=message)
