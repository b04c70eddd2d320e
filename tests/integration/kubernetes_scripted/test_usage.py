"""The disks of pods, measured through the exec of a scripted API server."""

import asyncio

import pytest
from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Condition

from tests.support.rig import A, Rig
from tests.support.scripted_api import ScriptedApi
from tests.support.waiting import PATIENCE


async def becomes(rig: Rig, known: bool) -> Condition:
    def condition() -> Condition:
        sandbox = rig.feed.catalogue.get(rig.key(A)).event.sandbox  # type: ignore[union-attr]
        (found,) = [one for one in sandbox.status.conditions if one.type is ConditionType.DISK_NEARLY_FULL]
        return found

    async with asyncio.timeout(30 * PATIENCE):
        while (condition().status is not None) is not known:
            await asyncio.sleep(0.01)
    return condition()


@pytest.mark.slow
async def test_disk_of_a_pod_is_measured_and_unknown_where_nobody_may_enter(rig: Rig, api: ScriptedApi) -> None:
    rig.settings["usage_interval"] = 0.2
    await rig.restart()
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    found = await becomes(rig, True)
    # The directories of the test are on the disk of this machine, however full that is.
    assert found.reason is (Reason.DISK_FULL_SOON if found.status else Reason.READY)
    api.kubelet.shell = False
    assert (await becomes(rig, False)).reason is Reason.DISK_NOT_MEASURED
    assert rig.measuring.outcomes["EXEC_UNSUPPORTED"] >= 3
    api.kubelet.shell = True
    await becomes(rig, True)
    api.access = False
    assert (await becomes(rig, False)).reason is Reason.DISK_NOT_MEASURED
    async with asyncio.timeout(30 * PATIENCE):
        while not rig.measuring.outcomes["ACCESS_NOT_GRANTED"]:
            await asyncio.sleep(0.01)
    rig.check_history()
