"""Clones of disks: a VolumeSnapshot of the disk of the source is taken, the disk of the clone is made from it, and it goes.

Its name has the uid of the clone, so that it is one and the same whoever makes it, and whatever was cut off before. It names
the claim of the source and cannot name its uid. So the uid is compared before it is made, and again once it is ready: no uid
comes a second time, so that it was the same claim all the while.

The Service of the clone owns it. That Service is written before it and is removed with the clone. So the garbage collector
also removes a VolumeSnapshot that is made only after the clone was deleted. This service could not: it may not list
VolumeSnapshots.
"""

import structlog

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.snapshot import State
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import (
    client,
    manifests,
    provisioners,
    resources,
    rights,
    snapshots,
    volume_snapshots,
    writer,
)
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.engines.kubernetes.resources import Reference, Resource
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.engines.kubernetes.volume_snapshots import Found
from sandbox_server.engines.kubernetes.writer import Writer

LABEL = f"{manifests.OURS}/clone"

log = structlog.get_logger()


async def taken(write: Writer, where: Reference, service: Object) -> Found:
    """Returns the VolumeSnapshot `where` that the disk of a clone is made from, once it is ready. `service` owns it.

    Raises `engines.Awaited` until then, and `engines.Refused` if it cannot be taken or is not of the disk that was meant.
    """
    sandbox = write.sandbox
    found = await volume_snapshots.find(write.api, where, sandbox.uid)
    # After that: a snapshot that is ready is of the disk that the claim has now.
    claim = await _claim(write)
    again_after = write.view.pace.snapshot_look_every
    if found is None:
        labels = {manifests.ID: sandbox.id, LABEL: sandbox.id}
        snapshot_class = write.settings.snapshot_class
        driver = provisioners.of_claim(claim.metadata)
        made = volume_snapshots.manifest(where, sandbox.uid, labels, claim.metadata.name, driver, snapshot_class)
        owned = manifests.owned_by(Resource(where, made), resources.names(sandbox).service, service.metadata.uid)
        try:
            await volume_snapshots.make(write.api, owned.manifest, write.fence)
        except client.Missing:
            raise _failed(volume_snapshots.MISSING) from None
        raise engines.Awaited(f"the {where} of it was asked for", again_after)
    if found.metadata.deletionTimestamp:
        finalizers = writer.listed(found.metadata.finalizers)
        raise engines.Awaited(
            f"the {where} is being removed and has to go first; its finalizers: {finalizers}", again_after
        )
    if not _stays(found, service):
        await volume_snapshots.remove(write.api, where, found, write.fence)
        raise engines.Awaited(f"the {where} goes with a former Service, and is made again", again_after)
    if found.status.readyToUse:
        return found
    if found.error and snapshots.judged(found.error).state is State.FAILED:
        raise _failed(f"the {where} cannot be taken: {found.error}")
    says = f", which says: {found.error}" if found.error else ""
    raise engines.Awaited(f"the {where} is taken by the storage{says}", again_after)


def _stays(found: Found, service: Object) -> bool:
    """Whether the garbage collector leaves a VolumeSnapshot alone while the Service is there.

    Its owner is another Service if somebody has removed that one. A former release gave it no owner.
    """
    owners = [owner.uid for owner in found.metadata.ownerReferences]
    return not owners or service.metadata.uid in owners


async def _claim(write: Writer) -> Object:
    """Returns the claim whose disk is cloned. Raises `engines.Refused` if it has another disk than was meant, or none."""
    origin = write.sandbox.origin
    if origin is None:
        raise ValueError("a sandbox without an origin is no clone")
    claim = resources.cloned(origin)
    found = await write.api.find(claim)
    if found is None or found.metadata.uid != origin.volume_uid:
        became = "is another by now" if found is not None else "is gone"
        raise _failed(f"the {claim} {became}, and was not copied before: delete the sandbox and create it anew")
    return found


def _failed(message: str) -> engines.Refused:
    return engines.Refused(Fault(Reason.RESTORE_FAILED, message))


def is_clone(sandbox: Sandbox) -> bool:
    """Whether the disk of a sandbox is made from that of another."""
    return sandbox.origin is not None and not sandbox.origin.snapshot_uid


async def remove_used(api: client.Client, view: View, sandbox: Sandbox, fence: Fence) -> None:
    """Asks for the removal of the VolumeSnapshot of a clone, once its disk is made or lost.

    It is looked for once, and again by the next replica that takes the namespace.
    """
    if sandbox.desired is DesiredState.DELETED or sandbox.uid in view.cloned or not is_clone(sandbox):
        return
    volume = view.volume(sandbox)
    is_being_made = volume is not None and volume.uid == sandbox.volume_uid and not (volume.bound or volume.lost)
    if sandbox.volume_uid and not is_being_made:
        await remove(api, sandbox, fence)
        view.cloned.add(sandbox.uid)


async def remove(api: client.Client, sandbox: Sandbox, fence: Fence) -> None:
    """Asks for the removal of the VolumeSnapshot of a sandbox, if it is a clone.

    One that the service may not look for or remove, or that belongs to somebody else, stays and keeps nothing up.
    """
    where = resources.source(sandbox)
    if where is None or not is_clone(sandbox):
        return
    try:
        await volume_snapshots.remove(api, where, await volume_snapshots.find(api, where, sandbox.uid), fence)
    except engines.Refused as refused:
        if not rights.forbidden(refused) and refused.fault.reason is not Reason.NAME_CONFLICT:
            raise
        log.warning(
            "clone_snapshot_left",
            namespace=sandbox.namespace,
            sandbox=sandbox.id,
            object=str(where),
            message=str(refused),
        )
