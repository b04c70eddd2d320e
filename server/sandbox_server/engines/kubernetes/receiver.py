"""The pod that receives the files of a former pod on the disk of a sandbox. It runs nothing of its user."""

from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes import manifests, patch, pods, resources
from sandbox_server.engines.kubernetes.resources import Kind, Reference, Resource
from sandbox_server.settings import Kubernetes

_IDLE = ("/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done")


def reference(sandbox: Sandbox) -> Reference:
    """Returns where the pod is."""
    return Reference(Kind.POD, sandbox.namespace, f"{sandbox.objects.stateful_set}-receiver")


def pod(sandbox: Sandbox, settings: Kubernetes) -> Resource:
    """Returns the pod: on a node and with an image as the sandbox's, as root, who gives files to their owners.

    Raises `patch.Inapplicable`.
    """
    metadata = {"labels": {manifests.ID: sandbox.id}, "annotations": {manifests.UID: sandbox.uid}}
    made = patch.apply(pods.template(sandbox, metadata, "", settings), settings.pod_patch)["spec"]
    own = next(one for one in made["containers"] if one["name"] == pods.container(sandbox))
    kept = {name: own[name] for name in ("image", "resources", "volumeMounts")}
    mounts = [one for one in kept["volumeMounts"] if one["name"] == pods.VOLUME]
    security = {"allowPrivilegeEscalation": False, "runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0}
    container = {
        "name": pods.CONTAINER,
        **kept,
        "command": [*_IDLE],
        "volumeMounts": mounts,
        "securityContext": security,
    }
    claim = {"claimName": resources.claim_name(sandbox)}
    spec = made | {
        "containers": [container],
        "initContainers": [],
        "volumes": [{"name": pods.VOLUME, "persistentVolumeClaim": claim}],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
    }
    where = reference(sandbox)
    named = {"name": where.name, "namespace": where.namespace, **metadata}
    return Resource(
        where, {"apiVersion": Kind.POD.api_version, "kind": Kind.POD.title, "metadata": named, "spec": spec}
    )
