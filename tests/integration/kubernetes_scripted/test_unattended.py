"""The Kubernetes engine where the StatefulSet controller does not act."""

import asyncio
import dataclasses

import pytest
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason

from tests.support.rig import FAST, A, Rig
from tests.support.scripted import CLAIMS, PODS, SETS, until
from tests.support.scripted_api import ScriptedApi

GUARD = 1.5
WORDS = "waiting for the cluster's StatefulSet controller"


@pytest.fixture
def pace() -> Pace:
    return dataclasses.replace(FAST, controller_guard=GUARD)


def left(api: ScriptedApi) -> list[str]:
    return [name for found in api.objects.values() for name in found]


async def created_without_controller(rig: Rig, api: ScriptedApi, running: bool) -> None:
    """A sandbox whose StatefulSet controller does not act any more; it has never acted if not `running`."""
    if not running:
        api.controllers = {"garbage"}
    await rig.create(A)
    if running:
        await rig.settled(A, Phase.RUNNING)
        api.controllers = {"garbage"}
    else:
        await rig.until(A, lambda one: one.applied_generation == 1)


@pytest.mark.fault(55)
@pytest.mark.find(3)
@pytest.mark.parametrize("running", [False, True], ids=["never acted", "acted before"])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.slow
async def test_a_delete_ends_without_the_statefulset_controller_and_leaves_nothing(
    rig: Rig, api: ScriptedApi, keep: bool, running: bool
) -> None:
    await created_without_controller(rig, api, running)
    await rig.delete(A, keep=keep)
    await rig.settled(A, Phase.TERMINATED, within=20)
    assert left(api) == ([f"vn-homevn-agent-{A}-0"] if keep else [])
    api.controllers = {"garbage", "StatefulSet"}
    api.control("default", A)
    await asyncio.sleep(0.2)
    assert left(api) == ([f"vn-homevn-agent-{A}-0"] if keep else [])


@pytest.mark.fault(55)
@pytest.mark.find(3)
@pytest.mark.parametrize("desired", [Phase.STOPPED, Phase.TERMINATED])
@pytest.mark.slow
async def test_stop_or_delete_reports_that_it_waits_for_the_controller_manager(
    rig: Rig, api: ScriptedApi, desired: Phase
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    api.controllers = set()
    await (rig.begin(A, desired) if desired is Phase.STOPPED else rig.delete(A))
    waits = await rig.until(A, lambda one: one.status.reason is Reason.WORKLOAD_PENDING, within=10)
    assert WORDS in waits.status.message
    assert waits.status.phase is (Phase.STOPPING if desired is Phase.STOPPED else Phase.TERMINATING)
    await asyncio.sleep(1)
    assert api.objects[PODS]
    assert api.objects[CLAIMS]
    api.controllers = {"garbage", "StatefulSet"}
    api.control("default", A)
    await rig.settled(A, desired)
    assert left(api) == [] or desired is Phase.STOPPED


@pytest.mark.fault(55)
@pytest.mark.find(3)
@pytest.mark.parametrize("pace", [dataclasses.replace(FAST, controller_guard=60)], ids=["long"])
async def test_a_controller_that_works_is_waited_for(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    api.controllers = set()
    await rig.delete(A)
    await until(lambda: api.objects[SETS][A]["spec"]["replicas"] == 0)
    await asyncio.sleep(0.5)
    assert "deletionTimestamp" not in api.objects[SETS][A]["metadata"]
    api.controllers = {"garbage", "StatefulSet"}
    api.control("default", A)
    ended = await rig.settled(A, Phase.TERMINATED)
    assert all(WORDS not in one.status.message for one in rig.history if one.id == ended.id)


@pytest.mark.find(3)
@pytest.mark.parametrize("running", [False, True], ids=["never acted", "acted before"])
@pytest.mark.slow
async def test_stop_without_the_statefulset_controller_ends_and_the_next_start_finds_the_disk(
    rig: Rig, api: ScriptedApi, running: bool
) -> None:
    await created_without_controller(rig, api, running)
    (disk,) = api.objects[CLAIMS].values()
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED, within=20)
    await asyncio.sleep(0.2)
    assert list(api.objects.get(PODS, {})) == []
    assert [one["metadata"]["uid"] for one in api.objects[CLAIMS].values()] == [disk["metadata"]["uid"]]
    assert api.objects[SETS][A]["spec"]["replicas"] == 0
    writes = len([kind for kind, _ in api.calls if kind in ("PATCH", "DELETE")])
    await asyncio.sleep(1)
    assert len([kind for kind, _ in api.calls if kind in ("PATCH", "DELETE")]) == writes
    api.controllers = {"garbage", "StatefulSet"}
    api.control("default", A)
    await asyncio.sleep(0.2)
    assert list(api.objects.get(PODS, {})) == []
    await rig.begin(A, Phase.RUNNING)
    started = await rig.settled(A, Phase.RUNNING)
    assert started.volume_uid == disk["metadata"]["uid"]


@pytest.mark.find(3)
@pytest.mark.parametrize("after", ["the removal was asked for", "the StatefulSet is gone"])
@pytest.mark.slow
async def test_stop_without_the_statefulset_controller_ends_after_a_crash(
    rig: Rig, api: ScriptedApi, after: str
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    api.controllers = set() if after == "the removal was asked for" else {"garbage"}
    await rig.begin(A, Phase.STOPPED)
    await until(lambda: A not in api.objects[SETS] or going(api), within=20)
    await rig.stop()
    api.controllers = {"garbage"}
    if A in api.objects[SETS]:
        api.control("default", A)
    await rig.start()
    await rig.settled(A, Phase.STOPPED, within=20)
    assert list(api.objects.get(PODS, {})) == []
    assert len(api.objects[CLAIMS]) == 1


@pytest.mark.find(3)
@pytest.mark.slow
async def test_a_claim_that_would_go_with_the_statefulset_is_kept(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    (claim,) = api.objects[CLAIMS].values()
    owner = {"kind": "StatefulSet", "name": A, "uid": api.objects[SETS][A]["metadata"]["uid"]}
    owned = api.put(CLAIMS, claim | {"metadata": claim["metadata"] | {"ownerReferences": [owner]}})
    api.controllers = {"garbage"}
    await rig.begin(A, Phase.STOPPED)
    waits = await rig.until(A, lambda one: "would go with its owner" in one.status.message, within=20)
    assert waits.status.phase is Phase.STOPPING
    assert not going(api)
    api.put(CLAIMS, owned | {"metadata": owned["metadata"] | {"ownerReferences": []}})
    await rig.settled(A, Phase.STOPPED, within=30)


def going(api: ScriptedApi) -> bool:
    return "deletionTimestamp" in api.objects[SETS][A]["metadata"]
