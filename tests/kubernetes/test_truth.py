"""For each cause, on a real API server: the phase, the reason and the words, and how soon they are told."""

import asyncio
import time
import urllib.error
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_server.domain.sandbox import ConditionType, Phase, Reason, Sandbox, Storage

from tests import samples
from tests.contract.rig import Rig
from tests.kubernetes.conftest import KubernetesGround
from tests.kubernetes.node import NAME

A = "truth-a"
POD = f"{A}-0"
CLAIM = f"vn-homevn-agent-{A}-0"
MERGE = "application/merge-patch+json"
APPS = "apis/apps/v1"
SOON = 1.0
"""Seconds between the API server showing a cause and the status telling it."""

TABLE: list[tuple[str, str, str, str]] = []


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Prints what was found."""
    yield
    print("\n| cause | phase | reason | told after |\n|---|---|---|---|")
    for row in TABLE:
        print(f"| {' | '.join(row)} |")


class Truth:
    """A rig, and the administrator's view of the cluster beside it."""

    def __init__(self, rig: Rig, ground: KubernetesGround) -> None:
        self.rig = rig
        self.ground = ground

    async def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        return await asyncio.to_thread(lambda: self.ground.cluster.request(method, path, body, kind=kind))

    async def shown(self, path: str, holds: Callable[[dict[str, Any]], bool]) -> float:
        """When the API server showed that `holds` of an object; an empty one stands for none."""
        async with asyncio.timeout(40):
            while True:
                try:
                    found = await self.request("GET", path)
                except urllib.error.HTTPError as error:
                    if error.code != 404:
                        raise
                    found = {}
                if holds(found):
                    return time.monotonic()
                await asyncio.sleep(0.01)

    async def told(self, cause: str, phase: Phase, reason: Reason, shown: float | None = None) -> Sandbox:
        """The sandbox once it says so, soon enough after the API server did."""
        sandbox = await self.rig.until(
            A, lambda one: (one.status.phase, one.status.reason) == (phase, reason), within=45
        )
        late = max(0.0, time.monotonic() - shown) if shown else 0.0
        TABLE.append((cause, phase.name, reason.name, f"{late * 1000:.0f} ms" if shown else "not timed"))
        assert late < SOON
        return sandbox

    async def running(self) -> Sandbox:
        await self.rig.create(A)
        return await self.rig.settled(A, Phase.RUNNING)


@pytest.fixture
async def truth(rig: Rig, ground: KubernetesGround) -> AsyncIterator[Truth]:
    yield Truth(rig, ground)
    ground.node.behave(ground.namespace, POD, "run")


def waiting(reason: str) -> Callable[[dict[str, Any]], bool]:
    def holds(pod: dict[str, Any]) -> bool:
        containers = pod.get("status", {}).get("containerStatuses", [{}])
        return bool(containers[0].get("state", {}).get("waiting", {}).get("reason") == reason)

    return holds


@pytest.mark.parametrize(
    ("row", "behaviour", "shows", "reason", "code"),
    [
        (27, "image-pull", "ImagePullBackOff", Reason.IMAGE_PULL, None),
        (27, "image-invalid", "InvalidImageName", Reason.IMAGE_INVALID, None),
        (29, "crash-loop", "CrashLoopBackOff", Reason.CRASH_LOOP, 3),
        (30, "out-of-memory", "CrashLoopBackOff", Reason.OUT_OF_MEMORY, 137),
    ],
)
async def test_27_29_30_what_the_kubelet_says(
    truth: Truth, row: int, behaviour: str, shows: str, reason: Reason, code: int | None
) -> None:
    truth.ground.node.behave(truth.ground.namespace, POD, behaviour)
    await truth.rig.create(A)
    shown = await truth.shown(truth.ground.path("pods", POD), waiting(shows))
    failed = await truth.told(f"{row} {behaviour}", Phase.ERROR, reason, shown)
    if code is not None:
        assert failed.status.last_exit is not None
        assert failed.status.last_exit.code == code
        assert str(code) in failed.status.message
        assert failed.status.restart_count == 4
    pulled = {one.type: one.status for one in failed.status.conditions}[ConditionType.IMAGE_PULLED]
    assert pulled is (code is not None)
    truth.ground.node.behave(truth.ground.namespace, POD, "run")
    await truth.rig.settled(A, Phase.RUNNING)


