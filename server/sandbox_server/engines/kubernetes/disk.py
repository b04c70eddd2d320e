"""Makes the claim of a sandbox, once, and has it ask for another size."""

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Origin, Sandbox
from sandbox_server.engines.kubernetes import (
    client,
    clones,
    drivers,
    inspection,
    manifests,
    observe,
    provisioners,
    resources,
    volume_snapshots,
    writer,
)
from sandbox_server.engines.kubernetes.objects import Known, Object
from sandbox_server.engines.kubernetes.resources import Resource
from sandbox_server.engines.kubernetes.writer import Writer


async def make(write: Writer, claim: Resource, service: Object) -> None:
    """Makes the claim, unless it is there already. Nothing is applied over one: all but its size is fixed.

    `service`: the Service as it was last written, which goes with the sandbox. Raises `engines.Refused` if what the disk is to be
    made from is gone, `engines.Awaited` while that is yet to be taken, and `engines.Unreachable` while the name is taken by a
    claim that has to go first: a placeholder, a claim that is being removed, or a claim that lost its volume. The cluster keeps a
    claim as long as a pod uses it, so that the workload is scaled down as well.
    """
    sandbox, view = write.sandbox, write.view
    if view.claims.get(claim.reference.name) is None:
        claim = await _sourced(write, claim, service)
    position = view.claims.position(claim.reference.name)
    try:
        await writer.apply(write.api, view.claims, claim, None, write.fence)
        return
    except client.Conflict:
        found = await write.api.find(claim.reference, whole=True)
        if found is None:
            raise
    writer.check_owned(sandbox, claim.reference, found)
    volume = observe.volume(found)
    is_placeholder = volume.uid == ""
    if not (volume.terminating or volume.lost or is_placeholder):
        view.claims.answered(found, position)
        return
    try:
        await write.scale_down()
    finally:
        # The apply will not be done, and yet somebody may undo this part of it each time.
        write.done()
    await write.api.delete(claim.reference, Known.of(found), write.fence)
    message = f"the claim {volume.name} has to go before there can be a fresh one"
    if view.pods.get(resources.pod_name(sandbox)) is not None:
        # The cluster keeps the claim until the pod ends, which takes no more than its grace period.
        raise engines.Unreachable(message)
    raise engines.Busy(f"{message}; its finalizers: {writer.listed(found.metadata.finalizers)}")


async def resize(write: Writer) -> None:
    """Has the claim of the sandbox's disk ask for the size of the sandbox, where the disk does not have that.

    A refusal is no fault of the sandbox, which runs with the disk as it is: `observe` shows it. Raises `engines.Outdated` if
    the claim is not as it is known.
    """
    sandbox, view = write.sandbox, write.view
    reference, size = resources.names(sandbox).claim, sandbox.spec.storage.size
    volume, known = view.volume(sandbox), view.claims.known(reference.name)
    if volume is None or known is None or known.uid != sandbox.volume_uid or not volume.needs_request(size):
        return
    if write.contest.watched:
        write.contest.compare(reference, await write.api.find(reference))
    position = view.claims.position(reference.name)
    try:
        written = await write.api.merge(reference, known, manifests.resized(size), write.fence)
    except (client.Conflict, client.Missing) as changed:
        raise engines.Outdated(str(changed)) from None
    except engines.Refused as refused:
        view.refusals.refused(sandbox, refused.fault)
        return
    view.refusals.allowed(sandbox)
    view.claims.answered(written, position)
    write.contest.written(reference, written)


async def growth_obstacle(api: client.Client, sandbox: Sandbox) -> str:
    """Returns why the disk of a sandbox cannot grow; empty if its storage class lets it, or if that is not known.

    The class is that of the claim: a sandbox may leave it to the cluster.
    """
    try:
        claim = await api.find(resources.names(sandbox).claim, whole=True)
        if claim is None or claim.metadata.uid != sandbox.volume_uid:
            return ""
        found = await inspection.classes(api, inspection.STORAGE_CLASSES)
    except (engines.Refused, engines.Unreachable):
        return ""
    name = claim.spec.storageClassName
    if not name:
        return "its volume was made by hand, without a storage class"
    if any(one.metadata.name == name and one.allowVolumeExpansion for one in found):
        return ""
    return f"its storage class {name} does not allow it"


async def restore_obstacle(api: client.Client, origin: Origin, storage_class: str) -> str:
    """Returns why a storage class makes no disk from an origin; empty if it does, or if that is not known."""
    try:
        if origin.snapshot_uid:
            where = resources.snapshot(origin.sandbox.namespace, origin.snapshot_uid)
            found = await volume_snapshots.find(api, where, origin.snapshot_uid)
            driver = await drivers.of_snapshot(api, found) if found is not None else ""
        else:
            claim = await api.find(resources.cloned(origin))
            driver = provisioners.of_claim(claim.metadata) if claim is not None else ""
        return await drivers.obstacle(api, driver, storage_class) if driver else ""
    except (engines.Refused, engines.Unreachable):
        return ""


async def _sourced(write: Writer, claim: Resource, service: Object) -> Resource:
    """Returns the claim as it is made from its origin: with the size that takes, and with the driver that alone can do it.

    Raises `engines.Refused` if no disk of its class is made from that, and what `_source` raises.
    """
    found = await _source(write, service)
    if found is None:
        return claim
    driver = await drivers.of_snapshot(write.api, found)
    if not driver:
        raise engines.Refused(Fault(Reason.RESTORE_FAILED, drivers.unknown(found)))
    if obstacle := await drivers.obstacle(write.api, driver, write.sandbox.spec.storage.storage_class):
        message = f"{obstacle}: delete the sandbox and create it with a storage class of that driver"
        raise engines.Refused(Fault(Reason.RESTORE_FAILED, message))
    return manifests.annotated(manifests.at_least(claim, found.status.restoreSize), provisioners.DRIVER, driver)


async def _source(write: Writer, service: Object) -> volume_snapshots.Found | None:
    """Returns the VolumeSnapshot that the disk is made from; None for an empty disk.

    Raises `engines.Refused` if that is gone, and what `clones.taken` raises.
    """
    source, origin = resources.source(write.sandbox), write.sandbox.origin
    if source is None or origin is None:
        return None
    if clones.is_clone(write.sandbox):
        return await clones.taken(write, source, service)
    found = await volume_snapshots.find(write.api, source, origin.snapshot_uid)
    if found is None:
        message = f"the {source} is gone: delete the sandbox and create it anew"
        raise engines.Refused(Fault(Reason.RESTORE_FAILED, message))
    return found
