"""What the operator adds to objects, as the API server has it."""

import time
from pathlib import Path

import pytest
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.settings import Settings

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.ground import KubernetesGround, started
from tests.kubernetes.node import Node
from tests.support import samples
from tests.support.rig import Rig

APPS, NETWORKING = "apis/apps/v1", "apis/networking.k8s.io/v1"
PRIORITY = "/apis/scheduling.k8s.io/v1/priorityclasses"


@pytest.fixture
def ground(cluster: Cluster, node: Node, tmp_path: Path) -> KubernetesGround:
    return KubernetesGround(cluster, node, tmp_path)


def given(ground: KubernetesGround, **chosen: object) -> None:
    ground.settings = Settings.model_validate({**ground.settings.model_dump(), **chosen})


@pytest.mark.find(22)
async def test_pods_and_ingresses_have_what_the_operator_adds(ground: KubernetesGround, tmp_path: Path) -> None:
    priority = {"metadata": {"name": ground.namespace}, "value": 1000}
    ground.cluster.request("POST", PRIORITY, priority)
    given(
        ground,
        ingress_annotations={"nginx.ingress.kubernetes.io/proxy-body-size": "0"},
        tolerations=[{"key": "sandboxes", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
        pull_secrets=("registry", "mirror"),
        priority_class=ground.namespace,
        pod_patch=[
            {"op": "add", "path": "/spec/volumes", "value": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}]},
            {
                "op": "add",
                "path": "/spec/containers/0/volumeMounts/-",
                "value": {"name": "scratch", "mountPath": "/scratch"},
            },
        ],
    )
    async with started(Rig(ground, tmp_path)) as rig:
        spec = samples.spec(labels={"tier": "web"}, annotations={"nginx.org/server-snippets": "kept"})
        await rig.create("added", {"A": "1"}, spec=spec)
        made = await rig.settled("added", Phase.RUNNING)
        pod = ground.cluster.request("GET", ground.path("pods", "added-0"))
        assert pod["spec"]["priority"] == 1000
        assert [one["name"] for one in pod["spec"]["imagePullSecrets"]] == ["registry", "mirror"]
        tolerations = [one for one in pod["spec"]["tolerations"] if one.get("key") == "sandboxes"]
        assert tolerations == [
            {"key": "sandboxes", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
        ]
        mounts = [one["mountPath"] for one in pod["spec"]["containers"][0]["volumeMounts"]]
        assert mounts == ["/home/agent", "/scratch"]
        # An annotation that a sandbox was created with stays where it may be.
        assert pod["metadata"]["annotations"]["nginx.org/server-snippets"] == "kept"
        for name in ("added-app-ingress", "added-ttyd-ingress"):
            ingress = ground.cluster.request("GET", ground.path("ingresses", name, NETWORKING))
            assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"] == "0"
            assert "nginx.org/server-snippets" not in ingress["metadata"]["annotations"]
            assert "tier" not in ingress["metadata"]["labels"]
        service = ground.cluster.request("GET", ground.path("services", "added-service"))
        assert "nginx.org/server-snippets" not in service["metadata"]["annotations"]
        # Changed settings leave what runs alone, and the next generation has them.
        given(ground, pull_secrets=(), pod_patch=(), ingress_annotations={})
        await rig.restart()
        await rig.settled("added", Phase.RUNNING)
        assert (
            ground.cluster.request("GET", ground.path("pods", "added-0"))["metadata"]["uid"] == pod["metadata"]["uid"]
        )
        await rig.env("added", A="2")
        after = await rig.settled("added", Phase.RUNNING)
        assert after.generation == made.generation + 1
        pod = ground.cluster.request("GET", ground.path("pods", "added-0"))
        assert "imagePullSecrets" not in pod["spec"]
        ingress = ground.cluster.request("GET", ground.path("ingresses", "added-app-ingress", NETWORKING))
        assert "nginx.ingress.kubernetes.io/proxy-body-size" not in ingress["metadata"]["annotations"]
    ground.cluster.request("DELETE", f"{PRIORITY}/{ground.namespace}")


@pytest.mark.find(22)
async def test_a_patch_that_fails_one_sandbox_is_its_error_and_blocks_neither_stop_nor_delete(
    ground: KubernetesGround, tmp_path: Path
) -> None:
    # It holds for a sandbox with one port, so that the service starts.
    given(ground, pod_patch=[{"op": "test", "path": "/spec/containers/0/ports/1/name", "value": "ttyd"}])
    async with started(Rig(ground, tmp_path)) as rig:
        ports = (*samples.spec().ports, type(samples.spec().ports[0])("more", 4000))
        await rig.create("unpatched", spec=samples.spec(ports=ports))
        failed = await rig.until("unpatched", lambda one: one.status.phase is Phase.ERROR)
        assert failed.status.reason is Reason.ENGINE_REFUSED
        assert failed.status.message.startswith("pod-patch: operation 0 (test /spec/containers/0/ports/1/name)")
        await rig.begin("unpatched", Phase.STOPPED)
        await rig.settled("unpatched", Phase.STOPPED)
        await rig.delete("unpatched")
        await rig.until("unpatched", lambda one: one.status.phase is Phase.TERMINATED)


@pytest.mark.fault(65)
@pytest.mark.find(15)
async def test_a_shell_that_ignores_sigterm_costs_no_grace_period(ground: KubernetesGround, tmp_path: Path) -> None:
    async with started(Rig(ground, tmp_path)) as rig:
        # Its grace period is longer than what the test waits at the most.
        await rig.create("shell", spec=samples.spec(grace_period_seconds=300))
        await rig.settled("shell", Phase.RUNNING)
        ground.node.behave(ground.namespace, "shell-0", "shell")
        await rig.begin("shell", Phase.STOPPED)
        await rig.settled("shell", Phase.STOPPED)


@pytest.mark.fault(65)
@pytest.mark.find(15)
async def test_a_process_that_takes_its_grace_period_is_waited_for(ground: KubernetesGround, tmp_path: Path) -> None:
    given(ground, share_process_namespace=False)
    async with started(Rig(ground, tmp_path)) as rig:
        await rig.create("slow-end", {"A": "1"}, spec=samples.spec(grace_period_seconds=3))
        await rig.settled("slow-end", Phase.RUNNING)
        ground.node.behave(ground.namespace, "slow-end-0", "shell")
        began = time.monotonic()
        await rig.env("slow-end", A="2")
        waits = "the pod is being replaced: waits for the process to end, at most 3 s"
        await rig.settled("slow-end", Phase.RUNNING)
        assert waits in [one.status.message for one in rig.history]
        assert time.monotonic() - began >= 3
