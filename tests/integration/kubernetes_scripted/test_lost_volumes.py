"""The Kubernetes engine and claims whose volume was removed."""

import asyncio
import copy

import pytest
from aiohttp import web
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.spec import Storage

from tests.support import samples
from tests.support.rig import A, Rig
from tests.support.scripted import CLAIM, CLAIMS, SETS, lose, writes
from tests.support.scripted_api import ScriptedApi, status


@pytest.mark.fault(57)
@pytest.mark.find(5)
@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.slow
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
    await rig.manager.start(rig.mutation(A), accept_data_loss=True)
    await rig.settled(A, Phase.RUNNING)
    assert api.objects[CLAIMS][CLAIM]["metadata"]["uid"] != uid
    assert ("DELETE", CLAIM) in writes(api)


@pytest.mark.fault(57)
@pytest.mark.find(5)
@pytest.mark.slow
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


@pytest.mark.find(19)
@pytest.mark.parametrize("late", [False, True], ids=["remembered", "made just before ours"])
@pytest.mark.slow
async def test_a_placeholder_is_removed_and_never_written_over(rig: Rig, api: ScriptedApi, late: bool) -> None:
    await rig.create(A, spec=samples.spec(storage=Storage("20Gi", "fast", "ReadWriteOncePod")))
    await rig.settled(A, Phase.RUNNING)
    former = api.objects[CLAIMS][CLAIM]["metadata"]["uid"]
    (template,) = copy.deepcopy(api.objects[SETS][A]["spec"]["volumeClaimTemplates"])
    template["metadata"]["name"] = CLAIM
    api.delete(CLAIMS, CLAIM)
    lost = await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST, within=3)

    async def take(_: web.Request) -> None:
        api.put(CLAIMS, template)

    if late:
        api.once(lambda request: request.method == "PATCH" and request.path.endswith(CLAIM), take)
    else:
        api.put(CLAIMS, template)
    told = len(rig.history)
    await rig.manager.start(rig.mutation(A), accept_data_loss=True)
    fresh = await rig.settled(A, Phase.RUNNING)
    assert Phase.ERROR not in {one.status.phase for one in rig.history[told:]}
    assert fresh.volume_uid not in ("", former, lost.volume_uid)
    claim = api.objects[CLAIMS][CLAIM]
    assert claim["metadata"]["uid"] == fresh.volume_uid
    assert claim["spec"]["storageClassName"] == "fast"
    assert "volumeName" not in claim["spec"]


@pytest.mark.find(19)
async def test_a_claim_that_was_made_before_a_crash_is_the_disk(rig: Rig, api: ScriptedApi) -> None:
    async def written(request: web.Request) -> web.StreamResponse:
        await api.obey(request)
        return status(500, "the answer is lost")

    api.once(lambda request: request.method == "PATCH" and request.path.endswith(CLAIM), written)
    await rig.create(A)
    made = await rig.settled(A, Phase.RUNNING)
    assert api.objects[CLAIMS][CLAIM]["metadata"]["uid"] == made.volume_uid
    assert ("DELETE", CLAIM) not in writes(api)
