"""What becomes of the disk and of what stands beside it, touched by hand: what is told, and what is put back."""

import asyncio
import time

import pytest
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.spec import Storage

from tests.kubernetes.node import MERGE
from tests.kubernetes.truth import ALL_WELL, APPS, CLAIM, POD, A, Truth, conditions, no_pod
from tests.kubernetes.witness import condition, deleted, event, going
from tests.support import samples


async def test_a_volume_that_cannot_be_provisioned_is_said(truth: Truth) -> None:
    await truth.rig.create(A, spec=samples.spec(storage=Storage("1Gi", "no-such-class", "ReadWriteOnce")))
    shown = await truth.shown("events", event("ProvisioningFailed", "no-such-class"))
    seen = no_pod(Reason.VOLUME_PENDING)
    words = 'storageclass.storage.k8s.io "no-such-class" not found'
    await truth.told("volume cannot be provisioned", Phase.ERROR, Reason.VOLUME_PENDING, words, seen, shown)


@pytest.mark.fault(25)
async def test_25_a_claim_deleted_by_hand_is_data_loss_said_aloud(truth: Truth) -> None:
    before = await truth.running()
    await truth.request("DELETE", truth.ground.path("persistentvolumeclaims", CLAIM))
    shown = await truth.shown("persistentvolumeclaims", going)
    seen = "+ -VOLUME_TERMINATING + + +"
    words = "save your work now"
    await truth.told(
        "claim deleted by hand, the pod still holds it", Phase.RUNNING, Reason.VOLUME_TERMINATING, words, seen, shown
    )
    await truth.request("DELETE", truth.ground.path("pods", POD))
    shown = await truth.shown("persistentvolumeclaims", deleted)
    seen = no_pod(Reason.VOLUME_LOST, "-VOLUME_LOST")
    await truth.told("claim gone", Phase.ERROR, Reason.VOLUME_LOST, "accept_data_loss", seen, shown)
    await asyncio.sleep(1)
    assert truth.ground.names("pods") == []
    await truth.rig.manager.start(truth.rig.mutation(A), True)
    after = await truth.rig.settled(A, Phase.RUNNING)
    assert after.volume_uid != before.volume_uid


@pytest.mark.fault(57)
@pytest.mark.find(5)
async def test_a_claim_whose_volume_was_deleted_is_a_lost_disk_under_a_running_pod(truth: Truth) -> None:
    before = await truth.running()
    claim = await truth.request("GET", truth.ground.path("persistentvolumeclaims", CLAIM))
    volume = f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}"
    since = time.monotonic()
    await truth.request("DELETE", volume)
    # It is protected while a claim is bound to it: who deletes it has to mean it.
    await truth.request("PATCH", volume, {"metadata": {"finalizers": None}}, MERGE)
    shown = await truth.shown(
        "persistentvolumeclaims", lambda one: one.value.get("status", {}).get("phase") == "Lost", since
    )
    seen = "+ -VOLUME_LOST + + +"
    lost = await truth.told(
        "volume of the claim deleted, the pod runs", Phase.ERROR, Reason.VOLUME_LOST, "accept_data_loss", seen, shown
    )
    assert lost.status.volume is not None
    assert not lost.status.volume.bound
    await truth.rig.manager.start(truth.rig.mutation(A), True)
    after = await truth.rig.settled(A, Phase.RUNNING)
    assert after.volume_uid != before.volume_uid


@pytest.mark.fault(26)
async def test_26_a_claim_that_is_stuck_keeps_delete_terminating(truth: Truth) -> None:
    await truth.running()
    path = truth.ground.path("persistentvolumeclaims", CLAIM)
    await truth.request("PATCH", path, {"metadata": {"finalizers": ["example.com/hold"]}}, MERGE)
    await truth.rig.delete(A)
    shown = max([await truth.shown(one, deleted) for one in ("pods", "statefulsets")])
    reason = Reason.VOLUME_TERMINATING
    seen = no_pod(reason, f"-{reason.name}")
    words = f"the volume is being removed; the claim {CLAIM} has the finalizers: example.com/hold"
    await truth.told("claim stuck during Delete", Phase.TERMINATING, reason, words, seen, shown)
    await asyncio.sleep(1)
    assert (await truth.rig.get(A)).status.phase is Phase.TERMINATING
    await truth.request("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
    await truth.rig.settled(A, Phase.TERMINATED)


@pytest.mark.fault(23)
async def test_23_a_stateful_set_deleted_by_hand_comes_back_on_the_same_claim(truth: Truth) -> None:
    before = await truth.running()
    await truth.request("DELETE", truth.ground.path("statefulsets", A, APPS))
    gone = await truth.shown("statefulsets", deleted)
    back = await truth.shown("statefulsets", lambda sight: sight.type == "ADDED", gone)
    truth.keep("StatefulSet deleted by hand: put back", Phase.RUNNING, Reason.READY, back - gone)
    shown = await truth.shown("pods", condition("Ready", "True"), await truth.shown("pods", deleted))
    words = "the pod is ready"
    after = await truth.told("... and its new pod ready", Phase.RUNNING, Reason.READY, words, ALL_WELL, shown, shown)
    volume = truth.rig.observe(after).volume
    assert volume is not None
    assert volume.uid == before.volume_uid


@pytest.mark.fault(22)
async def test_22_an_edited_stateful_set_is_put_back_and_foreign_annotations_are_kept(truth: Truth) -> None:
    await truth.running()
    path = truth.ground.path("statefulsets", A, APPS)
    foreign = {"metadata": {"annotations": {"example.com/theirs": "kept"}}}
    await truth.request("PATCH", path, foreign | {"spec": {"replicas": 3, "minReadySeconds": 1}}, MERGE)
    edited = await truth.shown("statefulsets", lambda sight: sight.value["spec"]["replicas"] == 3)
    back = await truth.shown("statefulsets", lambda sight: sight.value["spec"]["replicas"] == 1, edited)
    truth.keep("StatefulSet edited by hand: put back", Phase.RUNNING, Reason.READY, back - edited)
    found = await truth.request("GET", path)
    assert found["metadata"]["annotations"]["example.com/theirs"] == "kept"
    await truth.rig.settled(A, Phase.RUNNING)
    assert conditions((await truth.rig.get(A)).status) == ALL_WELL
