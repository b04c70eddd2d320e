"""A namespace of the control plane, with the rights that the service has in it."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import yaml
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import SandboxSpec
from sandbox_server.settings import Settings

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.node import Node
from tests.support import samples
from tests.support.rig import Rig
from tests.support.waiting import PATIENCE, eventually

SERVICE = "service-token-for-tests"
DEPLOY = Path(__file__).parents[2] / "deploy"
ROLE = DEPLOY / "role.yaml"
ACCESS = DEPLOY / "access.yaml"
ADOPTION = DEPLOY / "adoption.yaml"
SNAPSHOTS = DEPLOY / "snapshots.yaml"
VERIFICATION = DEPLOY / "verification.yaml"
RESIZE = DEPLOY / "resize.yaml"
RESYNC = 5
"""Seconds between two looks of the service at everything."""
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def make_namespace(cluster: Cluster, name: str = "") -> str:
    """A namespace that enforces Pod Security "restricted", with the service's own Role and nothing more."""
    name = name or f"test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    _grant(cluster, name, ROLE)
    eventually(lambda: bool(cluster.request("GET", f"/api/v1/namespaces/{name}/serviceaccounts")["items"]), within=30)
    eventually(lambda: may(cluster, name, "watch", "pods"), within=30)
    return name


def grant_access(cluster: Cluster, namespace: str) -> None:
    """The optional rights of the service to work in pods."""
    _grant(cluster, namespace, ACCESS)
    eventually(lambda: may(cluster, namespace, "create", "pods/exec"), within=30)


def grant_adoption(cluster: Cluster, namespace: str) -> None:
    """The rights of the service to adopt what a former system made."""
    _grant(cluster, namespace, ADOPTION)
    eventually(lambda: may(cluster, namespace, "patch", "pods"), within=30)


def grant_resize(cluster: Cluster, namespace: str) -> None:
    """The optional right of the service to give pods that run other CPU and memory."""
    _grant(cluster, namespace, RESIZE)
    eventually(lambda: may(cluster, namespace, "patch", "pods/resize"), within=30)


def grant_snapshots(cluster: Cluster, namespace: str) -> None:
    """The optional rights of the service to take snapshots, and to verify them."""
    _grant(cluster, namespace, SNAPSHOTS)
    _grant(cluster, namespace, VERIFICATION)
    eventually(lambda: may(cluster, namespace, "create", "volumesnapshots", "snapshot.storage.k8s.io"), within=30)
    eventually(lambda: may(cluster, namespace, "create", "pods"), within=30)


def _grant(cluster: Cluster, namespace: str, file: Path) -> None:
    role = yaml.safe_load(file.read_text())
    name = role["metadata"]["name"]
    cluster.request("POST", f"{RBAC}/namespaces/{namespace}/roles", role)
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "User", "name": "sandbox-service", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    cluster.request("POST", f"{RBAC}/namespaces/{namespace}/rolebindings", binding)


@contextlib.contextmanager
def namespace_rights(cluster: Cluster, name: str) -> Iterator[None]:
    """The optional right of the service to get the namespace."""
    role = yaml.safe_load((DEPLOY / "namespaces.yaml").read_text())
    role["metadata"]["name"] = name
    (rule,) = role["rules"]
    rule["resourceNames"] = [name]
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "User", "name": "sandbox-service", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    cluster.request("POST", f"{RBAC}/clusterroles", role)
    cluster.request("POST", f"{RBAC}/clusterrolebindings", binding)
    try:
        what = {"namespace": name, "verb": "get", "resource": "namespaces", "name": name}
        review = {"spec": {"user": "sandbox-service", "resourceAttributes": what}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        eventually(lambda: cluster.request("POST", path, review)["status"]["allowed"], within=30)
        yield
    finally:
        cluster.request("DELETE", f"{RBAC}/clusterrolebindings/{name}")
        cluster.request("DELETE", f"{RBAC}/clusterroles/{name}")


def may(cluster: Cluster, namespace: str, verb: str, resource: str, group: str = "") -> bool:
    """Whether the API server lets the service do so: a Role is in force a moment after it is written."""
    resource, _, part = resource.partition("/")
    what = {"namespace": namespace, "verb": verb, "resource": resource, "subresource": part, "group": group}
    review = {"spec": {"user": "sandbox-service", "resourceAttributes": what}}
    answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


class KubernetesGround:
    """A namespace of the control plane: a new one, or `namespace`."""

    def __init__(self, cluster: Cluster, node: Node, folder: Path, namespace: str = "") -> None:
        self.cluster = cluster
        self.node = node
        self.namespace = namespace or make_namespace(cluster)
        kubeconfig = cluster.kubeconfig(folder / "kubeconfig", SERVICE)
        self.settings = Settings(engine="kubernetes", kubeconfig=kubeconfig, namespaces=self.namespace)

    def spec(self) -> SandboxSpec:
        return samples.spec()

    async def crash(self, sandbox: Sandbox) -> None:
        self.node.behave(self.namespace, f"{sandbox.id}-0", "crash-loop")

    async def heal(self, sandbox: Sandbox) -> None:
        self.node.behave(self.namespace, f"{sandbox.id}-0", "run")

    def path(self, resource: str, name: str = "", group: str = "api/v1") -> str:
        return f"/{group}/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def names(self, resource: str, group: str = "api/v1") -> list[str]:
        listed = self.cluster.request("GET", self.path(resource, group=group))
        return sorted(one["metadata"]["name"] for one in listed["items"])


@contextlib.asynccontextmanager
async def started(rig: Rig) -> AsyncIterator[Rig]:
    """A rig that runs, and what it made is gone afterwards."""
    await rig.start()
    try:
        yield rig
    finally:
        for sandbox in rig.feed.catalogue.sandboxes():
            await rig.delete(sandbox.id)
        async with asyncio.timeout(60 * PATIENCE):
            while rig.feed.catalogue.sandboxes():
                await asyncio.sleep(0.05)
        await rig.stop()
