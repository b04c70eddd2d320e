"""VolumeSnapshots of CSI, whatever each is for. It is made once, never changed, and removed once nothing needs it.

The snapshot controller takes it, and a claim that names it as its `dataSource` gets a disk with its files.
"""

import contextlib
from typing import Any

import msgspec

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import client, manifests, pods, provisioners
from sandbox_server.engines.kubernetes.objects import Meta
from sandbox_server.engines.kubernetes.resources import Kind, Reference

MISSING = f"the cluster does not serve {Kind.SNAPSHOT.api_version}: install the snapshot controller of CSI and its definitions"


class Error(msgspec.Struct, frozen=True):
    """What went wrong with the last try, which is repeated for ever."""

    message: str = ""


class Status(msgspec.Struct, frozen=True):
    """How far the snapshot controller is. `restoreSize`: what a disk must have that is made from it."""

    readyToUse: bool = False
    error: Error | None = None
    restoreSize: str = ""
    boundVolumeSnapshotContentName: str = ""


class Found(msgspec.Struct, frozen=True):
    """A VolumeSnapshot, as far as it is read."""

    metadata: Meta = Meta()
    status: Status = Status()

    @property
    def error(self) -> str:
        """What the snapshot controller or the driver says of the last try; empty if it says nothing."""
        return self.status.error.message if self.status.error else ""


_FOUND = msgspec.json.Decoder(Found)


async def find(api: client.Client, where: Reference, uid: str) -> Found | None:
    """Returns the VolumeSnapshot that was made for `uid`; None if there is none. Raises `engines.Refused` for one of somebody
    else."""
    try:
        async with api.call("GET", client.path(*where)) as response:
            found = _FOUND.decode(await response.read())
    except client.Missing:
        return None
    if found.metadata.annotations.get(manifests.UID) != uid:
        raise engines.Refused(
            Fault(Reason.NAME_CONFLICT, f"the {where} belongs to somebody else; it is left alone. Remove it")
        )
    return found


async def make(api: client.Client, made: dict[str, Any], fence: Fence) -> None:
    """Makes a VolumeSnapshot. One that is there already, or is being removed and has to go first, is no error.

    Raises `client.Missing` where the cluster does not serve VolumeSnapshots.
    """
    path = client.path(Kind.SNAPSHOT, made["metadata"]["namespace"])
    with contextlib.suppress(client.Conflict):
        async with api.call("POST", path, body=made, fence=fence):
            pass


async def remove(api: client.Client, where: Reference, found: Found | None, fence: Fence) -> None:
    """Asks for the removal of a VolumeSnapshot, whatever has become of it since it was looked at."""
    if found is None or found.metadata.deletionTimestamp:
        return
    body = {"preconditions": {"uid": found.metadata.uid}}
    with contextlib.suppress(client.Missing):
        async with api.call("DELETE", client.path(*where), body=body, fence=fence):
            pass


def manifest(
    where: Reference, uid: str, labels: dict[str, str], claim: str, driver: str, snapshot_class: str
) -> dict[str, Any]:
    """Returns the VolumeSnapshot of a claim, made for `uid`. A tenant's are found by its labels, as its other objects are.

    `driver`: that of the disk; empty if it is not known.
    """
    annotations = {manifests.UID: uid} | pods.given(**{provisioners.DRIVER: driver})
    metadata = {"name": where.name, "namespace": where.namespace, "labels": labels, "annotations": annotations}
    spec = {"source": {"persistentVolumeClaimName": claim}} | pods.given(volumeSnapshotClassName=snapshot_class)
    return {"apiVersion": where.kind.api_version, "kind": where.kind.title, "metadata": metadata, "spec": spec}
