"""Takes over the objects that a former system made, in place, and gives them back.

While a sandbox awaits its takeover, each object gets what says that it is the sandbox's, and nothing else of it changes. So
does the pod, because informers show nothing else. Then every object is applied as those of other sandboxes are, with what can
never change.

What an apply does not say stays as others have set it. The spec of the StatefulSet must not: the environment in it is in the
Secret from then on. So the service first becomes the manager of all of its spec, which changes nothing else, and what it does
not say then goes with the same apply that changes the template: the pod is replaced once.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from sandbox_server import engines
from sandbox_server.domain import ownership
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import client, environments, manifests, observe, receiver, resources
from sandbox_server.engines.kubernetes.objects import Known, Object
from sandbox_server.engines.kubernetes.resources import Kind, Reference, Resource
from sandbox_server.engines.kubernetes.writer import Writer


async def due(write: Writer, resource: Resource) -> Resource:
    """Returns what is to be applied of an object now."""
    sandbox, reference = write.sandbox, resource.reference
    if sandbox.adopted is None:
        return resource
    if sandbox.awaits_takeover:
        found = await write.api.find(reference)
        stands = found is not None and ownership.was_adopted(sandbox, found.metadata.uid)
        return manifests.marks(resource) if stands else resource
    if reference.kind is Kind.STATEFUL_SET:
        await _manage_spec(write, reference)
    return resource


async def mark_pod(api: client.Client, sandbox: Sandbox, fence: Fence) -> None:
    """Marks the pod that the former system has made, if there is one that is not marked. Raises `engines.Outdated`."""
    reference = Reference(Kind.POD, sandbox.namespace, resources.pod_name(sandbox))
    found = await api.find(reference)
    if found is None or found.metadata.annotations.get(manifests.UID) == sandbox.uid:
        return
    if any(ownership.was_adopted(sandbox, owner.uid) for owner in found.metadata.ownerReferences):
        await _apply(api, manifests.pod_marks(sandbox, reference), found, fence)


async def bind(write: Writer, service: Object) -> None:
    """Has the garbage collector remove the further Ingresses of the former system once the Service is gone."""
    adopted = write.sandbox.adopted
    for name in adopted.ingresses if adopted is not None and not write.sandbox.awaits_takeover else ():
        reference = Reference(Kind.INGRESS, write.sandbox.namespace, name)
        found = await write.api.find(reference)
        if found is None or not observe.owned(write.sandbox, found) or found.metadata.ownerReferences:
            continue
        owner = resources.names(write.sandbox).service
        marked = manifests.owned_by(manifests.unmarked(reference), owner, service.metadata.uid)
        await _apply(write.api, marked, found, write.fence)


async def give_back(write: Writer) -> None:
    """Takes the marks from every object that was there, the StatefulSet last, and removes those that were made since.

    Raises `engines.Outdated`.
    """
    sandbox = write.sandbox
    names = resources.names(sandbox)
    pod = Reference(Kind.POD, sandbox.namespace, resources.pod_name(sandbox))
    secrets = environments.listed(write.view, sandbox)
    made = [pod, names.stateful_set]
    if sandbox.adopted is not None and sandbox.adopted.pod:
        made = [receiver.reference(sandbox)]
        if await write.scale_down():
            made += [names.claim, names.stateful_set]
    for reference in (*secrets, names.app_ingress, names.ttyd_ingress, names.service, *made):
        found = await write.api.find(reference, whole=True)
        if found is None or found.metadata.annotations.get(manifests.UID) != sandbox.uid:
            continue
        if reference is pod or ownership.was_adopted(sandbox, found.metadata.uid):
            await unmark(write.api, reference, found, write.fence)
        else:
            await write.api.delete(reference, Known.of(found), write.fence)


async def unmark(api: client.Client, reference: Reference, found: Object, fence: Fence) -> None:
    """Takes the marks of a sandbox from an object that was there before it, as the whole of it was found.

    Raises `engines.Outdated` if it has changed since.
    """
    resource = manifests.unmarked(reference)
    if reference.kind is Kind.STATEFUL_SET:
        # The marks had the replicas, too. A field that nobody sets any more gets its default, which is one.
        resource.manifest["spec"] = {"replicas": found.spec.replicas}
    await _apply(api, resource, found, fence)


async def _apply(api: client.Client, resource: Resource, found: Object, fence: Fence) -> None:
    try:
        await api.apply(resource, Known.of(found), fence)
    except client.Conflict as conflict:
        raise engines.Outdated(str(conflict)) from None


async def _manage_spec(write: Writer, reference: Reference) -> None:
    """Makes the service the one manager of the spec of the StatefulSet, unless its template is the service's already.

    A manager of the status alone stays. Raises `engines.Outdated`.
    """
    try:
        async with write.api.call("GET", client.path(*reference)) as response:
            found = msgspec.json.decode(await response.read())
    except client.Missing:
        return
    metadata, template = found["metadata"], found["spec"]["template"]
    if _uid(metadata) not in ("", write.sandbox.uid) or _uid(template.get("metadata", {})):
        return
    if not ownership.was_adopted(write.sandbox, metadata["uid"]):
        return
    known = Known(metadata["uid"], metadata["resourceVersion"])
    managed = {"metadata": {"managedFields": [*_managed(metadata.get("managedFields", ()))]}}
    try:
        write.known[reference] = Known.of(await write.api.merge(reference, known, managed, write.fence))
    except client.Conflict as conflict:
        raise engines.Outdated(str(conflict)) from None


def _uid(metadata: Mapping[str, Any]) -> str:
    return str((metadata.get("annotations") or {}).get(manifests.UID, ""))


def _managed(entries: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yields the managers of an object, with every field of the spec that has one in the service's."""
    own: dict[str, Any] = {}
    spec: dict[str, Any] = {}
    for entry in entries:
        fields = entry.get("fieldsV1", {})
        if (entry["manager"], entry["operation"]) == (manifests.FIELD_MANAGER, "Apply"):
            own = fields
        elif entry.get("subresource") or "f:spec" not in fields:
            yield entry
            continue
        elif left := {name: value for name, value in fields.items() if name != "f:spec"}:
            yield {**entry, "fieldsV1": left}
        _add(fields.get("f:spec", {}), spec)
    yield {
        "manager": manifests.FIELD_MANAGER,
        "operation": "Apply",
        "apiVersion": Kind.STATEFUL_SET.api_version,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "fieldsType": "FieldsV1",
        "fieldsV1": {**own, "f:spec": spec},
    }


def _add(fields: Mapping[str, Any], to: dict[str, Any]) -> None:
    for name, value in fields.items():
        _add(value, to.setdefault(name, {}))
