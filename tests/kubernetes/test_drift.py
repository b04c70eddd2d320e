"""Rows 22 and 23 for every object that the service applies: what somebody removes or edits is put back, and costs no
more writes than that; what somebody adds is left alone."""

import asyncio
import time
import urllib.error
from typing import Any

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes.ground import KubernetesGround
from tests.support.rig import Rig
from tests.support.waiting import PATIENCE

A = "drift-a"
POD = f"{A}-0"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPS, NETWORK, CORE = "apis/apps/v1", "apis/networking.k8s.io/v1", "api/v1"
WITHIN = 20.0 * PATIENCE
"""Seconds. Before the next resync, which would put it back as well."""
ONE_APPLY = 5

WATCHED = [
    ("services", f"{A}-service", CORE, {"spec": {"publishNotReadyAddresses": False}}),
    ("ingresses", f"{A}-app-ingress", NETWORK, {"spec": {"ingressClassName": "theirs"}}),
    ("ingresses", f"{A}-ttyd-ingress", NETWORK, {"metadata": {"labels": {"app": "theirs"}}}),
    ("statefulsets", A, APPS, {"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": None}}}),
]


class Cluster:
    def __init__(self, rig: Rig, ground: KubernetesGround) -> None:
        self.rig = rig
        self.ground = ground

    async def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """None for what is not there."""
        try:
            return await asyncio.to_thread(lambda: self.ground.cluster.request(method, path, body, kind=kind))
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    async def running(self) -> None:
        await self.rig.create(A)
        await self.rig.settled(A, Phase.RUNNING)

    async def writes(self, least: int = 0) -> int:
        """How many there were, once they have stopped, and not before there were `least`: the audit log is told after the call.

        Where the controller had just changed the StatefulSet, the write to it, the last of an apply, is refused for its
        version, and the apply is made once more: that counts as one.
        """
        count, before = 0, -1
        sets: list[dict[str, Any]] = []
        # After a refusal comes the apply that repeats it.
        end = time.monotonic() + WITHIN
        while (
            (count < least and time.monotonic() < end)
            or count != before
            or (sets and sets[-1]["responseStatus"]["code"] == 409)
        ):
            await asyncio.sleep(0.7)
            ours = self.ground.cluster.audited(self.ground.namespace)
            # A dry run asks whether the namespace is going, and writes nothing.
            writes = [one for one in ours if one["verb"] not in ("get", "list", "watch")]
            writes = [one for one in writes if "dryRun=All" not in one["requestURI"]]
            sets = [one for one in writes if one["objectRef"]["resource"] == "statefulsets"]
            refused = [one for one in sets if one["responseStatus"]["code"] == 409]
            before, count = count, len(writes) - ONE_APPLY * len(refused)
        return count

    async def put_back(self, path: str, *but: str) -> dict[str, Any]:
        """The object once it is as the service wants it: one that is there, is not of the uids, and has its fields."""
        async with asyncio.timeout(WITHIN):
            while True:
                found = await self.request("GET", path)
                if found and found["metadata"]["uid"] not in but and owned(found):
                    return dict(found)
                await asyncio.sleep(0.02)


def owned(found: dict[str, Any]) -> set[str]:
    """The fields that the service owns, as far as WATCHED edits them; empty if it has lost one."""
    (ours,) = [one for one in found["metadata"]["managedFields"] if one["operation"] == "Apply"] or [{"fieldsV1": {}}]
    spec = set(ours["fieldsV1"].get("f:spec", {})) & {
        "f:publishNotReadyAddresses",
        "f:ingressClassName",
        "f:updateStrategy",
    }
    labels = set(ours["fieldsV1"].get("f:metadata", {}).get("f:labels", {})) & {"f:app"}
    return spec | labels if spec and labels else set()


@pytest.fixture
async def cluster_of(rig: Rig, ground: KubernetesGround) -> Cluster:
    return Cluster(rig, ground)