async def test_28_unschedulable_with_the_schedulers_words(truth: Truth) -> None:
    node = f"/api/v1/nodes/{NAME}"
    await truth.request("PATCH", node, {"spec": {"unschedulable": True}}, MERGE)
    try:
        await truth.rig.create(A)

        def holds(pod: dict[str, Any]) -> bool:
            conditions = pod.get("status", {}).get("conditions", [])
            return any(one.get("reason") == "Unschedulable" and "unbound" not in one["message"] for one in conditions)

        shown = await truth.shown(truth.ground.path("pods", POD), holds)
        failed = await truth.told("28 unschedulable", Phase.ERROR, Reason.UNSCHEDULABLE, shown)
        assert "nodes are available" in failed.status.message
    finally:
        await truth.request("PATCH", node, {"spec": {"unschedulable": None}}, MERGE)
    await truth.rig.settled(A, Phase.RUNNING)


async def test_32_quota_and_limits_are_said_and_recovered_from(truth: Truth) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    await truth.request("POST", truth.ground.path("resourcequotas"), quota)
    await truth.shown(truth.ground.path("resourcequotas", "none"), lambda one: "hard" in one.get("status", {}))
    await truth.rig.create(A)
    failed = await truth.told("32 quota exceeded", Phase.ERROR, Reason.QUOTA_EXCEEDED)
    assert "exceeded quota" in failed.status.message
    await truth.request("DELETE", truth.ground.path("resourcequotas", "none"))
    await truth.rig.settled(A, Phase.RUNNING)


async def test_32_what_admission_denies_is_said(truth: Truth) -> None:
    limits = {"limits": [{"type": "Container", "max": {"cpu": "50m"}}]}
    await truth.request("POST", truth.ground.path("limitranges"), {"metadata": {"name": "low"}, "spec": limits})
    await asyncio.sleep(1)
    await truth.rig.create(A)
    failed = await truth.told("32 admission denied", Phase.ERROR, Reason.ADMISSION_DENIED)
    assert "maximum cpu usage" in failed.status.message
    await truth.request("DELETE", truth.ground.path("limitranges", "low"))
    await truth.rig.settled(A, Phase.RUNNING)


async def test_a_volume_that_cannot_be_provisioned_is_said(truth: Truth) -> None:
    await truth.rig.create(A, spec=samples.spec(storage=Storage("1Gi", "no-such-class", "ReadWriteOnce")))
    failed = await truth.told("volume pending", Phase.ERROR, Reason.VOLUME_PENDING)
    assert "no-such-class" in failed.status.message


async def test_25_a_claim_deleted_by_hand_is_data_loss_said_aloud(truth: Truth) -> None:
    before = await truth.running()
    await truth.request("DELETE", truth.ground.path("persistentvolumeclaims", CLAIM))
    shown = await truth.shown(
        truth.ground.path("persistentvolumeclaims", CLAIM), lambda one: "deletionTimestamp" in one.get("metadata", {})
    )
    held = await truth.told("25 claim being deleted", Phase.RUNNING, Reason.VOLUME_TERMINATING, shown)
    bound = {one.type: one.status for one in held.status.conditions}[ConditionType.VOLUME_BOUND]
    assert bound is False
    await truth.request("DELETE", truth.ground.path("pods", POD))
    await truth.told("25 claim gone", Phase.ERROR, Reason.VOLUME_LOST)
    await asyncio.sleep(1)
    assert truth.ground.names("pods") == []
    await truth.rig.manager.start(truth.rig.tenant, truth.rig.wish(), truth.rig.key(A), True)
    after = await truth.rig.settled(A, Phase.RUNNING)
    assert after.volume_uid != before.volume_uid


