"""Every object of a sandbox as a pure function of it. Only fields that are ours: the rest is the cluster's."""

import base64
from collections.abc import Mapping
from typing import Any

import yaml

from sandbox_server.domain.sandbox import Addresses, Sandbox
from sandbox_server.domain.spec import TERMINAL_PORT
from sandbox_server.engines.kubernetes import patch, pods
from sandbox_server.settings import Settings

Manifest = patch.Manifest

VERSIONS = {"Ingress": "networking.k8s.io/v1", "StatefulSet": "apps/v1"}
"""Kinds that are not of the core's v1."""
FIELD_MANAGER = "sandbox-service"
OURS = "sandbox.fullstackagent.io"
ID, UID, GENERATION, PLACEHOLDER = f"{OURS}/id", f"{OURS}/uid", f"{OURS}/generation", f"{OURS}/placeholder"
TOUCHED = f"{OURS}/touched"
_SEALOS = "cloud.sealos.io"


def addresses(sandbox: Sandbox, settings: Settings) -> Addresses:
    """Where the sandbox is reached: always by https, whoever ends TLS in front of the cluster."""
    application, terminal = _fresh_hosts(sandbox, settings)
    return Addresses(
        dns_name=f"{pod_name(sandbox)}.{sandbox.service_name}.{sandbox.namespace}.svc",
        public_url=f"https://{application}",
        ttyd_url=f"https://{terminal}",
        ingress_class=settings.ingress_class,
        tls_secret=settings.tls_secret,
    )


def _hosts(sandbox: Sandbox, settings: Settings) -> tuple[str, str]:
    """The hosts that its callers were given, whatever the ingress domain is now; fresh ones before it has any."""
    application, terminal = _fresh_hosts(sandbox, settings)
    urls = sandbox.addresses.public_url, sandbox.addresses.ttyd_url
    return urls[0].removeprefix("https://") or application, urls[1].removeprefix("https://") or terminal


def _fresh_hosts(sandbox: Sandbox, settings: Settings) -> tuple[str, str]:
    return f"{sandbox.host}.{settings.ingress_domain}", f"{sandbox.host}-ttyd.{settings.ingress_domain}"


def pod_name(sandbox: Sandbox) -> str:
    """The pod, as the StatefulSet controller names it."""
    return f"{sandbox.id}-0"


def claim_name(sandbox: Sandbox) -> str:
    """The claim that the pod uses, as the StatefulSet controller derives it."""
    return f"{pods.VOLUME}-{pod_name(sandbox)}"


def secret_name(sandbox: Sandbox) -> str:
    """The Secret with the environment."""
    return f"{sandbox.id}-env"


def watched(sandbox: Sandbox) -> tuple[tuple[str, str], ...]:
    """Kinds and names of the objects whose every change is heard of, the StatefulSet last."""
    return (
        ("Service", sandbox.service_name),
        ("Ingress", f"{sandbox.id}-app-ingress"),
        ("Ingress", f"{sandbox.id}-ttyd-ingress"),
        ("StatefulSet", sandbox.id),
    )


def objects(sandbox: Sandbox, env: Mapping[str, str], replicas: int, settings: Settings) -> list[Manifest]:
    """The claim, the Secret and those `watched`: the order in which they are applied, and in which they are removed."""
    (_, service), *ingresses, (_, stateful_set) = watched(sandbox)
    routes = zip(ingresses, _hosts(sandbox, settings), (sandbox.spec.ports[0].number, TERMINAL_PORT), strict=True)
    return [
        _claim(sandbox),
        _object(sandbox, settings, "Secret", secret_name(sandbox), type="Opaque", data=_data(env)),
        _object(sandbox, settings, "Service", service, spec=_service(sandbox)),
        *(_ingress(sandbox, settings, name, host, port) for (_, name), host, port in routes),
        _stateful_set(sandbox, settings, stateful_set, replicas),
    ]


def render(sandbox: Sandbox, env: Mapping[str, str], settings: Settings) -> str:
    """Every object of a sandbox that runs as YAML, in the order in which they are applied."""
    return yaml.safe_dump_all(objects(sandbox, env, 1, settings), sort_keys=False)


def _object(sandbox: Sandbox, settings: Settings, kind: str, name: str, **content: Any) -> Manifest:
    """An object without the caller's labels and annotations: only the StatefulSet and its pods have those."""
    metadata = {"name": name, "namespace": sandbox.namespace, "labels": _labels(sandbox, settings)}
    metadata["annotations"] = {UID: sandbox.uid}
    return {"apiVersion": VERSIONS.get(kind, "v1"), "kind": kind, "metadata": metadata, **content}


def _labels(sandbox: Sandbox, settings: Settings) -> dict[str, str]:
    labels = {ID: sandbox.id}
    if settings.sealos_labels:
        labels |= {f"{_SEALOS}/app-deploy-manager": sandbox.id, "app": sandbox.id}
        labels["project.fullstackagent.io/name"] = sandbox.spec.project
    return labels