@pytest.mark.fault(22)
@pytest.mark.fault(23)
@pytest.mark.parametrize(("resource", "name", "group", "edit"), WATCHED, ids=[one[1] for one in WATCHED])
async def test_22_23_what_is_removed_or_edited_is_put_back_once(
    cluster_of: Cluster, resource: str, name: str, group: str, edit: dict[str, Any]
) -> None:
    await cluster_of.running()
    path = cluster_of.ground.path(resource, name, group)
    before = await cluster_of.writes()

    uid = (await cluster_of.request("GET", path))["metadata"]["uid"]
    await cluster_of.request("DELETE", path)
    made = await cluster_of.put_back(path, uid)
    assert made["metadata"]["uid"] != uid
    await cluster_of.rig.settled(A, Phase.RUNNING)
    after = await cluster_of.writes(before + ONE_APPLY)
    # The Secret goes with its Service: where it has gone already, the write to it finds none, and it is made again.
    assert after - before in ((ONE_APPLY, ONE_APPLY + 1) if resource == "services" else (ONE_APPLY,))

    edited = await cluster_of.request("PATCH", path, edit, MERGE)
    assert not owned(edited)
    await cluster_of.put_back(path)
    await cluster_of.rig.settled(A, Phase.RUNNING)
    assert await cluster_of.writes(after + ONE_APPLY) - after == ONE_APPLY


@pytest.mark.fault(22)
async def test_22_what_others_add_is_kept_and_costs_nothing(cluster_of: Cluster) -> None:
    await cluster_of.running()
    before = await cluster_of.writes()
    theirs = {"metadata": {"annotations": {"example.com/theirs": "kept"}}}
    for resource, name, group, _ in WATCHED:
        await cluster_of.request("PATCH", cluster_of.ground.path(resource, name, group), theirs, MERGE)
    assert await cluster_of.writes() == before
    await cluster_of.rig.env(A, A="1")
    await cluster_of.rig.settled(A, Phase.RUNNING)
    # And the removal of the former Secret.
    assert await cluster_of.writes(before + ONE_APPLY + 1) - before == ONE_APPLY + 1
    for resource, name, group, _ in WATCHED:
        found = await cluster_of.request("GET", cluster_of.ground.path(resource, name, group))
        assert found["metadata"]["annotations"]["example.com/theirs"] == "kept"


@pytest.mark.fault(23)
async def test_23_a_restart_of_the_service_sees_what_was_removed_meanwhile_and_else_writes_nothing(
    cluster_of: Cluster,
) -> None:
    await cluster_of.running()
    before = await cluster_of.writes()
    await cluster_of.rig.restart()
    await cluster_of.rig.settled(A, Phase.RUNNING)
    assert await cluster_of.writes() == before
    await cluster_of.rig.stop()
    path = cluster_of.ground.path("services", f"{A}-service")
    uid = (await cluster_of.request("GET", path))["metadata"]["uid"]
    await cluster_of.request("DELETE", path)
    await cluster_of.rig.start()
    await cluster_of.put_back(path, uid)


@pytest.mark.fault(23)
async def test_23_a_secret_that_the_kubelet_misses_is_made_again_without_a_hot_loop(cluster_of: Cluster) -> None:
    await cluster_of.running()
    before = await cluster_of.writes()
    secret = cluster_of.ground.path("secrets", f"{A}-env-1")
    await cluster_of.request("DELETE", secret)
    # In the kubelet's words, which a simulated node has not.
    said = {"reason": "CreateContainerConfigError", "message": f'secret "{A}-env-1" not found'}
    container = {"name": "sandbox", "ready": False, "state": {"waiting": said, "running": None}}
    conditions = [
        {"type": one, "status": "False", "reason": "ContainersNotReady"} for one in ("Ready", "ContainersReady")
    ]
    status = {"status": {"containerStatuses": [container], "conditions": conditions}}
    await cluster_of.request("PATCH", cluster_of.ground.path("pods", POD) + "/status", status, STRATEGIC)
    await cluster_of.rig.until(A, lambda one: one.status.message == said["message"])
    assert (await cluster_of.rig.get(A)).status.reason is Reason.CONTAINER_CREATING
    async with asyncio.timeout(WITHIN):
        while await cluster_of.request("GET", secret) is None:
            await asyncio.sleep(0.02)
    # The Secret that was remembered is asked for first.
    before += 1
    for number in range(10):
        theirs = {"metadata": {"annotations": {"example.com/count": str(number)}}}
        await cluster_of.request("PATCH", cluster_of.ground.path("pods", POD), theirs, MERGE)
    assert await cluster_of.writes(before + ONE_APPLY) - before == ONE_APPLY
    cluster_of.ground.node.behave(cluster_of.ground.namespace, POD, "run")
    await cluster_of.rig.settled(A, Phase.RUNNING)
    assert await cluster_of.writes(before + ONE_APPLY) - before == ONE_APPLY
