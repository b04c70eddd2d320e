"""Claims that the StatefulSet controller makes for pods beside the sandbox's go with the sandbox."""

import asyncio

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.support.rig import A, Rig
from tests.support.scripted import CLAIMS, SETS
from tests.support.scripted_api import ScriptedApi

pytestmark = [pytest.mark.find(20), pytest.mark.fault(68)]

DISK = f"vn-homevn-agent-{A}-0"
OTHERS = [f"vn-homevn-agent-{A}-{ordinal}" for ordinal in range(1, 12)]


async def scaled(rig: Rig, api: ScriptedApi) -> None:
    """Makes a sandbox whose StatefulSet somebody has scaled to twelve, and that runs with one pod again."""
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.stop()
    api.edit(SETS, A, "kubectl-scale", replicas=12)
    api.control("default", A)
    await rig.start()
    await rig.settled(A, Phase.RUNNING)
    assert sorted(api.objects[CLAIMS]) == sorted([DISK, *OTHERS])


@pytest.mark.parametrize("keep", [False, True])
async def test_claims_of_other_ordinals_are_gone_when_a_sandbox_is_terminated(
    rig: Rig, api: ScriptedApi, keep: bool
) -> None:
    await scaled(rig, api)
    await rig.delete(A, keep=keep)
    await rig.until(A, lambda one: one.status.phase is Phase.TERMINATED)
    assert [*api.objects[CLAIMS]] == ([DISK] if keep else [])
    assert api.objects[SETS] == {}


@pytest.mark.slow
async def test_claims_of_other_sandboxes_and_of_others_stay(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(f"{A}-1")
    await rig.settled(f"{A}-1", Phase.RUNNING)
    await scaled_beside(rig, api)
    kept = {f"vn-homevn-agent-{A}-1-0", f"vn-homevn-agent-{A}-77"}
    assert kept < set(api.objects[CLAIMS])
    await rig.delete(A)
    await rig.until(A, lambda one: one.status.phase is Phase.TERMINATED)
    assert set(api.objects[CLAIMS]) == kept


async def scaled_beside(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    # Somebody else's, under a name that the controller would use: it is no placeholder.
    labels = {"sandbox.fullstackagent.io/id": A}
    api.put(CLAIMS, {"metadata": {"name": f"vn-homevn-agent-{A}-77", "labels": labels, "annotations": {}}})
    await rig.stop()
    api.edit(SETS, A, "kubectl-scale", replicas=2)
    api.control("default", A)
    await rig.start()
    await rig.settled(A, Phase.RUNNING)
    assert OTHERS[0] in api.objects[CLAIMS]


@pytest.mark.slow
async def test_a_claim_that_a_finalizer_holds_is_named_and_waited_for(rig: Rig, api: ScriptedApi) -> None:
    await scaled(rig, api)
    held = api.objects[CLAIMS][OTHERS[4]]
    finalizers = ["backup.example/hold", *held["metadata"]["finalizers"]]
    api.put(CLAIMS, held | {"metadata": held["metadata"] | {"finalizers": finalizers}})
    await rig.delete(A)
    waits = await rig.until(A, lambda one: one.status.reason is Reason.CLUSTER_BUSY, within=15)
    assert waits.status.phase is Phase.TERMINATING
    assert waits.status.message == f"the claim {OTHERS[4]} has to go first; its finalizers: backup.example/hold"
    await asyncio.sleep(0.2)
    going = api.objects[CLAIMS][OTHERS[4]]
    api.put(CLAIMS, going | {"metadata": going["metadata"] | {"finalizers": []}})
    api.delete(CLAIMS, OTHERS[4])
    await rig.until(A, lambda one: one.status.phase is Phase.TERMINATED)
    assert api.objects[CLAIMS] == {}


@pytest.mark.slow
async def test_claims_go_where_the_stateful_set_was_deleted_by_hand(rig: Rig, api: ScriptedApi) -> None:
    await scaled(rig, api)
    await rig.stop()
    api.remove(SETS, A)
    api.control("default", A)
    api.objects["api/v1/namespaces/default/pods"].clear()
    await rig.start()
    await rig.delete(A)
    await rig.until(A, lambda one: one.status.phase is Phase.TERMINATED)
    await asyncio.sleep(0.1)
    assert api.objects[CLAIMS] == {}
