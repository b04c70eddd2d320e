"""One control plane and one simulated node for the whole session, a namespace of its own for each test."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml
from sandbox_server import engines
from sandbox_server.domain.sandbox import Sandbox, SandboxSpec
from sandbox_server.engines import kubernetes

from tests import samples
from tests.contract.rig import Rig
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.node import Node

SERVICE = "service-token-for-tests"
ROLE = Path(__file__).parents[2] / "deploy" / "role.yaml"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
async def node(cluster: Cluster) -> AsyncIterator[Node]:
    async with Node(cluster) as made:
        yield made


def make_namespace(cluster: Cluster) -> str:
    """A namespace that enforces Pod Security "restricted", with the service's own Role and nothing more."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    role = yaml.safe_load(ROLE.read_text())
    cluster.request("POST", f"{RBAC}/namespaces/{name}/roles", role)
    binding = {
        "metadata": {"name": "sandbox-service"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]},
        "subjects": [{"kind": "User", "name": "sandbox-service", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    cluster.request("POST", f"{RBAC}/namespaces/{name}/rolebindings", binding)
    return name


class KubernetesGround:
    """A namespace of the control plane."""

    def __init__(self, cluster: Cluster, node: Node, folder: Path) -> None:
        self.cluster = cluster
        self.node = node
        self.namespace = make_namespace(cluster)
        self.config = kubernetes.Config(
            kubeconfig=cluster.kubeconfig(folder / "kubeconfig", SERVICE), namespaces=(self.namespace,)
        )

    def engine(self) -> engines.Engine:
        return kubernetes.KubernetesEngine(self.config)

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


@pytest.fixture
async def ground(cluster: Cluster, node: Node, tmp_path: Path) -> KubernetesGround:
    return KubernetesGround(cluster, node, tmp_path)


@pytest.fixture
async def rig(ground: KubernetesGround, tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(ground, tmp_path)
    await made.start()
    try:
        yield made
    finally:
        for sandbox in list(made.feed.live()):
            await made.delete(sandbox.id)
        async with asyncio.timeout(30):
            while list(made.feed.live()):
                await asyncio.sleep(0.05)
        await made.stop()
