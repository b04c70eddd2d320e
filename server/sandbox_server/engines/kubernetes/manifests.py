"""Every object of a sandbox as a pure function of it. Only fields that are ours: the rest is the cluster's."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_server.domain.sandbox import TERMINAL_PORT, Addresses, Sandbox

Manifest = dict[str, Any]

OURS = "sandbox.fullstackagent.io"
ID, UID, GENERATION = f"{OURS}/id", f"{OURS}/uid", f"{OURS}/generation"
VOLUME = "vn-homevn-agent"
HOME = "/home/agent"
AGENT = 1001
"""The user of the sandbox images."""
GRACE = 10
"""Seconds that a pod has to end."""
_SEALOS = "cloud.sealos.io"


@dataclass(frozen=True, slots=True)
class Config:
    """What the objects and the connection need beyond the sandbox.

    `kubeconfig` None is the service account of the pod; `namespaces` are those observed, all if empty; times in
    seconds. `silence` is how long a watch may say nothing: the API server sends a bookmark about every minute.
    """

    kubeconfig: Path | None = None
    namespaces: tuple[str, ...] = ()
    ingress_domain: str = "sandbox.localhost"
    ingress_class: str = "nginx"
    tls_secret: str = ""
    sealos_labels: bool = True
    field_manager: str = "sandbox-service"
    timeout: float = 10.0
    silence: float = 90.0


def addresses(sandbox: Sandbox, config: Config) -> Addresses:
    """Where the sandbox is reached: always by https, whoever ends TLS in front of the cluster."""
    application, terminal = hosts(sandbox, config)
    return Addresses(
        dns_name=f"{sandbox.id}-0.{sandbox.service_name}.{sandbox.namespace}.svc",
        public_url=f"https://{application}",
        ttyd_url=f"https://{terminal}",
    )


def hosts(sandbox: Sandbox, config: Config) -> tuple[str, str]:
    """The host names of the application and the terminal."""
    return f"{sandbox.host}.{config.ingress_domain}", f"{sandbox.host}-ttyd.{config.ingress_domain}"


def claim_name(sandbox: Sandbox) -> str:
    """The claim that the StatefulSet controller makes from the template."""
    return f"{VOLUME}-{sandbox.id}-0"


def secret_name(sandbox: Sandbox) -> str:
    """The Secret with the environment."""
    return f"{sandbox.id}-env"


def ingress_names(sandbox: Sandbox) -> tuple[str, str]:
    """The Ingresses of the application and the terminal."""
    return f"{sandbox.id}-app-ingress", f"{sandbox.id}-ttyd-ingress"


def secret(sandbox: Sandbox, env: Mapping[str, str], config: Config) -> Manifest:
    """The environment; applied before the StatefulSet, so that a new pod finds it."""
    data = {name: base64.b64encode(value.encode()).decode() for name, value in sorted(env.items())}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(sandbox, config, secret_name(sandbox)),
        "type": "Opaque",
        "data": data,
    }


def service(sandbox: Sandbox, config: Config) -> Manifest:
    """Headless, so that the pod has a stable name; it has one before it is ready, too."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(sandbox, config, sandbox.service_name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {ID: sandbox.id},
            "ports": [
                {"name": name, "port": number, "targetPort": number, "protocol": "TCP"}
                for name, number in _ports(sandbox)
            ],
        },
    }


def ingresses(sandbox: Sandbox, config: Config) -> list[Manifest]:
    """One for the application, one for the terminal."""
    targets = (sandbox.spec.ports[0].number, TERMINAL_PORT)
    return [
        _ingress(sandbox, config, name, host, port)
        for name, host, port in zip(ingress_names(sandbox), hosts(sandbox, config), targets, strict=True)
    ]


def _ingress(sandbox: Sandbox, config: Config, name: str, host: str, port: int) -> Manifest:
    metadata = _metadata(sandbox, config, name)
    if config.sealos_labels:
        metadata["labels"][f"{_SEALOS}/app-deploy-manager-domain"] = host.partition(".")[0]
    backend = {"service": {"name": sandbox.service_name, "port": {"number": port}}}
    spec: Manifest = {
        "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]
    }
    if config.ingress_class:
        spec["ingressClassName"] = config.ingress_class
    if config.tls_secret:
        spec["tls"] = [{"hosts": [host], "secretName": config.tls_secret}]
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}


