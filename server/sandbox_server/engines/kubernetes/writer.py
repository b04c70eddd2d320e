"""Writes the objects of a sandbox: each to the very object that is known as the sandbox's, or as a new one."""

from collections.abc import Iterable
from dataclasses import dataclass

from sandbox_server import engines
from sandbox_server.domain import ownership
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import client, contest, manifests, observe, resources
from sandbox_server.engines.kubernetes.cache import Cache
from sandbox_server.engines.kubernetes.objects import Known, Object
from sandbox_server.engines.kubernetes.resources import Kind, Reference, Resource
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.settings import Kubernetes


@dataclass(frozen=True, slots=True)
class Writer:
    """The writes of one act for one sandbox. `contest` notes what others do to them."""

    api: client.Client
    view: View
    settings: Kubernetes
    sandbox: Sandbox
    contests: contest.Contests
    contest: contest.Contest
    fence: Fence
    known: dict[Reference, Known]
    """The objects to which the act writes, as they were known when it began."""

    async def write(self, resource: Resource) -> Object:
        """Applies to the object as it is known, or makes one if none is; never to a foreign object.

        An object that turns out to be another is read, and written if it still is the sandbox's and of no later
        generation: what is written follows from the sandbox alone. A StatefulSet has to be observed and decided on again.

        Raises what `check_owned` raises, and `engines.Outdated`.
        """
        reference = resource.reference
        if self.contest.watched:
            self.contest.compare(reference, await self.api.find(reference))
        try:
            written = await self._apply(resource, self.known.get(reference))
        except client.Conflict as conflict:
            found = await self.api.find(reference)
            check_owned(self.sandbox, reference, found)
            if self._decided_on_another(reference, found):
                raise engines.Outdated(str(conflict)) from None
            written = await self._apply(resource, Known.of(found) if found else None)
        self.contest.written(reference, written)
        return written

    async def _apply(self, resource: Resource, known: Known | None) -> Object:
        return await apply(self.api, self.view.written[resource.reference.kind], resource, known, self.fence)

    def _decided_on_another(self, reference: Reference, found: Object | None) -> bool:
        """Whether an object that is not as it was known has to be observed before it is written."""
        if found is None:
            return reference.kind is Kind.STATEFUL_SET
        # Without its label it is never observed.
        observed = reference.kind is Kind.STATEFUL_SET and manifests.ID in found.metadata.labels
        return observed or observe.workload(found).generation > self.sandbox.generation

    async def scale_down(self) -> bool:
        """Asks for no pod where that was not done. Returns whether nothing is made any more and the pod is gone."""
        workload = self.view.stateful_sets.get(self.sandbox.id)
        pod = self.view.pods.get(resources.pod_name(self.sandbox))
        if workload is None or not ownership.owned(self.sandbox, workload):
            return True
        if workload.terminating:
            return pod is None
        if workload.replicas:
            stateful_set = manifests.stateful_set(self.sandbox, 0, self.settings, self.view.names(self.sandbox))
            try:
                workload = observe.workload(await self.write(stateful_set))
            except engines.Refused:
                # A missing `patch` permission must not block a delete.
                return True
        return workload.replicas == 0 and workload.controller_caught_up and pod is None

    def done(self) -> None:
        """Counts the act, which has been done or has failed after it may have written something."""
        self.contests.done(self.sandbox.key, self.contest)


async def apply(
    api: client.Client, cache: Cache[object], resource: Resource, known: Known | None, fence: Fence
) -> Object:
    """Applies to the object that is known, or makes one if none is, and gives the answer to the cache."""
    position = cache.position(resource.reference.name)
    written = await api.apply(resource, known, fence)
    cache.answered(written, position)
    return written


def check_owned(sandbox: Sandbox, reference: Reference, found: Object | None) -> None:
    """Raises `engines.Refused` for a foreign object that has the name, and `engines.Busy` for one that is being removed."""
    if found is None or observe.owned(sandbox, found):
        return
    if found.metadata.deletionTimestamp:
        # For example the Ingress of the previous sandbox with this id, still held by its load balancer's finalizer.
        message = f"the {reference} of a former owner is being removed and has to go first"
        raise engines.Busy(f"{message}; its finalizers: {listed(found.metadata.finalizers)}") from None
    message = f"the {reference} belongs to somebody else; it is left alone. Remove it or choose another id"
    raise engines.Refused(Fault(Reason.NAME_CONFLICT, message)) from None


async def removable(api: client.Client, sandbox: Sandbox, reference: Reference) -> Object | None:
    """Returns the object if it is the sandbox's and not being removed already."""
    found = await api.find(reference)
    if found is None or found.metadata.deletionTimestamp or not observe.owned(sandbox, found):
        return None
    return found


def listed(finalizers: Iterable[str]) -> str:
    """Returns the finalizers as a message has them."""
    return ", ".join(finalizers) or "none"
