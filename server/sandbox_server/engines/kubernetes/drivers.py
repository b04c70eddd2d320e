"""Which driver has taken a snapshot, and whether the disks of a storage class are made by it."""

import msgspec

from sandbox_server import engines
from sandbox_server.engines.kubernetes import client, inspection
from sandbox_server.engines.kubernetes.provisioners import DRIVER
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.engines.kubernetes.volume_snapshots import Found

_MIGRATED = {
    "kubernetes.io/aws-ebs": "ebs.csi.aws.com",
    "kubernetes.io/gce-pd": "pd.csi.storage.gke.io",
    "kubernetes.io/azure-disk": "disk.csi.azure.com",
    "kubernetes.io/azure-file": "file.csi.azure.com",
    "kubernetes.io/cinder": "cinder.csi.openstack.org",
    "kubernetes.io/vsphere-volume": "csi.vsphere.vmware.com",
    "kubernetes.io/portworx-volume": "pxd.portworx.com",
}
"""The drivers that make the disks of classes with a name of before CSI (kubernetes/csi-translation-lib/plugins)."""


class _ContentSpec(msgspec.Struct, frozen=True):
    driver: str = ""


class _Content(msgspec.Struct, frozen=True):
    spec: _ContentSpec = _ContentSpec()


_CONTENT = msgspec.json.Decoder(_Content)


async def of_snapshot(api: client.Client, found: Found) -> str:
    """Returns the driver that has taken a VolumeSnapshot; empty if that is not known.

    The disk of a claim without a provisioner was made by hand: then only the content of the snapshot tells, which takes a
    right of the whole cluster. Raises `engines.Unreachable`.
    """
    noted = found.metadata.annotations.get(DRIVER, "")
    if noted or not found.status.boundVolumeSnapshotContentName:
        return noted
    path = f"apis/{Kind.SNAPSHOT.api_version}/volumesnapshotcontents/{found.status.boundVolumeSnapshotContentName}"
    try:
        async with api.call("GET", path) as response:
            return _CONTENT.decode(await response.read()).spec.driver
    except engines.Refused:
        return ""


def unknown(found: Found) -> str:
    """Returns why no disk is made from a VolumeSnapshot whose driver is not known, with the next step."""
    return (
        f"the disk that the VolumeSnapshot {found.metadata.name} is of was made by hand, and it is not known by which driver: "
        "let the service get volumesnapshotcontents (deploy/doctor.yaml)"
    )


async def obstacle(api: client.Client, driver: str, storage_class: str) -> str:
    """Returns why a storage class makes no disk from a snapshot of `driver`; empty if it does, or if that is not known.

    An empty class is the default of the cluster. Raises `engines.Unreachable`.
    """
    try:
        classes = await inspection.classes(api, inspection.STORAGE_CLASSES)
    except engines.Refused:
        return ""
    for one in classes:
        if one.metadata.name == storage_class or (not storage_class and one.is_default):
            provisioner = _MIGRATED.get(one.provisioner, one.provisioner)
            if provisioner == driver:
                return ""
            return f"the disks of the storage class {one.metadata.name} are made by {provisioner}, and the snapshot is of {driver}"
    return ""
