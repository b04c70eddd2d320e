"""How the disk of a sandbox grows: what the claim asks for, and what the status says until the disk has it."""

import dataclasses

import pytest
from sandbox_server.domain import errors
from sandbox_server.domain.origins import Clone
from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox
from sandbox_server.engines.kubernetes import resources

from tests.support import scripted_disks
from tests.support.rig import A, Rig
from tests.support.scripted import CLAIM, CLAIMS, PODS, SETS, until, writes
from tests.support.scripted_api import ScriptedApi, copied


async def grow(rig: Rig, size: str) -> Sandbox:
    before = await rig.get(A)
    return await rig.update(A, storage=dataclasses.replace(before.spec.storage, size=size))


def sized(sandbox: Sandbox) -> Condition:
    return next(one for one in sandbox.status.conditions if one.type is ConditionType.VOLUME_SIZED)


async def until_sized(rig: Rig, reason: Reason) -> Sandbox:
    """The sandbox once it runs at its generation, and that is the reason of its disk's size."""
    return await rig.until(
        A,
        lambda one: (
            sized(one).reason is reason
            and one.status.phase is Phase.RUNNING
            and one.status.observed_generation == one.generation
        ),
    )


def asked(api: ScriptedApi) -> str:
    return scripted_disks.requested(api.objects[CLAIMS][CLAIM])


@pytest.fixture
async def running(rig: Rig) -> Sandbox:
    await rig.create(A)
    return await rig.settled(A, Phase.RUNNING)


@pytest.mark.slow
async def test_a_disk_grows_under_the_pod_that_runs(rig: Rig, api: ScriptedApi, running: Sandbox) -> None:
    assert sized(running).status
    claim, pod = api.objects[CLAIMS][CLAIM], api.objects[PODS][f"{A}-0"]["metadata"]
    template = copied(api.objects[SETS][A]["spec"])
    since = len(api.calls)
    accepted = await grow(rig, "9Gi")
    assert (sized(accepted).status, accepted.spec.storage.size) == (False, "9Gi")
    after = await until_sized(rig, Reason.READY)
    assert after.status.volume is not None and after.status.volume.size == "9Gi"
    grown = api.objects[CLAIMS][CLAIM]
    assert grown["metadata"]["uid"] == claim["metadata"]["uid"]
    assert grown["metadata"]["labels"] == claim["metadata"]["labels"]
    assert grown["metadata"]["annotations"] == claim["metadata"]["annotations"] | {"value": "9Gi"}
    assert api.objects[PODS][f"{A}-0"]["metadata"]["uid"] == pod["uid"]
    assert api.objects[SETS][A]["spec"] == template
    assert [name for method, name in writes_since(api, since) if method == "PATCH"].count(CLAIM) == 1
    assert len(api.starts) == 1
    said = [sized(one).reason for one in rig.history if one.generation == 2]
    assert set(said) <= {Reason.ACCEPTED, Reason.VOLUME_EXPANDING, Reason.VOLUME_EXPANDS_AT_START, Reason.READY}


def writes_since(api: ScriptedApi, since: int) -> list[tuple[str, str]]:
    return writes(api)[len(writes(api)) - sum(method in ("PATCH", "DELETE") for method, _ in api.calls[since:]) :]


