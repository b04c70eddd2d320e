"""Who makes the disk of a claim, as the cluster notes it with the claim, and who alone may.

A claim names what its disk is to be made from, and provisioners that know nothing of that make an empty disk, as does a volume
that was there before. So the driver of the snapshot is noted with the VolumeSnapshot and with the claim, and compared with the
provisioner, which the cluster notes before the disk is made.
"""

from sandbox_server.engines.kubernetes import manifests
from sandbox_server.engines.kubernetes.objects import Meta, Object

DRIVER = f"{manifests.OURS}/driver"
"""The annotation with the driver by which alone a disk can be made from a snapshot."""
# kubernetes/pkg/controller/volume/persistentvolume/util/util.go, and its name before 1.23
_PROVISIONERS = ("volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner")


def of_claim(meta: Meta) -> str:
    """Returns the provisioner that makes, or has made, the disk of a claim; empty if none does or none has begun."""
    return next((meta.annotations[one] for one in _PROVISIONERS if one in meta.annotations), "")


def misled(found: Object) -> str:
    """Returns why the disk of a claim has not the files that it was to be made from; empty if it has, or may get them yet."""
    meant, made_by = found.metadata.annotations.get(DRIVER, ""), of_claim(found.metadata)
    not_begun = not made_by and found.status.phase != "Bound"
    if meant in ("", made_by) or not_begun:
        return ""
    other = f"is made by {made_by}" if made_by else "was there before"
    return f"the disk of the claim {found.metadata.name} {other}, and only {meant} makes one from the snapshot"