async def test_26_a_claim_that_is_stuck_keeps_delete_terminating(truth: Truth) -> None:
    await truth.running()
    path = truth.ground.path("persistentvolumeclaims", CLAIM)
    await truth.request("PATCH", path, {"metadata": {"finalizers": ["example.com/hold"]}}, MERGE)
    await truth.rig.delete(A)
    await truth.told("26 claim stuck terminating", Phase.TERMINATING, Reason.VOLUME_TERMINATING)
    await asyncio.sleep(1)
    assert (await truth.rig.get(A)).status.phase is Phase.TERMINATING
    await truth.request("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
    await truth.rig.settled(A, Phase.TERMINATED)


async def test_23_a_stateful_set_deleted_by_hand_comes_back_on_the_same_claim(truth: Truth) -> None:
    before = await truth.running()
    path = truth.ground.path("statefulsets", A, APPS)
    uid = (await truth.request("GET", path))["metadata"]["uid"]
    await truth.request("DELETE", path)
    await truth.shown(path, lambda one: one.get("metadata", {}).get("uid", uid) != uid)
    after = await truth.told("23 StatefulSet deleted", Phase.RUNNING, Reason.READY)
    after = await truth.rig.settled(A, Phase.RUNNING)
    volume = truth.rig.observe(after).volume
    assert volume is not None
    assert volume.uid == before.volume_uid


async def test_22_an_edited_stateful_set_is_put_back_and_foreign_annotations_are_kept(truth: Truth) -> None:
    await truth.running()
    path = truth.ground.path("statefulsets", A, APPS)
    foreign = {"metadata": {"annotations": {"example.com/theirs": "kept"}}}
    await truth.request("PATCH", path, foreign | {"spec": {"replicas": 3, "minReadySeconds": 1}}, MERGE)
    after = await truth.shown(path, lambda one: one["spec"]["replicas"] == 1)
    assert after
    found = await truth.request("GET", path)
    assert found["metadata"]["annotations"]["example.com/theirs"] == "kept"
    await truth.rig.settled(A, Phase.RUNNING)


async def test_24_a_stranger_of_our_name_is_left_alone(truth: Truth) -> None:
    theirs = {"metadata": {"name": f"{A}-env"}, "stringData": {"theirs": "1"}}
    made = await truth.request("POST", truth.ground.path("secrets"), theirs)
    await truth.rig.create(A)
    await truth.told("24 stranger of our name", Phase.ERROR, Reason.NAME_CONFLICT)
    found = await truth.request("GET", truth.ground.path("secrets", f"{A}-env"))
    assert found == made
    assert truth.ground.names("services") == []
    await truth.request("DELETE", truth.ground.path("secrets", f"{A}-env"))
    await truth.rig.settled(A, Phase.RUNNING)


async def test_31_a_lost_node_is_said_and_recovered_from_without_force(truth: Truth) -> None:
    await truth.running()
    uid = (await truth.request("GET", truth.ground.path("pods", POD)))["metadata"]["uid"]
    truth.ground.node.alive = False
    try:

        def holds(pod: dict[str, Any]) -> bool:
            return any(one["type"] == "Ready" and one["status"] != "True" for one in pod["status"]["conditions"])

        shown = await truth.shown(truth.ground.path("pods", POD), holds)
        await truth.told("31 node lost", Phase.ERROR, Reason.NODE_LOST, shown)
    finally:
        truth.ground.node.alive = True
    await truth.rig.settled(A, Phase.RUNNING)
    assert (await truth.request("GET", truth.ground.path("pods", POD)))["metadata"]["uid"] == uid


async def test_33_a_missing_right_is_said_and_recovered_from(truth: Truth) -> None:
    path = truth.ground.path("roles", "sandbox-service", "apis/rbac.authorization.k8s.io/v1")
    role = await truth.request("GET", path)
    less = [one for one in role["rules"] if "secrets" not in one["resources"]]
    await truth.request("PATCH", path, {"rules": less}, MERGE)
    await asyncio.sleep(0.5)
    await truth.rig.create(A)
    failed = await truth.told("33 right missing", Phase.ERROR, Reason.CLUSTER_FORBIDDEN)
    assert "secrets" in failed.status.message
    await truth.request("PATCH", path, {"rules": role["rules"]}, MERGE)
    await truth.rig.settled(A, Phase.RUNNING)


async def test_the_start_deadline_is_said(ground: KubernetesGround, tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    rig = Rig(ground, tmp_path / "late", start_deadline=1.5)
    ground.node.behave(ground.namespace, POD, "never-ready")
    await rig.start()
    try:
        truth = Truth(rig, ground)
        await rig.create(A)
        await truth.told("start deadline passed", Phase.ERROR, Reason.START_DEADLINE)
        ground.node.behave(ground.namespace, POD, "run")
        await rig.settled(A, Phase.RUNNING)
        await rig.delete(A)
        await rig.settled(A, Phase.TERMINATED)
    finally:
        await rig.stop()


async def test_18_the_api_server_killed_and_back(truth: Truth) -> None:
    await truth.running()
    cluster = truth.ground.cluster
    cluster.kill("kube-apiserver")
    await asyncio.sleep(4)
    assert truth.rig.manager.stale
    await truth.rig.begin(A, Phase.STOPPED)
    cluster.run("kube-apiserver")
    await asyncio.to_thread(cluster.wait)
    await truth.rig.settled(A, Phase.STOPPED)
    assert not truth.rig.manager.stale
    truth.rig.check_history()


async def test_etcd_stopped_and_back(truth: Truth) -> None:
    await truth.running()
    truth.ground.cluster.pause("etcd")
    await truth.rig.begin(A, Phase.STOPPED)
    await asyncio.sleep(3)
    truth.ground.cluster.resume("etcd")
    await truth.rig.settled(A, Phase.STOPPED)
    truth.rig.check_history()
