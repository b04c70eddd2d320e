"""The Kubernetes engine and a namespace that is removed, which takes the service's Role along, or that is let go."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason

from tests.support.rig import A, Rig
from tests.support.scripted import CLAIMS, PODS, SETS, ScriptedGround, started, until
from tests.support.scripted_api import ScriptedApi

MAY_BE_GONE = "the namespace may be gone"
ORDERS = (("pods", "claims", "role", "sets"), ("claims", "sets", "role", "pods"), ("sets", "role", "pods", "claims"))


@pytest.fixture
async def rig(api: ScriptedApi, tmp_path: Path, pace: Pace) -> AsyncIterator[Rig]:
    """Its watches may be silent for long: without its rights the service could not begin another."""
    ground = ScriptedGround(api, tmp_path)
    ground.settings = ground.settings.model_copy(update={"cluster_silence": 90.0})
    async with started(Rig(ground, tmp_path, pace=pace)) as made:
        yield made


async def settle(rig: Rig, phase: Phase) -> int:
    """Settles the sandbox; the length of its history then."""
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    if phase is Phase.STOPPED:
        await rig.begin(A, phase)
        await rig.settled(A, phase)
    return len(rig.history)


async def empty(api: ScriptedApi, order: tuple[str, ...]) -> None:
    """What the namespace controller does."""
    api.namespace = "Terminating"
    for one in order:
        collection = {"pods": PODS, "claims": CLAIMS, "sets": SETS}.get(one)
        if collection is None:
            api.role = False
        else:
            for name in list(api.objects.get(collection, {})):
                api.delete(collection, name)
        await asyncio.sleep(0.1)
    for collection, found in api.objects.items():
        for name in list(found):
            api.delete(collection, name)


def disconnect(api: ScriptedApi) -> None:
    api.tell("", "ERROR", {"code": 500, "message": "closing"})


@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.parametrize("order", [pytest.param(one, id="-".join(one)) for one in ORDERS])
@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.STOPPED])
@pytest.mark.slow
async def test_a_namespace_that_is_removed_is_reported_before_its_consequences(
    rig: Rig, api: ScriptedApi, phase: Phase, order: tuple[str, ...]
) -> None:
    told = await settle(rig, phase)
    await empty(api, order)
    await rig.until(A, lambda one: one.status.reason is Reason.NAMESPACE_TERMINATING, within=3)
    api.namespace = "Missing"
    disconnect(api)
    failed = await rig.until(A, lambda one: MAY_BE_GONE in one.status.message, within=20)
    assert (failed.status.phase, failed.status.reason) == (Phase.ERROR, Reason.NAMESPACE_TERMINATING)
    assert {one.status.reason for one in rig.history[told:]} == {Reason.NAMESPACE_TERMINATING}
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    assert {one.status.phase for one in rig.history[-2:]} == {Phase.TERMINATING, Phase.TERMINATED}


@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.slow
async def test_with_the_right_to_get_it_a_namespace_that_is_gone_is_missing_and_a_delete_ends(
    rig: Rig, api: ScriptedApi, keep: bool, restarted: bool
) -> None:
    api.namespace_rights = True
    await settle(rig, Phase.RUNNING)
    if restarted:
        await rig.stop()
    await empty(api, ORDERS[0])
    api.namespace = "Missing"
    if restarted:
        await rig.start()
        await rig.begin(A, Phase.STOPPED)
    failed = await rig.until(A, lambda one: one.status.reason is Reason.NAMESPACE_MISSING, within=20)
    assert failed.status.phase is Phase.ERROR
    assert failed.status.message == 'namespaces "default" not found'
    await rig.delete(A, keep=keep)
    ended = await rig.settled(A, Phase.TERMINATED)
    assert ended.status.reason is Reason.DELETED


@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.slow
async def test_a_delete_during_the_removal_of_the_namespace_ends_when_all_is_gone(rig: Rig, api: ScriptedApi) -> None:
    await settle(rig, Phase.RUNNING)
    api.namespace = "Terminating"
    api.delete(PODS, f"{A}-0")
    await rig.until(A, lambda one: one.status.reason is Reason.NAMESPACE_TERMINATING, within=3)
    await rig.delete(A, keep=True)
    going = await rig.until(A, lambda one: one.status.phase is Phase.TERMINATING and one.applied_generation == 2)
    assert going.status.reason is Reason.NAMESPACE_TERMINATING
    api.role = False
    await asyncio.sleep(0.5)
    assert (await rig.get(A)).status.reason is Reason.NAMESPACE_TERMINATING
    await empty(api, ORDERS[0])
    ended = await rig.settled(A, Phase.TERMINATED)
    assert ended.status.reason is Reason.DELETED


@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.slow
async def test_without_any_right_the_namespace_may_be_gone_and_its_end_follows_from_what_is_removed(
    rig: Rig, api: ScriptedApi
) -> None:
    told = await settle(rig, Phase.STOPPED)
    api.role = False
    await empty(api, ("claims", "sets"))
    failed = await rig.until(A, lambda one: one.status.reason is Reason.NAMESPACE_TERMINATING, within=3)
    assert failed.status.phase is Phase.ERROR
    reasons = {one.status.reason for one in rig.history[told:]}
    assert reasons == {Reason.CLUSTER_FORBIDDEN, Reason.NAMESPACE_TERMINATING}
    assert all(MAY_BE_GONE in one.status.message for one in rig.history[told:])
    disconnect(api)
    await asyncio.sleep(4)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)


@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.slow
async def test_after_a_restart_without_rights_the_namespace_may_be_gone_and_with_the_right_to_get_it_it_is_known(
    rig: Rig, api: ScriptedApi
) -> None:
    await settle(rig, Phase.RUNNING)
    await rig.stop()
    await empty(api, ORDERS[0])
    api.namespace = "Missing"
    await rig.start()
    await rig.delete(A)
    failed = await rig.until(A, lambda one: MAY_BE_GONE in one.status.message and one.generation == 2, within=10)
    assert (failed.status.phase, failed.status.reason) == (Phase.ERROR, Reason.CLUSTER_FORBIDDEN)
    api.namespace_rights = True
    rig.reconciler.wake(rig.key(A))
    await rig.settled(A, Phase.TERMINATED)


@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.slow
async def test_a_namespace_that_is_made_again_is_used_again(rig: Rig, api: ScriptedApi) -> None:
    api.namespace_rights = True
    await settle(rig, Phase.RUNNING)
    await empty(api, ORDERS[0])
    api.namespace = "Missing"
    disconnect(api)
    await rig.until(A, lambda one: one.status.reason is Reason.NAMESPACE_MISSING, within=20)
    api.namespace, api.role = "Active", True
    await rig.until(A, lambda one: one.status.reason is Reason.VOLUME_LOST, within=35)
    await rig.manager.start(rig.mutation(A), accept_data_loss=True)
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.fault(58)
@pytest.mark.find(6)
@pytest.mark.slow
async def test_a_lost_claim_in_a_namespace_that_stays_is_a_lost_disk(rig: Rig, api: ScriptedApi) -> None:
    await settle(rig, Phase.RUNNING)
    for name in list(api.objects[CLAIMS]):
        api.delete(CLAIMS, name)
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR, within=3)
    assert failed.status.reason is Reason.VOLUME_LOST


@pytest.mark.slow
async def test_namespace_that_is_let_go_is_left_alone_until_it_is_followed_again(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    running = await rig.settled(A, Phase.RUNNING)
    before = rig.observe(running).pod
    rig.engine.follow(("other",))
    await until(lambda: rig.engine.synced("other"))
    assert rig.stale
    reason = rig.engine.unobservable(rig.ground.namespace)
    assert reason is not None
    assert reason.reason is Reason.NAMESPACE_MISSING
    with pytest.raises(engines.Unreachable):
        rig.observe(running)

    # Whatever is asked for or happens meanwhile, nothing is read or written there.
    began = len(api.calls)
    await rig.env(A, GREETING="hello")
    waiting = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert waiting.status.reason is Reason.NAMESPACE_MISSING
    api.delete(PODS, f"{A}-0")
    await asyncio.sleep(0.3)
    assert [path for _, path in api.calls[began:] if "/namespaces/default/" in path] == []

    rig.engine.follow(("other", "default"))
    with pytest.raises(engines.Unreachable):
        rig.observe(running)
    after = await rig.settled(A, Phase.RUNNING)
    pod = rig.observe(after).pod
    assert before is not None
    assert pod is not None
    assert (pod.uid != before.uid, pod.generation) == (True, after.generation)


@pytest.mark.parametrize("state", ["Active", "Missing"])
@pytest.mark.parametrize("may", [False, True])
async def test_whether_the_service_may_get_a_namespace_is_known_once_it_is_asked_for(
    rig: Rig, api: ScriptedApi, may: bool, state: str
) -> None:
    api.namespace_rights = may
    api.namespace = state
    assert rig.engine.readable(rig.ground.namespace) in (None, may)
    # Without the right to get it, a dry-run create that works is no right to get it.
    assert await rig.manager.readable(rig.ground.namespace) is may
    assert await rig.manager.readable("not-followed") is None
