"""Makes the claim of a sandbox, once."""

from sandbox_server import engines
from sandbox_server.engines.kubernetes import client, observe, resources, writer
from sandbox_server.engines.kubernetes.objects import Known
from sandbox_server.engines.kubernetes.resources import Resource
from sandbox_server.engines.kubernetes.writer import Writer


async def make(write: Writer, claim: Resource) -> None:
    """Makes the claim, unless it is there already. A claim can never change, so nothing is applied over one.

    Raises `engines.Unreachable` while the name is taken by a claim that has to go first: a placeholder, a claim that is
    being removed, or a claim that lost its volume. The cluster keeps a claim as long as a pod uses it, so that the workload
    is scaled down as well.
    """
    sandbox, view = write.sandbox, write.view
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
