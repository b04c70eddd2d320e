"""Every object of a sandbox as a pure function of it, with the fields that the service owns and no others."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from sandbox_server.domain import check, policy
from sandbox_server.domain.sandbox import Addresses, Sandbox
from sandbox_server.domain.spec import TERMINAL_PORT, Storage
from sandbox_server.engines.kubernetes import former, patch, pods, resources
from sandbox_server.engines.kubernetes.patch import Manifest
from sandbox_server.engines.kubernetes.resources import Reference, Resource, Resources
from sandbox_server.settings import Kubernetes

FIELD_MANAGER = "sandbox-service"
OURS = "sandbox.fullstackagent.io"
ID, UID, GENERATION, PLACEHOLDER = f"{OURS}/id", f"{OURS}/uid", f"{OURS}/generation", f"{OURS}/placeholder"
TOUCHED = f"{OURS}/touched"
HOME = f"{OURS}/home"
"""Of a claim: what is known of the home that was copied there from a former pod."""
ENVIRONMENTS = f"{OURS}/environments"
"""Of a Service: the names of the Secrets that may be there."""
_SEALOS = "cloud.sealos.io"


def addresses(sandbox: Sandbox, settings: Kubernetes) -> Addresses:
    """Returns where the sandbox is reached. URLs are always https: something in front of the cluster may end TLS."""
    application, terminal = _fresh_hosts(sandbox, settings)
    return Addresses(
        dns_name=f"{resources.pod_name(sandbox)}.{sandbox.objects.service}.{sandbox.namespace}.svc",
        public_url=f"https://{application}",
        ttyd_url=f"https://{terminal}",
        ingress_class=settings.ingress_class,
        tls_secret=settings.tls_secret,
    )


def _hosts(sandbox: Sandbox, settings: Kubernetes) -> tuple[str, str]:
    """Returns the stored hosts of a sandbox, even if the ingress domain has changed since; fresh hosts if there are none yet."""
    application, terminal = _fresh_hosts(sandbox, settings)
    urls = sandbox.addresses.public_url, sandbox.addresses.ttyd_url
    return urls[0].removeprefix("https://") or application, urls[1].removeprefix("https://") or terminal


def _fresh_hosts(sandbox: Sandbox, settings: Kubernetes) -> tuple[str, str]:
    return f"{sandbox.host}.{settings.ingress_domain}", f"{sandbox.host}-ttyd.{settings.ingress_domain}"


def objects(
    sandbox: Sandbox,
    env: Mapping[str, str],
    replicas: int,
    settings: Kubernetes,
    names: Resources[Reference] | None = None,
    listed: Sequence[str] = (),
) -> Resources[Resource]:
    """Returns every object of the sandbox. `listed` are the Secrets that may be there besides the one of `names`.

    `names`: where they are, if not where those of a new sandbox would be. Raises `patch.Inapplicable` if a pod is to be made
    from a bad patch.
    """
    names = names or resources.names(sandbox)
    app_host, ttyd_host = _hosts(sandbox, settings)
    service = _object(sandbox, settings, names.service, spec=_service(sandbox))
    there = (*listed, names.secret.name) if replicas else listed
    service.manifest["metadata"]["annotations"][ENVIRONMENTS] = " ".join(dict.fromkeys(there))
    application = _ingress(sandbox, settings, names.app_ingress, app_host, sandbox.spec.ports[0].number)
    terminal = _ingress(sandbox, settings, names.ttyd_ingress, ttyd_host, TERMINAL_PORT)
    if sandbox.adopted is not None:
        former.keep_ingress(application, sandbox.adopted.app_ingress)
        former.keep_ingress(terminal, sandbox.adopted.ttyd_ingress)
    return Resources(
        service=service,
        claim=_claim(sandbox, names.claim),
        secret=_secret(sandbox, settings, names.secret, env),
        app_ingress=application,
        ttyd_ingress=terminal,
        stateful_set=stateful_set(sandbox, replicas, settings, names),
    )


def owned_by(resource: Resource, owner: Reference, uid: str) -> Resource:
    """Returns the object so that the garbage collector removes it when its owner is gone, or has been gone already."""
    reference = {"apiVersion": owner.kind.api_version, "kind": owner.kind.title, "name": owner.name, "uid": uid}
    metadata = resource.manifest["metadata"] | {"ownerReferences": [reference]}
    return Resource(resource.reference, resource.manifest | {"metadata": metadata})


def render(sandbox: Sandbox, env: Mapping[str, str], settings: Kubernetes) -> str:
    """Returns every object of a sandbox that runs as YAML, in the order in which they are applied."""
    made = objects(sandbox, env, 1, settings)
    return yaml.safe_dump_all([resource.manifest for resource in made], sort_keys=False)


def _object(sandbox: Sandbox, settings: Kubernetes, reference: Reference, **content: Any) -> Resource:
    """Returns an object without the caller's labels and annotations: only the StatefulSet and its pods have those.

    With the generation in it, the object has another version after each mutation: a write for an earlier generation, which
    names the version that it was decided on, comes too late even where the mutations took each other back.
    """
    annotations = {UID: sandbox.uid, GENERATION: str(sandbox.generation)}
    metadata = {"labels": _labels(sandbox, settings), "annotations": annotations}
    return _resource(reference, metadata, **content)


def _resource(reference: Reference, metadata: Manifest, **content: Any) -> Resource:
    kind, namespace, name = reference
    named = {"name": name, "namespace": namespace, **metadata}
    return Resource(reference, {"apiVersion": kind.api_version, "kind": kind.title, "metadata": named, **content})


def _labels(sandbox: Sandbox, settings: Kubernetes) -> dict[str, str]:
    labels = {ID: sandbox.id}
    if settings.sealos_labels:
        labels |= {f"{_SEALOS}/app-deploy-manager": sandbox.id, "app": sandbox.id}
        labels["project.fullstackagent.io/name"] = sandbox.spec.project
    return labels


def _claim(sandbox: Sandbox, reference: Reference) -> Resource:
    """Returns the claim. It has only our label: Sealos removes the objects of an app by its own labels."""
    storage = sandbox.spec.storage
    # Sealos reads the last two annotations.
    annotations = {UID: sandbox.uid, "path": pods.HOME, "value": storage.size}
    metadata = {"labels": {ID: sandbox.id}, "annotations": annotations}
    return _resource(reference, metadata, spec=disk(storage, resources.source(sandbox)))


def disk(storage: Storage, source: Reference | None) -> Manifest:
    """Returns the spec of a claim of a disk that is made from `source`, or begins empty."""
    spec = {"accessModes": [storage.access_mode], "resources": {"requests": {"storage": storage.size}}}
    made_from = source and {"kind": source.kind.title, "name": source.name} | pods.given(apiGroup=source.kind.group)
    return spec | pods.given(storageClassName=storage.storage_class, dataSource=made_from)


def resized(size: str) -> Manifest:
    """Returns what changes of a claim that asks for another size. Sealos reads the annotation."""
    return {"metadata": {"annotations": {"value": size}}, "spec": {"resources": {"requests": {"storage": size}}}}


def at_least(claim: Resource, size: str) -> Resource:
    """Returns the claim, asking for `size` if that is more than it asks for."""
    spec = claim.manifest["spec"]
    if check.amount(size) <= check.amount(spec["resources"]["requests"]["storage"]):
        return claim
    larger = resized(size)
    annotations = claim.manifest["metadata"]["annotations"] | larger["metadata"]["annotations"]
    metadata = claim.manifest["metadata"] | {"annotations": annotations}
    return _resource(claim.reference, metadata, spec=spec | larger["spec"])


def annotated(resource: Resource, name: str, value: str) -> Resource:
    """Returns the object with one annotation more."""
    metadata = resource.manifest["metadata"]
    annotations = metadata["annotations"] | {name: value}
    return Resource(resource.reference, resource.manifest | {"metadata": metadata | {"annotations": annotations}})


def _placeholder(sandbox: Sandbox) -> Manifest:
    """Returns the claim template: what the StatefulSet controller makes where it finds no claim never binds.

    Only the service makes disks, each once. So no pod starts on a fresh disk unnoticed, however soon after the claim the
    pod goes, and no second pod runs if somebody scales the StatefulSet.
    """
    # Sealos reads the last two annotations. A claim template can never change, so it has no field of the disk, which can.
    annotations = {UID: sandbox.uid, PLACEHOLDER: "true", "path": pods.HOME, "value": "1Gi"}
    metadata = {"name": pods.VOLUME, "labels": {ID: sandbox.id}, "annotations": annotations}
    # Without a class the cluster's default would be filled in, and its quota counted.
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": "only-the-service-makes-disks"}
    return {"metadata": metadata, "spec": spec | {"resources": {"requests": {"storage": "1Gi"}}}}


def _secret(sandbox: Sandbox, settings: Kubernetes, reference: Reference, env: Mapping[str, str]) -> Resource:
    """Returns the Secret of the generation that the pod is made from. A former release may be writing to its own.

    The API server takes no data and empty data for different contents.
    """
    content = pods.given(data=_data(env), immutable=reference.name != sandbox.objects.secret)
    made = _object(sandbox, settings, reference, type="Opaque", **content)
    made.manifest["metadata"]["annotations"][GENERATION] = str(sandbox.pod_generation)
    return made


def _data(env: Mapping[str, str]) -> dict[str, str]:
    return {name: base64.b64encode(value.encode()).decode() for name, value in sorted(env.items())}


def _service(sandbox: Sandbox) -> Manifest:
    """Returns the spec of the headless Service, which gives the pod a stable name, also before it is ready."""
    ports = [{"name": name, "port": port, "targetPort": port, "protocol": "TCP"} for name, port in pods.ports(sandbox)]
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {ID: sandbox.id}, "ports": ports}
    return spec if sandbox.adopted is None else former.kept_service(sandbox.adopted, spec)


def _ingress(sandbox: Sandbox, settings: Kubernetes, reference: Reference, host: str, port: int) -> Resource:
    backend = {"service": {"name": sandbox.objects.service, "port": {"number": port}}}
    rule = {"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    stored = sandbox.addresses
    secret = settings.tls_secret if stored.tls_secret is None else stored.tls_secret
    class_name = settings.ingress_class if stored.ingress_class is None else stored.ingress_class
    tls = [{"hosts": [host], "secretName": secret}] if secret else []
    spec = {"rules": [rule]} | pods.given(ingressClassName=class_name, tls=tls)
    made = _object(sandbox, settings, reference, spec=spec)
    metadata = made.manifest["metadata"]
    metadata["annotations"] |= settings.ingress_annotations
    if settings.sealos_labels:
        metadata["labels"][f"{_SEALOS}/app-deploy-manager-domain"] = host.partition(".")[0]
    return made


def touched(sandbox: Sandbox, settings: Kubernetes, value: str, names: Resources[Reference]) -> Resource:
    """Returns the StatefulSet with another value of an annotation that no pod has.

    A change of a StatefulSet wakes its controller at once. By itself the controller tries again to make a pod after a delay
    that doubles up to 16 minutes.
    """
    made = stateful_set(sandbox, 1, settings, names)
    made.manifest["metadata"]["annotations"][TOUCHED] = value
    return made


def stateful_set(
    sandbox: Sandbox, replicas: int, settings: Kubernetes, names: Resources[Reference] | None = None
) -> Resource:
    """Returns the StatefulSet. The generation in its template is what restarts the pod. `names`: see `objects`.

    The operator's patch is left out without replicas: then no pod is made from the template.
    """
    names = names or resources.names(sandbox)
    made = _object(sandbox, settings, names.stateful_set)
    metadata, given = made.manifest["metadata"], sandbox.spec
    labels = metadata["labels"]
    metadata["labels"] = policy.labels(given.labels, settings.allowed_annotations) | labels
    metadata["annotations"] = annotations = {**given.annotations, **metadata["annotations"]}
    named = {
        "labels": policy.labels(sandbox.pod_labels, settings.allowed_annotations) | labels,
        "annotations": {**annotations, GENERATION: str(sandbox.pod_generation)},
    }
    template = pods.template(sandbox, named, names.secret.name, settings)
    if replicas:
        template = patch.apply(template, settings.pod_patch)
    # Always present, so that `touched` changes its value and nothing else.
    annotations[TOUCHED] = ""
    if settings.sealos_labels:
        annotations["originImageName"] = sandbox.spec.image
        annotations |= {f"deploy.{_SEALOS}/minReplicas": "1", f"deploy.{_SEALOS}/maxReplicas": "1"}
        annotations[f"deploy.{_SEALOS}/resize"] = sandbox.spec.storage.size
    spec = {
        "replicas": replicas,
        "serviceName": sandbox.objects.service,
        "selector": {"matchLabels": {ID: sandbox.id}},
        # With OrderedReady the controller waits until a pod is ready before it replaces it, so that a broken template could
        # never be repaired.
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "revisionHistoryLimit": 1,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "template": template,
        "volumeClaimTemplates": [_placeholder(sandbox)],
    }
    made.manifest["spec"] = spec
    if sandbox.adopted is not None:
        former.keep_workload(made, sandbox.adopted)
    return made


def marks(resource: Resource) -> Resource:
    """Returns the object with what says that it is the sandbox's, and with its replicas, and with nothing else."""
    metadata, spec = resource.manifest["metadata"], resource.manifest["spec"]
    kept = (UID, GENERATION, TOUCHED, ENVIRONMENTS)
    annotations = {one: metadata["annotations"][one] for one in kept if one in metadata["annotations"]}
    marked = {"labels": {ID: metadata["labels"][ID]}, "annotations": annotations}
    content = {"spec": {"replicas": spec["replicas"]}} if "replicas" in spec else {}
    return _resource(resource.reference, marked, **content)


def pod_marks(sandbox: Sandbox, reference: Reference) -> Resource:
    """Returns the pod that a former system has made, with what says that it is the sandbox's."""
    annotations = {UID: sandbox.uid, GENERATION: str(sandbox.pod_generation), pods.NAMED: pods.container(sandbox)}
    return _resource(reference, {"labels": {ID: sandbox.id}, "annotations": annotations})


def unmarked(reference: Reference) -> Resource:
    """Returns the object with nothing of ours: once it is applied, the object is as it was without the service."""
    return _resource(reference, {})
