"""The rights of SandboxAccess on a real control plane."""

import asyncio
from pathlib import Path

import grpc
import pytest
import yaml
from sandbox.v1 import access_pb2 as pb
from sandbox_server.domain.phase import Phase
from sandbox_server.engines.kubernetes import rights

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.ground import DEPLOY, RBAC, KubernetesGround, grant_access, may
from tests.support.rig import Rig
from tests.support.waiting import eventually
from tests.support.working import Worker, refusal

A = "access-a"


async def refused(worker: Worker) -> set[tuple[str, str]]:
    """How each method that needs the right is refused."""
    one = pb.Exec(exec_id="a")
    calls = (
        worker.shell("true", exec_id="a"),
        worker.get(one),
        worker.wait(one),
        worker.ids(),
        worker.signal(one, "TERM"),
        worker.follow(one),
        worker.write(one, (0, b"a")),
    )
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, grpc.RpcError) for error in found), found
    return {refusal(error)[:2] for error in found if isinstance(error, grpc.RpcError)}


@pytest.mark.fault(93)
async def test_without_the_role_every_method_says_so_and_the_rest_of_the_service_is_as_before(
    rig: Rig, ground: KubernetesGround
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING, 60)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        worker = Worker(channel, A, ground.namespace)
        assert await refused(worker) == {("FAILED_PRECONDITION", "ACCESS_NOT_GRANTED")}
        await rig.env(A, MORE="1")
        await rig.settled(A, Phase.RUNNING, 60)
        for phase in (Phase.STOPPED, Phase.RUNNING):
            await rig.begin(A, phase)
            await rig.settled(A, phase, 60)
        assert {one.status.phase for one in rig.history} & {Phase.ERROR} == set()
        await asyncio.to_thread(grant_access, ground.cluster, ground.namespace)
        assert ("FAILED_PRECONDITION", "ACCESS_NOT_GRANTED") not in await refused(worker)


@pytest.mark.parametrize("verb", rights.ACCESS["pods/exec"])
async def test_each_verb_of_an_exec_is_needed(rig: Rig, ground: KubernetesGround, cluster: Cluster, verb: str) -> None:
    version = cluster.request("GET", "/version")["gitVersion"]
    if verb == "create" and version.startswith("v1.34."):
        pytest.skip("it is asked for since 1.35")
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING, 60)
    await asyncio.to_thread(grant_access, cluster, ground.namespace)
    rules = [
        {"apiGroups": [""], "resources": [resource], "verbs": [one]}
        for resource, verbs in rights.ACCESS.items()
        for one in verbs
        if (resource, one) != ("pods/exec", verb)
    ]
    path = f"{RBAC}/namespaces/{ground.namespace}/roles/sandbox-service-access"
    await asyncio.to_thread(_replace, cluster, path, rules)
    await asyncio.to_thread(eventually, lambda: not may(cluster, ground.namespace, verb, "pods/exec"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        worker = Worker(channel, A, ground.namespace)
        assert await refused(worker) == {("FAILED_PRECONDITION", "ACCESS_NOT_GRANTED")}


def _replace(cluster: Cluster, path: str, rules: list[dict[str, list[str]]]) -> None:
    cluster.request("PATCH", path, {"rules": rules}, kind="application/merge-patch+json")


def test_the_role_has_no_wildcard_and_is_for_pods_alone() -> None:
    rules = yaml.safe_load(Path(DEPLOY, "access.yaml").read_text())["rules"]
    assert {one.partition("/")[0] for rule in rules for one in rule["resources"]} == {"pods"}
    assert not any("*" in verb for rule in rules for verb in rule["verbs"])