def _claim(sandbox: Sandbox) -> Manifest:
    """The disk. It has no label but ours, lest whoever clears away an app of Sealos by its labels takes it along."""
    storage = sandbox.spec.storage
    # Sealos reads the last two.
    annotations = {UID: sandbox.uid, "path": pods.HOME, "value": storage.size}
    named = {"name": claim_name(sandbox), "namespace": sandbox.namespace}
    metadata = {**named, "labels": {ID: sandbox.id}, "annotations": annotations}
    spec = {"accessModes": [storage.access_mode], "resources": {"requests": {"storage": storage.size}}}
    spec |= pods.given(storageClassName=storage.storage_class)
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def _placeholder(sandbox: Sandbox) -> Manifest:
    """What the StatefulSet controller makes where it finds no claim: one that never binds, and so runs no pod.

    The disk is made by us, once. So nothing starts on a fresh one behind our back, however soon after the claim the pod
    goes; and nothing runs beside the sandbox's pod if somebody scales the StatefulSet.
    """
    # Sealos reads the last two. The template can never change, so nothing in it is of the disk, which may.
    annotations = {UID: sandbox.uid, PLACEHOLDER: "true", "path": pods.HOME, "value": "1Gi"}
    metadata = {"name": pods.VOLUME, "labels": {ID: sandbox.id}, "annotations": annotations}
    # No class, or the cluster's default would be filled in, and the quota of that class counted.
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": "only-the-service-makes-disks"}
    return {"metadata": metadata, "spec": spec | {"resources": {"requests": {"storage": "1Gi"}}}}


def _data(env: Mapping[str, str]) -> dict[str, str]:
    return {name: base64.b64encode(value.encode()).decode() for name, value in sorted(env.items())}


def _service(sandbox: Sandbox) -> Manifest:
    """Headless, so that the pod has a stable name; it has one before it is ready, too."""
    ports = [{"name": name, "port": port, "targetPort": port, "protocol": "TCP"} for name, port in pods.ports(sandbox)]
    return {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {ID: sandbox.id}, "ports": ports}


def _ingress(sandbox: Sandbox, settings: Settings, name: str, host: str, port: int) -> Manifest:
    backend = {"service": {"name": sandbox.service_name, "port": {"number": port}}}
    rule = {"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    stored = sandbox.addresses
    secret = settings.tls_secret if stored.tls_secret is None else stored.tls_secret
    class_name = settings.ingress_class if stored.ingress_class is None else stored.ingress_class
    tls = [{"hosts": [host], "secretName": secret}] if secret else []
    spec = {"rules": [rule]} | pods.given(ingressClassName=class_name, tls=tls)
    made = _object(sandbox, settings, "Ingress", name, spec=spec)
    made["metadata"]["annotations"] |= settings.ingress_annotations
    if settings.sealos_labels:
        made["metadata"]["labels"][f"{_SEALOS}/app-deploy-manager-domain"] = host.partition(".")[0]
    return made


def touched(sandbox: Sandbox, settings: Settings, value: str) -> Manifest:
    """The StatefulSet with another value of an annotation that no pod has.

    Any change of a StatefulSet brings it to its controller at once. By itself the controller comes back to a pod that it
    could not make after a delay that doubles up to 16 minutes.
    """
    *_, made = objects(sandbox, {}, 1, settings)
    made["metadata"]["annotations"][TOUCHED] = value
    return made


def _stateful_set(sandbox: Sandbox, settings: Settings, name: str, replicas: int) -> Manifest:
    """Its template's generation is what restarts the pod. Without replicas no pod is made from the template."""
    made = _object(sandbox, settings, "StatefulSet", name)
    metadata, given = made["metadata"], sandbox.spec
    metadata["labels"] = labels = settings.policy.labels(given.labels) | metadata["labels"]
    metadata["annotations"] = annotations = {**given.annotations, **metadata["annotations"]}
    annotations[GENERATION] = str(sandbox.generation)
    named = {"labels": {**labels}, "annotations": {**annotations}}
    template = pods.template(sandbox, named, secret_name(sandbox), settings)
    if replicas:
        template = patch.apply(template, settings.pod_patch)
    # Always there, so that another value changes no more than that: see `touched`.
    annotations[TOUCHED] = ""
    if settings.sealos_labels:
        annotations["originImageName"] = sandbox.spec.image
        annotations |= {f"deploy.{_SEALOS}/minReplicas": "1", f"deploy.{_SEALOS}/maxReplicas": "1"}
        annotations[f"deploy.{_SEALOS}/resize"] = sandbox.spec.storage.size
    spec = {
        "replicas": replicas,
        "serviceName": sandbox.service_name,
        "selector": {"matchLabels": {ID: sandbox.id}},
        # With OrderedReady the controller waits for a pod to be ready before it replaces it: one bad template, and no
        # good one would ever follow.
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "revisionHistoryLimit": 1,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "template": template,
        "volumeClaimTemplates": [_placeholder(sandbox)],
    }
    return made | {"spec": spec}
