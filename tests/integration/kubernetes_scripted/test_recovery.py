"""A bad rollout recovers by a good one, also where the StatefulSet controller leaves the broken pod in place."""

import dataclasses

import pytest
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase

from tests.support.rig import FAST, A, Rig
from tests.support.scripted import SETS
from tests.support.scripted_api import ScriptedApi


@pytest.fixture
def pace() -> Pace:
    return dataclasses.replace(FAST, controller_guard=0.5)


@pytest.mark.fault(66)
@pytest.mark.find(16)
@pytest.mark.parametrize("keeps_broken_pods", [False, True])
@pytest.mark.slow
async def test_good_update_replaces_broken_pod(rig: Rig, api: ScriptedApi, keeps_broken_pods: bool) -> None:
    api.keeps_broken_pods = keeps_broken_pods
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    api.crashing.add(A)
    await rig.env(A, BAD="1")
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    api.crashing.discard(A)
    await rig.env(A, GOOD="1")
    after = await rig.settled(A, Phase.RUNNING, within=10)
    pod = rig.observe(after).pod
    assert pod is not None
    assert pod.generation == after.generation == 3
    assert api.objects[SETS][A]["spec"]["replicas"] == 1


@pytest.mark.fault(66)
@pytest.mark.find(16)
@pytest.mark.slow
async def test_stop_and_delete_of_a_stuck_rollout_end(rig: Rig, api: ScriptedApi) -> None:
    api.keeps_broken_pods = True
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    api.crashing.add(A)
    await rig.env(A, BAD="1")
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    await rig.env(A, STILL_BAD="1")
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)


@pytest.mark.fault(66)
@pytest.mark.find(16)
@pytest.mark.parametrize("keeps_broken_pods", [False, True])
async def test_repaired_template_of_the_same_generation_replaces_broken_pod(
    rig: Rig, api: ScriptedApi, keeps_broken_pods: bool
) -> None:
    api.keeps_broken_pods = keeps_broken_pods
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    api.crashing.add(A)
    inject(api, nodeName="broken")
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    api.crashing.discard(A)
    inject(api, nodeName="repaired")
    after = await rig.settled(A, Phase.RUNNING, within=10)
    assert after.generation == 1
    assert api.objects[SETS][A]["spec"]["replicas"] == 1


def inject(api: ScriptedApi, **spec: str) -> None:
    """Adds to the pod's template, as another manager does."""
    template = api.objects[SETS][A]["spec"]["template"]
    api.edit(SETS, A, template=template | {"spec": template["spec"] | spec})
    api.control("default", A)
