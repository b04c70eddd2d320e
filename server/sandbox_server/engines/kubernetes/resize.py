"""Gives a pod that runs other CPU and memory, without a restart, and says what stands against that."""

import dataclasses
import re

import msgspec

from sandbox_server import engines
from sandbox_server.domain import check, ownership
from sandbox_server.domain.observed import Growth, Pod
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import Resources
from sandbox_server.engines.kubernetes import client, growth, inspection, manifests, patch, pods, resources, rights
from sandbox_server.engines.kubernetes.objects import Amounts
from sandbox_server.engines.kubernetes.resources import Kind, Reference
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.engines.kubernetes.writer import Writer
from sandbox_server.settings import Kubernetes

PART = "resize"
"""The subresource of pods that changes resources: since Kubernetes 1.33, for good since 1.35. `rights.RESIZE` is for it."""

# kubernetes/plugin/pkg/admission/limitranger/admission.go
_LIMITED = r"forbidden: .*(m(in|ax)imum \S+ usage|max limit to request ratio) per (Container|Pod) is "


class _Named(msgspec.Struct):
    name: str = ""


class _Discovery(msgspec.Struct):
    resources: list[_Named] = []


async def possible(api: client.Client, namespace: str) -> bool:
    """Whether the API server changes the resources of pods, and lets the service do so in a namespace."""
    try:
        async with api.call("GET", "api/v1") as response:
            served = msgspec.json.decode(await response.read(), type=_Discovery).resources
        if not rights.RESIZE.keys() <= {one.name for one in served}:
            return False
        needed = [(resource, verb) for resource, verbs in rights.RESIZE.items() for verb in verbs]
        return all([await inspection.allowed(api, namespace, "", *one) for one in needed])
    except (engines.Refused, engines.Unreachable):
        return False


def shown(sandbox: Sandbox, pod: Pod, view: View, settings: Kubernetes) -> Pod:
    """Returns the pod with where the change of its resources stands.

    A pod whose template has the resources of the sandbox is as the cluster made it, whatever others have changed of it.
    """
    if sandbox.resized_from is None or pod.generation != sandbox.pod_generation:
        return dataclasses.replace(pod, resize=None)
    if view.unresizable.get(sandbox.uid) == (sandbox.generation, pod.uid):
        return dataclasses.replace(pod, resize=Growth(Reason.ROLLING_OUT), unresizable=True)
    if pod.requested is None or _lacks(pod.requested, _wanted(sandbox, settings)):
        refusal = view.pod_refusals.of(sandbox)
        if refusal is not None:
            return dataclasses.replace(pod, resize=refusal.growth, awaits_resize=not refusal.recent)
        return dataclasses.replace(pod, resize=Growth(Reason.RESIZING), awaits_resize=True)
    return pod


async def resize(write: Writer) -> None:
    """Gives the pod the resources of the sandbox, if it was made from others.

    Raises `engines.Outdated` if the pod is not as it is known, and if it takes no other resources: `observe` shows that then.
    """
    sandbox, view = write.sandbox, write.view
    reference = Reference(Kind.POD, sandbox.namespace, resources.pod_name(sandbox))
    pod, known = view.pods.get(reference.name), view.pods.known(reference.name)
    if pod is None or known is None or pod.terminating or not pod.scheduled or not ownership.owned(sandbox, pod):
        return
    if not shown(sandbox, pod, view, write.settings).awaits_resize:
        return
    container = {"name": pods.container(sandbox), "resources": _manifest(_wanted(sandbox, write.settings))}
    position = view.pods.position(reference.name)
    try:
        written = await write.api.merge(reference, known, {"spec": {"containers": [container]}}, write.fence, PART)
    except client.Conflict as conflict:
        raise engines.Outdated(str(conflict)) from None
    except engines.Refused as refused:
        limited = re.search(_LIMITED, refused.fault.message)
        if refused.fault.reason is Reason.QUOTA_EXCEEDED or limited:
            # Another pod would be refused as well, and this one runs.
            view.pod_refusals.refused(sandbox, refused.fault)
            return
        view.unresizable[sandbox.uid] = (sandbox.generation, pod.uid)
        raise engines.Outdated(f"the {reference} takes no other resources and is replaced: {refused}") from None
    view.pod_refusals.allowed(sandbox)
    view.pods.answered(written, position)


def _wanted(sandbox: Sandbox, settings: Kubernetes) -> Resources:
    """Returns the resources of a pod that is made for the sandbox as it is, which the operator's patch may change."""
    try:
        made = manifests.stateful_set(dataclasses.replace(sandbox, template=None), 1, settings)
    except patch.Inapplicable:
        return sandbox.spec.resources
    containers = made.manifest["spec"]["template"]["spec"]["containers"]
    found = [one.get("resources", {}) for one in containers if one["name"] == pods.container(sandbox)]
    return growth.amounts(msgspec.convert(found[0] if found else {}, Amounts))


def _manifest(wanted: Resources) -> patch.Manifest:
    return {
        "requests": pods.given(cpu=wanted.cpu_request, memory=wanted.memory_request),
        "limits": pods.given(cpu=wanted.cpu_limit, memory=wanted.memory_limit),
    }


def _lacks(has: Resources, wanted: Resources) -> bool:
    """Whether an amount that is wanted is another one in `has`."""
    return any(
        value and check.amount(value) != check.amount(getattr(has, name))
        for name, value in dataclasses.asdict(wanted).items()
    )
