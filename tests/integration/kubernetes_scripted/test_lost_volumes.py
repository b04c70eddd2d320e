"""The Kubernetes engine and claims whose volume was removed."""

import asyncio

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.contract.rig import Rig
from tests.contract.suite import A
from tests.integration.kubernetes_scripted.api import ScriptedApi
from tests.integration.kubernetes_scripted.test_faults import CLAIMS, SETS, rig, writes

__all__ = ["rig"]
CLAIM = f"vn-homevn-agent-{A}-0"


def lose(api: ScriptedApi) -> None:
    """What the volume controller does when the bound volume is removed."""
    claim = api.objects[CLAIMS][CLAIM]
    api.put(CLAIMS, claim | {"status": claim["status"] | {"phase": "Lost"}})


@pytest.mark.find(5)
@pytest.mark.parametrize("stopped", [False, True])
async def test_a_lost_volume_is_reported_and_replaced_only_with_consent(
    rig: Rig, api: ScriptedApi, stopped: bool
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    if stopped:
        await rig.begin(A, Phase.STOPPED)
        await rig.settled(A, Phase.STOPPED)
    uid = api.objects[CLAIMS][CLAIM]["metadata"]["uid"]
    lose(api)
    failed = await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST, within=3)
    assert failed.status.phase is Phase.ERROR
    assert failed.status.volume is not None
    assert not failed.status.volume.bound
    await asyncio.sleep(0.3)
    assert api.objects[CLAIMS][CLAIM]["metadata"]["uid"] == uid
    await rig.manager.start(rig.wish(A), accept_data_loss=True)
    await rig.settled(A, Phase.RUNNING)
    assert api.objects[CLAIMS][CLAIM]["metadata"]["uid"] != uid
    assert ("DELETE", CLAIM) in writes(api)


@pytest.mark.find(5)
async def test_a_volume_that_comes_back_is_the_disk_again(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    uid = api.objects[CLAIMS][CLAIM]["metadata"]["uid"]
    lose(api)
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST, within=3)
    api.put(CLAIMS, api.objects[CLAIMS][CLAIM] | {"status": {"phase": "Bound", "capacity": {"storage": "5Gi"}}})
    await rig.settled(A, Phase.RUNNING)
    assert api.objects[CLAIMS][CLAIM]["metadata"]["uid"] == uid
    assert api.objects[SETS][A]["spec"]["replicas"] == 1
