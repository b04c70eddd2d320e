"""The pod template of a sandbox."""

from collections.abc import Sequence
from typing import Any

from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import TERMINAL_PORT
from sandbox_server.engines.kubernetes import home, patch
from sandbox_server.settings import Kubernetes

CONTAINER = "sandbox"
NAMED = "sandbox.fullstackagent.io/container"
"""Of a pod: the name of the sandbox's container, where a former system has named it."""
VOLUME = "vn-homevn-agent"
HOME = "/home/agent"
AGENT = 1001
"""The user of the sandbox images."""
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
"""The security context of every container of the service."""


def template(sandbox: Sandbox, metadata: patch.Manifest, secret: str, settings: Kubernetes) -> patch.Manifest:
    """Returns the pod template before the operator's patch. The environment is in `secret`."""
    return {"metadata": metadata, "spec": _pod(sandbox, secret, settings)}


def ports(sandbox: Sandbox) -> list[tuple[str, int]]:
    """Returns the names and numbers of the ports, the terminal's last."""
    return [*((one.name, one.number) for one in sandbox.spec.ports), ("ttyd", TERMINAL_PORT)]


def container(sandbox: Sandbox) -> str:
    """Returns the name of the sandbox's container."""
    return CONTAINER if sandbox.adopted is None else sandbox.adopted.container


def given(**fields: Any) -> patch.Manifest:
    """Returns the fields that are not empty."""
    return {name: value for name, value in fields.items() if value}


def _pod(sandbox: Sandbox, secret: str, settings: Kubernetes) -> patch.Manifest:
    own = _container(sandbox, secret)
    filling = [home.container(own, VOLUME, HOME, sandbox.home_folder)] if sandbox.fills_home else []
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # With 0 the API server removes the pod object while its process may still write to the disk of the next pod.
        "terminationGracePeriodSeconds": max(1, sandbox.spec.grace_period_seconds),
        "shareProcessNamespace": settings.share_process_namespace,
        "securityContext": security(),
        # Present even if empty, so that an operator's patch can add one to every sandbox.
        "initContainers": filling,
        "containers": [own],
        **given(runtimeClassName=sandbox.spec.runtime_class),
        **placed(settings),
    }


def security() -> patch.Manifest:
    """Returns the security context of every pod of the service, which uses a disk as the user of the sandbox images."""
    user = {"runAsNonRoot": True, "runAsUser": AGENT, "runAsGroup": AGENT, "fsGroup": AGENT}
    return {**user, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}}


def placed(settings: Kubernetes) -> patch.Manifest:
    """Returns where the operator lets pods run, and with which secrets their images are pulled."""
    return given(
        nodeSelector=settings.node_selector,
        tolerations=[{**one} for one in settings.tolerations],
        imagePullSecrets=[{"name": one} for one in settings.pull_secrets],
        priorityClassName=settings.priority_class,
    )


def _container(sandbox: Sandbox, secret: str) -> patch.Manifest:
    spec, port = sandbox.spec, sandbox.spec.ports[0].number
    env = [] if "PORT" in sandbox.env_names else [{"name": "PORT", "value": str(port)}]
    probe: patch.Manifest = {"tcpSocket": {"port": spec.readiness.tcp_port}} if spec.readiness.tcp_port else {}
    if spec.readiness.http_path:
        probe = {"httpGet": {"path": spec.readiness.http_path, "port": port}}
    often = {"periodSeconds": 2, "timeoutSeconds": 1, "failureThreshold": 3}
    resources = sandbox.pod_resources
    return {
        "name": container(sandbox),
        "image": spec.image,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "ports": [{"name": name, "containerPort": number, "protocol": "TCP"} for name, number in ports(sandbox)],
        "envFrom": [{"secretRef": {"name": secret}}],
        "resources": {
            "requests": {"cpu": resources.cpu_request, "memory": resources.memory_request},
            "limits": {"cpu": resources.cpu_limit, "memory": resources.memory_limit},
        },
        "volumeMounts": [{"name": VOLUME, "mountPath": HOME} | given(subPath=sandbox.home_folder)],
        "securityContext": {**RESTRICTED},
        **given(command=literal(spec.command), args=literal(spec.args)),
        **given(env=env, readinessProbe=probe and probe | often),
    }


def literal(words: Sequence[str]) -> list[str]:
    """Returns words that reach the process unchanged: the kubelet replaces `$(NAME)` by a variable, and `$$` by `$`."""
    return [word.replace("$", "$$") for word in words]
