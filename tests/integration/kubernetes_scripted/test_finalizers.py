"""Objects of a sandbox that finalizers of others keep: the status names them."""

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.support.rig import A, Rig
from tests.support.scripted import CLAIM, CLAIMS, PODS, SETS
from tests.support.scripted_api import ScriptedApi

HOLD = "example.com/hold"
WORDS = f"the StatefulSet {A} is being removed; it has the finalizers: {HOLD}"


def hold(api: ScriptedApi, collection: str, name: str) -> None:
    found = api.objects[collection][name]
    finalizers = [*found["metadata"].get("finalizers", []), HOLD]
    api.put(collection, found | {"metadata": found["metadata"] | {"finalizers": finalizers}})


@pytest.mark.find(2)
@pytest.mark.slow
async def test_stateful_set_that_hangs_during_delete_is_named(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    hold(api, SETS, A)
    await rig.delete(A)
    waits = await rig.until(A, lambda one: WORDS in one.status.message)
    assert waits.status.phase is Phase.TERMINATING
    api.delete(SETS, A)
    await rig.settled(A, Phase.TERMINATED)


@pytest.mark.find(2)
async def test_claim_that_hangs_during_delete_is_named(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    hold(api, CLAIMS, CLAIM)
    await rig.delete(A)
    waits = await rig.until(A, lambda one: f"the claim {CLAIM} has the finalizers: {HOLD}" in one.status.message)
    assert waits.status.phase is Phase.TERMINATING
    api.delete(CLAIMS, CLAIM)
    await rig.settled(A, Phase.TERMINATED)


@pytest.mark.slow
async def test_kept_claim_that_hangs_when_it_is_deleted_is_named(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.delete(A, keep=True)
    await rig.settled(A, Phase.TERMINATED)
    hold(api, CLAIMS, CLAIM)
    await rig.manager.delete_volume(rig.mutation(A), "")
    waits = await rig.until(A, lambda one: f"the claim {CLAIM} has the finalizers: {HOLD}" in one.status.message)
    assert (waits.status.phase, waits.status.reason) == (Phase.TERMINATING, Reason.VOLUME_TERMINATING)
    api.delete(CLAIMS, CLAIM)
    gone = await rig.settled(A, Phase.TERMINATED)
    assert gone.status.reason is Reason.DELETED


@pytest.mark.find(2)
@pytest.mark.slow
async def test_stateful_set_that_somebody_removed_and_that_hangs_keeps_no_stop_and_is_named_at_the_next_start(
    rig: Rig, api: ScriptedApi
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    hold(api, SETS, A)
    api.remove(SETS, A)
    api.delete(PODS, f"{A}-0")
    await rig.until(A, lambda one: WORDS in one.status.message)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    await rig.begin(A, Phase.RUNNING)
    await rig.until(A, lambda one: WORDS in one.status.message)
    api.delete(SETS, A)
    await rig.settled(A, Phase.RUNNING, within=40)
