"""Removes the objects of a sandbox, each as it was last shown, so that nothing that took its name meanwhile is hit.

The StatefulSet is scaled down before it and the claim go. They are asked for again once its controller has seen that there
is nothing to make and the pod is gone: deleted under a controller that is at work, the StatefulSet would get a pod, and a
claim, when all is gone. It goes last, so that it shows as long as anything may be left.

A controller that does not act at all is not waited for: then the StatefulSet alone is removed, in the foreground, and the
garbage collector removes its pod before it. The controller makes nothing for a StatefulSet that is being removed, and
nothing for the next one, which has no replicas from the first. The claim is no part of it, unless somebody changed what
becomes of claims.
"""

from sandbox_server import engines
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import (
    client,
    clones,
    environments,
    manifests,
    move_steps,
    observe,
    replacement,
    resources,
    writer,
)
from sandbox_server.engines.kubernetes.objects import Known
from sandbox_server.engines.kubernetes.resources import Kind, Reference
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.engines.kubernetes.writer import Writer


async def remove(write: Writer) -> None:
    """Asks for the removal of what can go now."""
    names = resources.names(write.sandbox)
    at_rest = await write.scale_down()
    adopted = write.sandbox.adopted
    if adopted is not None and adopted.pod:
        await move_steps.remove_receiver(write.api, write.sandbox, write.fence)
        # The claim, which says whether that is done, goes later.
        await replacement.remove_former(write)
    placeholders = at_rest and await _remove_placeholders(write)
    if at_rest:
        await _remove_claim(write, names.claim)
    secrets = environments.listed(write.view, write.sandbox)
    further = adopted.ingresses if adopted is not None else ()
    others = [Reference(Kind.INGRESS, write.sandbox.namespace, one) for one in further]
    for reference in (*secrets, *others, names.service, names.app_ingress, names.ttyd_ingress):
        await _remove(write, reference)
    for secret in secrets:
        write.view.secrets.forget(secret.name)
    if at_rest:
        # The claim, which may still be made from it, was asked to go before.
        await clones.remove(write.api, write.sandbox, write.fence)
    if at_rest and not placeholders:
        await _remove(write, names.stateful_set)


async def remove_workload(api: client.Client, view: View, sandbox: Sandbox, fence: Fence) -> None:
    """Asks for the removal of the StatefulSet, and of its pod before it.

    Raises `engines.Busy` if a disk that is to stay would go with it.
    """
    names = resources.names(sandbox)
    known = view.known(sandbox, names.stateful_set)
    disk = await api.find(names.claim)
    ends = sandbox.desired is DesiredState.DELETED and sandbox.last_snapshot is None
    keeps_disk = not ends or sandbox.keep_volume
    if disk is not None and disk.metadata.ownerReferences and keeps_disk:
        owners = ", ".join(f"{owner.kind} {owner.name}" for owner in disk.metadata.ownerReferences)
        raise engines.Busy(f"the claim {disk.metadata.name} would go with its owner: {owners}")
    if known is not None:
        await api.delete(names.stateful_set, known, fence, foreground=True)


async def _remove(write: Writer, reference: Reference) -> None:
    """Asks for the removal of the object if it is the sandbox's and not being removed already."""
    if (found := await writer.removable(write.api, write.sandbox, reference)) is not None:
        await write.api.delete(reference, Known.of(found), write.fence)
        write.contest.removed(reference, found)


async def _remove_claim(write: Writer, claim: Reference) -> None:
    """Asks for the removal of the claim, unless it is a disk that the sandbox keeps."""
    found = await writer.removable(write.api, write.sandbox, claim)
    if found is None:
        return
    is_placeholder = observe.volume(found).uid == ""
    if is_placeholder or not write.sandbox.keep_volume:
        await write.api.delete(claim, Known.of(found), write.fence)
        write.contest.removed(claim, found)


async def _remove_placeholders(write: Writer) -> bool:
    """Asks for the removal of the claims of other pods. Returns whether there were any, which has to be asked again.

    Raises `engines.Busy` while something else than the cluster's own protection holds one.
    """
    sandbox = write.sandbox
    labelled = await write.api.labelled(Kind.CLAIM, sandbox.namespace, manifests.ID, sandbox.id)
    placeholders = [claim for claim in labelled if observe.placeholder(sandbox, claim)]
    for claim in placeholders:
        name = claim.metadata.name
        held = {*claim.metadata.finalizers} - {observe.PROTECTION}
        if claim.metadata.deletionTimestamp is None:
            reference = Reference(Kind.CLAIM, sandbox.namespace, name)
            await write.api.delete(reference, Known.of(claim), write.fence)
        elif held:
            raise engines.Busy(f"the claim {name} has to go first; its finalizers: {writer.listed(sorted(held))}")
    return bool(placeholders)