@pytest.mark.slow
async def test_a_size_that_the_api_server_rounds_is_asked_for_once(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    api.disks.held = True
    since = len(api.calls)
    await grow(rig, "9.3333333333333335Gi")
    await until(lambda: asked(api) != "5Gi")
    await rig.update(A, labels={"tier": "web"})
    await rig.settled(A, Phase.RUNNING)
    assert asked(api) == "10021590357334m"
    assert [name for method, name in writes_since(api, since) if method == "PATCH"].count(CLAIM) == 1


@pytest.mark.slow
async def test_a_file_system_that_grows_at_a_start_is_said_and_grows_at_the_next(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    api.disks.offline = True
    await grow(rig, "9Gi")
    waiting = await until_sized(rig, Reason.VOLUME_EXPANDS_AT_START)
    assert "(re-)start a pod" in sized(waiting).message
    assert waiting.status.volume is not None and waiting.status.volume.size == "5Gi"
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    await rig.begin(A, Phase.RUNNING)
    assert (await until_sized(rig, Reason.READY)).status.volume.size == "9Gi"  # type: ignore[union-attr]


@pytest.mark.slow
async def test_a_stopped_sandbox_asks_for_its_disk_at_once(rig: Rig, api: ScriptedApi, running: Sandbox) -> None:
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    await grow(rig, "9Gi")
    stopped = await rig.settled(A, Phase.STOPPED)
    assert asked(api) == "9Gi"
    await rig.until(A, lambda one: sized(one).reason is Reason.VOLUME_EXPANDS_AT_START)
    assert stopped.status.phase is Phase.STOPPED


@pytest.mark.slow
async def test_what_the_storage_cannot_make_is_said_in_its_words_and_taken_back(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    api.disks.most = "12Gi"
    await grow(rig, "20Gi")
    refused = await until_sized(rig, Reason.EXPANSION_INFEASIBLE)
    assert scripted_disks.FULL in sized(refused).message
    await grow(rig, "12Gi")
    after = await until_sized(rig, Reason.READY)
    assert (asked(api), after.status.volume.size) == ("12Gi", "12Gi")  # type: ignore[union-attr]


@pytest.mark.slow
async def test_a_size_that_is_taken_back_to_what_the_disk_has_leaves_the_claim_alone(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    api.disks.most = "12Gi"
    await grow(rig, "20Gi")
    await until_sized(rig, Reason.EXPANSION_INFEASIBLE)
    await grow(rig, "5Gi")
    await until_sized(rig, Reason.READY)
    # The API server would refuse it.
    assert (asked(api), api.disks.refused) == ("20Gi", [])
    with pytest.raises(errors.Invalid):
        await grow(rig, "4Gi")


async def test_a_clone_asks_for_what_the_disk_of_its_source_has(rig: Rig, api: ScriptedApi, running: Sandbox) -> None:
    # The storage has made more than was asked for.
    api.put(CLAIMS, api.objects[CLAIMS][CLAIM] | {"status": {"phase": "Bound", "capacity": {"storage": "9Gi"}}})
    clone = Clone(running.key, project="", labels={}, set={}, unset=(), replaces=False)
    made = (await rig.manager.clone(rig.mutation("suite-b"), clone, "")).sandbox
    await rig.settled("suite-b", Phase.RUNNING)
    assert made.spec.storage.size == "5Gi"
    claim = api.objects[CLAIMS][resources.claim_name(made)]
    assert (scripted_disks.requested(claim), claim["metadata"]["annotations"]["value"]) == ("9Gi", "9Gi")


@pytest.mark.slow
async def test_a_server_that_takes_nothing_back_says_so(rig: Rig, api: ScriptedApi, running: Sandbox) -> None:
    api.disks.most, api.disks.recovers = "12Gi", False
    await grow(rig, "20Gi")
    await until_sized(rig, Reason.EXPANSION_INFEASIBLE)
    await grow(rig, "12Gi")
    refused = await until_sized(rig, Reason.ENGINE_REFUSED)
    assert "can not be less than previous value" in sized(refused).message


@pytest.mark.slow
async def test_tries_that_fail_are_said_while_the_disk_grows(rig: Rig, api: ScriptedApi, running: Sandbox) -> None:
    api.disks.failing = True
    await grow(rig, "9Gi")
    growing = await rig.until(A, lambda one: scripted_disks.BUSY in sized(one).message)
    assert sized(growing).reason is Reason.VOLUME_EXPANDING
    api.disks.failing = False
    api.grow("default", CLAIM)
    assert sized(await until_sized(rig, Reason.READY)).message == ""


@pytest.mark.slow
async def test_a_class_that_does_not_allow_it_refuses_the_update(rig: Rig, api: ScriptedApi, running: Sandbox) -> None:
    classes = [{"metadata": {"name": scripted_disks.CLASS}, "allowVolumeExpansion": False}]
    api.cluster.objects["storageclasses"] = classes
    api.edit(CLAIMS, CLAIM, storageClassName=scripted_disks.CLASS)
    with pytest.raises(errors.FailedPrecondition) as caught:
        await grow(rig, "9Gi")
    assert caught.value.reason == "CLASS_NOT_EXPANDABLE"
    assert scripted_disks.CLASS in caught.value.message
    assert (await rig.get(A)).generation == 1
    classes[0]["allowVolumeExpansion"] = True
    await grow(rig, "9Gi")
    await until_sized(rig, Reason.READY)


@pytest.mark.slow
async def test_without_the_right_to_read_classes_the_refusal_is_a_condition_and_is_not_repeated(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    api.disks.expandable = False
    await grow(rig, "9Gi")
    refused = await until_sized(rig, Reason.CLASS_NOT_EXPANDABLE)
    assert "must support resize" in sized(refused).message
    await rig.settled(A, Phase.RUNNING)
    for generation in (3, 4):
        await rig.update(A, labels={"n": str(generation)})
        await rig.settled(A, Phase.RUNNING)
    # Once for each generation, and it runs all the while.
    assert api.disks.refused == ["9Gi"] * 3
    assert all(one.status.phase is not Phase.ERROR for one in rig.history)
    assert len(api.starts) == 1
    api.disks.expandable = True
    await rig.restart()
    await until_sized(rig, Reason.READY)


@pytest.mark.slow
async def test_a_disk_that_somebody_made_larger_stays_so(rig: Rig, api: ScriptedApi, running: Sandbox) -> None:
    api.edit(CLAIMS, CLAIM, resources={"requests": {"storage": "30Gi"}})
    api.grow("default", CLAIM)
    after = await rig.until(A, lambda one: one.status.volume is not None and one.status.volume.size == "30Gi")
    assert sized(after).status
    await grow(rig, "20Gi")
    await until_sized(rig, Reason.READY)
    assert (asked(api), api.disks.refused) == ("30Gi", [])


@pytest.mark.slow
async def test_a_request_that_somebody_undoes_each_time_is_a_field_conflict(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    api.disks.held = True
    await grow(rig, "9Gi")
    await until(lambda: asked(api) == "9Gi")
    for _ in range(6):
        await rig.until(A, lambda _: asked(api) == "9Gi")
        api.edit(CLAIMS, CLAIM, manager="quota-robot", resources={"requests": {"storage": "7Gi"}})
        if (await rig.get(A)).status.reason is Reason.FIELD_CONFLICT:
            break
    contested = await rig.until(A, lambda one: one.status.reason is Reason.FIELD_CONFLICT)
    assert contested.status.phase is Phase.RUNNING
    assert "quota-robot changes spec.resources.requests.storage" in contested.status.message
