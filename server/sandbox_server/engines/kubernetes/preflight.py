"""Checks what the operator adds to pods, before the service starts."""

import dataclasses
import uuid
from datetime import UTC, datetime

from pydantic import ValidationError

from sandbox_server.domain import mutations
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.spec import Readiness, Resources, SandboxSpec, Storage
from sandbox_server.engines.kubernetes import manifests, patch
from sandbox_server.settings import Kubernetes


def check(settings: Kubernetes) -> None:
    """Raises ValueError if the patch does not apply, or if its result is no pod template."""
    if not settings.pod_patch:
        return
    for sandbox in _samples():
        stateful_set = manifests.stateful_set(sandbox, 1, settings)
        _judge(stateful_set.manifest["spec"]["template"])


def _samples() -> tuple[Sandbox, Sandbox]:
    """Returns the sandbox with the fewest fields in its template, and the sandbox with all of them."""
    least = SandboxSpec(
        project="project",
        image="image",
        resources=Resources("1", "1", "1Gi", "1Gi"),
        storage=Storage("1Gi", "", "ReadWriteOnce"),
        copy_image_home=False,
    )
    most = dataclasses.replace(
        least,
        command=("command",),
        args=("argument",),
        runtime_class="class",
        readiness=Readiness(tcp_port=3000),
        copy_image_home=True,
    )
    key, uid, now = Key("namespace", "sandbox"), str(uuid.UUID(int=0)), datetime.now(UTC)
    return (
        mutations.new(key, "tenant", uid, "host", least, ["PORT"], now),
        mutations.new(key, "tenant", uid, "host", most, [], now),
    )


def _judge(template: patch.Manifest) -> None:
    # The import takes half a second, and only a patch needs it.
    from kubernetes.client import V1PodTemplateSpec

    try:
        read = V1PodTemplateSpec.model_validate(template)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        path = "/".join(str(one) for one in wrong["loc"])
        raise patch.Inapplicable(f"pod-patch: the result is no pod template: /{path}: {wrong['msg']}") from None
    # The model accepts its Python names as well.
    if read.model_dump(by_alias=True, exclude_unset=True) != template:
        raise patch.Inapplicable("pod-patch: the result has fields such as dns_policy where Kubernetes has dnsPolicy")