def stateful_set(sandbox: Sandbox, replicas: int, config: Config) -> Manifest:
    """The workload. Its template's generation is what restarts the pod."""
    metadata = _metadata(sandbox, config, sandbox.id)
    metadata["annotations"][GENERATION] = str(sandbox.generation)
    if config.sealos_labels:
        metadata["annotations"] |= {
            "originImageName": sandbox.spec.image,
            "deploy.cloud.sealos.io/minReplicas": "1",
            "deploy.cloud.sealos.io/maxReplicas": "1",
            "deploy.cloud.sealos.io/resize": sandbox.spec.storage.size,
        }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "serviceName": sandbox.service_name,
            "selector": {"matchLabels": {ID: sandbox.id}},
            # With OrderedReady the controller waits for a pod to be ready before it replaces it: one bad template, and
            # no good one would ever follow.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
            "revisionHistoryLimit": 1,
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "template": _template(sandbox, config),
            "volumeClaimTemplates": [_claim(sandbox, config)],
        },
    }


def _template(sandbox: Sandbox, config: Config) -> Manifest:
    spec = sandbox.spec
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": AGENT,
            "runAsGroup": AGENT,
            "fsGroup": AGENT,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(sandbox)],
    }
    if spec.runtime_class:
        pod["runtimeClassName"] = spec.runtime_class
    annotations = {**spec.annotations, UID: sandbox.uid, GENERATION: str(sandbox.generation)}
    return {"metadata": {"labels": _labels(sandbox, config), "annotations": annotations}, "spec": pod}


def _container(sandbox: Sandbox) -> Manifest:
    spec = sandbox.spec
    container: Manifest = {
        "name": "sandbox",
        "image": spec.image,
        "ports": [{"name": name, "containerPort": number, "protocol": "TCP"} for name, number in _ports(sandbox)],
        "envFrom": [{"secretRef": {"name": secret_name(sandbox)}}],
        "resources": {
            "requests": {"cpu": spec.resources.cpu_request, "memory": spec.resources.memory_request},
            "limits": {"cpu": spec.resources.cpu_limit, "memory": spec.resources.memory_limit},
        },
        "volumeMounts": [{"name": VOLUME, "mountPath": HOME}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True},
    }
    if spec.command:
        container["command"] = list(spec.command)
    if spec.args:
        container["args"] = list(spec.args)
    if "PORT" not in sandbox.env_names:
        container["env"] = [{"name": "PORT", "value": str(spec.ports[0].number)}]
    probe: Manifest = {"periodSeconds": 2, "timeoutSeconds": 1, "failureThreshold": 3}
    if spec.readiness.http_path:
        container["readinessProbe"] = probe | {
            "httpGet": {"path": spec.readiness.http_path, "port": spec.ports[0].number}
        }
    elif spec.readiness.tcp_port:
        container["readinessProbe"] = probe | {"tcpSocket": {"port": spec.readiness.tcp_port}}
    return container


def _claim(sandbox: Sandbox, config: Config) -> Manifest:
    storage = sandbox.spec.storage
    annotations = {UID: sandbox.uid}
    if config.sealos_labels:
        annotations |= {"path": HOME, "value": storage.size}
    spec: Manifest = {"accessModes": [storage.access_mode], "resources": {"requests": {"storage": storage.size}}}
    if storage.storage_class:
        spec["storageClassName"] = storage.storage_class
    labels = {ID: sandbox.id}
    return {"metadata": {"name": VOLUME, "labels": labels, "annotations": annotations}, "spec": spec}


def _ports(sandbox: Sandbox) -> list[tuple[str, int]]:
    return [*((one.name, one.number) for one in sandbox.spec.ports), ("ttyd", TERMINAL_PORT)]


def _labels(sandbox: Sandbox, config: Config) -> dict[str, str]:
    labels = {**sandbox.spec.labels, ID: sandbox.id}
    if config.sealos_labels:
        labels |= {
            f"{_SEALOS}/app-deploy-manager": sandbox.id,
            "app": sandbox.id,
            "project.fullstackagent.io/name": sandbox.spec.project,
        }
    return labels


def _metadata(sandbox: Sandbox, config: Config, name: str) -> Manifest:
    return {
        "name": name,
        "namespace": sandbox.namespace,
        "labels": _labels(sandbox, config),
        "annotations": {**sandbox.spec.annotations, UID: sandbox.uid},
    }
