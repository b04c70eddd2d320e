"""What was checked by hand of the system that this one replaces, in its words, by its callers' way: gRPC.

Each check on Kubernetes and on the local engine, where a real process writes a real file.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient

from tests.kubernetes.ground import KubernetesGround
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

PROJECT = "handover"
NETWORK, APPS = "apis/networking.k8s.io/v1", "apis/apps/v1"
# Notes in its home at each start what its environment says; on a real cluster the image does what it is for.
COMMAND = ["/bin/sh", "-c", 'echo "$GREETING" >> /home/agent/starts; exec sleep 600']


class Handover:
    """A service, a caller, and where to look."""

    def __init__(self, client: AsyncClient, service: Service, ground: KubernetesGround | None) -> None:
        self.client, self.service, self.ground = client, service, ground
        self.answers: list[Any] = []

    def note(self, answer: Any) -> Any:
        self.answers.append(answer)
        return answer

    async def create(self) -> pb.Sandbox:
        made = await self.client.create(PROJECT, env={"GREETING": "hello"}, spec=pb.SandboxSpec(command=COMMAND))
        self.note(made)
        await self.reach(made.sandbox_id, "RUNNING")
        if self.ground is None:
            # One without a probe is RUNNING before it has done anything, and what ends it now may come first.
            eventually(lambda: self.written("hello"))
        return made

    async def reach(self, sandbox_id: str, phase: str, generation: int = 0) -> pb.SandboxStatus:
        status = await self.client.wait_until(sandbox_id, phase, generation=generation, timeout=60 * PATIENCE)
        return self.note(status)  # type: ignore[no-any-return]

    def find(self, resource: str, name: str, group: str = "api/v1") -> dict[str, Any]:
        assert self.ground is not None
        return dict(self.ground.cluster.request("GET", self.ground.path(resource, name, group)))

    def written(self, *lines: str) -> bool:
        """Whether the processes of the one local sandbox wrote these lines."""
        file = self.home() / "starts"
        return file.exists() and file.read_text().split() == list(lines)

    def home(self) -> Path:
        (home,) = self.service.folder.glob("data/sandboxes/*/*/volume/home")
        return home


@pytest.fixture(params=["kubernetes", "local"])
async def handover(
    request: pytest.FixtureRequest, ground: KubernetesGround, make_service: Callable[..., Service]
) -> AsyncIterator[Handover]:
    if request.param == "local":
        service, there = make_service().start(), None
    else:
        flags = ("--kubeconfig", str(ground.settings.kubeconfig), "--namespaces", ground.namespace)
        service, there = make_service("--engine", "kubernetes", *flags).start(), ground
    async with AsyncClient(service.address) as client:
        made = Handover(client, service, there)
        yield made
        for sandbox in [one async for one in client.list()]:
            await client.delete(sandbox.sandbox_id)
            await client.wait_until(sandbox.sandbox_id, "TERMINATED", timeout=60 * PATIENCE)


async def test_create_a_project_sandbox(handover: Handover) -> None:
    made = await handover.create()
    assert made.sandbox_id.startswith(f"{PROJECT}-agentruntime-")
    assert made.spec.project == PROJECT
    listed = [one async for one in handover.client.list(project=PROJECT)]
    assert [one.sandbox_id for one in listed] == [made.sandbox_id]
    if handover.ground is not None:
        found = handover.find("statefulsets", made.sandbox_id, APPS)
        assert found["metadata"]["labels"]["cloud.sealos.io/app-deploy-manager"] == made.sandbox_id
        assert found["metadata"]["labels"]["project.fullstackagent.io/name"] == PROJECT
        assert found["spec"]["replicas"] == 1


async def test_persistent_storage_is_mounted_at_home_agent(handover: Handover) -> None:
    made = await handover.create()
    status = await handover.client.status(made.sandbox_id)
    assert status.volume.bound
    assert status.volume.size == "5Gi"
    if handover.ground is None:
        assert handover.written("hello")
        return
    pod = handover.find("pods", f"{made.sandbox_id}-0")["spec"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert mount["mountPath"] == "/home/agent"
    (claimed,) = [one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if one["name"] == mount["name"]]
    claim = handover.find("persistentvolumeclaims", claimed)
    assert claim["status"]["phase"] == "Bound"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"


async def test_stop_and_start_and_files_persist(handover: Handover) -> None:
    made = await handover.create()
    name = made.sandbox_id
    claim = f"vn-homevn-agent-{name}-0"
    if handover.ground is None:
        (handover.home() / "by-hand.txt").write_text("kept")
    else:
        before = handover.find("persistentvolumeclaims", claim)["metadata"]["uid"]
    handover.note(await handover.client.stop(name))
    await handover.reach(name, "STOPPED")
    if handover.ground is not None:
        assert handover.ground.names("pods") == []
    handover.note(await handover.client.start(name))
    await handover.reach(name, "RUNNING")
    if handover.ground is None:
        assert (handover.home() / "by-hand.txt").read_text() == "kept"
        eventually(lambda: handover.written("hello", "hello"))
    else:
        assert handover.find("persistentvolumeclaims", claim)["metadata"]["uid"] == before


async def test_environment_variables(handover: Handover) -> None:
    made = await handover.create()
    assert list(made.env_names) == ["GREETING"]
    changed = handover.note(await handover.client.update_env(made.sandbox_id, set={"GREETING": "welcome", "B": "2"}))
    await handover.reach(made.sandbox_id, "RUNNING", changed.status.generation)
    assert list((await handover.client.get(made.sandbox_id)).env_names) == ["B", "GREETING"]
    if handover.ground is None:
        eventually(lambda: handover.written("hello", "welcome"))
        return
    container = handover.find("pods", f"{made.sandbox_id}-0")["spec"]["containers"][0]
    secret = f"{made.sandbox_id}-env-{changed.status.generation}"
    assert container["envFrom"] == [{"secretRef": {"name": secret}}]
    assert handover.find("secrets", secret)["data"] == {"B": "Mg==", "GREETING": "d2VsY29tZQ=="}


async def test_every_answer_includes_stateful_set_name(handover: Handover) -> None:
    made = await handover.create()
    name, client = made.sandbox_id, handover.client
    handover.note(await client.update_env(name, set={"A": "1"}))
    handover.note(await client.get(name))
    handover.note(await client.status(name))
    async for one in client.list():
        handover.note(one)
    handover.note(await client.stop(name))
    await handover.reach(name, "STOPPED")
    handover.note(await client.start(name))
    await handover.reach(name, "RUNNING")
    handover.note(await client.delete(name))
    await handover.reach(name, "TERMINATED")
    assert len(handover.answers) >= 10
    for answer in handover.answers:
        assert answer.stateful_set_name == name
        status = answer.status if isinstance(answer, pb.Sandbox) else answer
        assert status.stateful_set_name == name


async def test_ingresses_and_networking_objects_are_right(handover: Handover) -> None:
    made = await handover.create()
    name, urls = made.sandbox_id, (made.public_url, made.ttyd_url)
    if handover.ground is None:
        assert made.public_url.startswith("http://127.0.0.1:")
        return
    assert handover.ground.names("ingresses", NETWORK) == [f"{name}-app-ingress", f"{name}-ttyd-ingress"]
    for kind, url, port in zip(("app", "ttyd"), urls, (3000, 7681), strict=True):
        spec = handover.find("ingresses", f"{name}-{kind}-ingress", NETWORK)["spec"]
        (rule,) = spec["rules"]
        assert url == f"https://{rule['host']}"
        (path,) = rule["http"]["paths"]
        assert path["backend"]["service"] == {"name": made.service_name, "port": {"number": port}}
        assert (path["path"], path["pathType"]) == ("/", "Prefix")
    service = handover.find("services", made.service_name)["spec"]
    pod = handover.find("pods", f"{name}-0")
    assert service["clusterIP"] == "None"
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert {one["port"] for one in service["ports"]} == {3000, 7681}
    status = await handover.client.status(name)
    assert status.dns_name == f"{name}-0.{made.service_name}.{handover.ground.namespace}.svc"
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == (f"{name}-0", made.service_name)
