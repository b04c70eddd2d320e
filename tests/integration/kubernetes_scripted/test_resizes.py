"""How a sandbox gets other CPU and memory: in the pod that runs, or by another pod where that is not possible."""

import dataclasses
from typing import Any

import pytest
from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox

from tests.support import scripted_resizes
from tests.support.rig import A, Rig
from tests.support.scripted import PODS, SETS
from tests.support.scripted_api import ScriptedApi, forbidden

POD = f"{A}-0"


async def resize(rig: Rig, **amounts: str) -> Sandbox:
    before = await rig.get(A)
    return await rig.update(A, resources=dataclasses.replace(before.spec.resources, **amounts))


def applied(sandbox: Sandbox) -> Condition:
    return next(one for one in sandbox.status.conditions if one.type is ConditionType.RESOURCES_APPLIED)


async def until_applied(rig: Rig, reason: Reason) -> Sandbox:
    """The sandbox once it runs at its generation, and that is the reason of its resources."""
    return await rig.until(
        A,
        lambda one: (
            applied(one).reason is reason
            and one.status.phase is Phase.RUNNING
            and one.status.observed_generation == one.generation
        ),
    )


def limits(api: ScriptedApi) -> dict[str, Any]:
    """Those of the pod, and those of the template."""
    (pod,) = api.objects[PODS][POD]["spec"]["containers"]
    (template,) = api.objects[SETS][A]["spec"]["template"]["spec"]["containers"]
    return {"pod": pod["resources"]["limits"]["cpu"], "template": template["resources"]["limits"]["cpu"]}


@pytest.fixture
async def running(rig: Rig) -> Sandbox:
    await rig.create(A)
    return await rig.settled(A, Phase.RUNNING)


@pytest.mark.slow
async def test_a_pod_that_runs_is_given_other_resources_and_goes_on(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    assert applied(running).status
    uid = api.objects[PODS][POD]["metadata"]["uid"]
    accepted = await resize(rig, cpu_limit="2")
    assert applied(accepted).status is False
    await until_applied(rig, Reason.READY)
    assert limits(api) == {"pod": "2", "template": "1"}
    # Back again, although the template has that.
    await resize(rig, cpu_limit="1")
    await until_applied(rig, Reason.READY)
    assert [one["limits"]["cpu"] for one in api.resizes.asked] == ["2", "1"]
    assert (api.objects[PODS][POD]["metadata"]["uid"], len(api.starts)) == (uid, 1)


async def test_a_quantity_that_the_api_server_rounds_is_asked_for_once(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    await resize(rig, memory_limit="2.3333333333333335Gi")
    await until_applied(rig, Reason.READY)
    await rig.settled(A, Phase.RUNNING)
    assert [one["limits"]["memory"] for one in api.resizes.asked] == ["2505397589334m"]
    assert len(api.starts) == 1


@pytest.mark.slow
async def test_the_template_follows_at_the_next_mutation_that_replaces_the_pod(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    await resize(rig, cpu_limit="2")
    await until_applied(rig, Reason.READY)
    await rig.update(A, labels={"tier": "web"})
    await rig.settled(A, Phase.RUNNING)
    assert (limits(api), len(api.starts)) == ({"pod": "2", "template": "1"}, 1)
    await rig.env(A, X="1")
    await until_applied(rig, Reason.READY)
    assert (limits(api), len(api.starts), len(api.resizes.asked)) == ({"pod": "2", "template": "2"}, 2, 1)


@pytest.mark.slow
async def test_a_pod_that_the_cluster_replaces_is_given_the_resources_too(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    await resize(rig, cpu_limit="2")
    await until_applied(rig, Reason.READY)
    uid = api.objects[PODS][POD]["metadata"]["uid"]
    api.delete(PODS, POD)
    api.control("default", A)
    await rig.until(A, lambda _: len(api.resizes.asked) == 2)
    await until_applied(rig, Reason.READY)
    assert (limits(api)["pod"], api.objects[PODS][POD]["metadata"]["uid"] != uid) == ("2", True)


@pytest.mark.parametrize(
    ("pending", "reason", "words"),
    [
        ("Deferred", Reason.RESIZE_DEFERRED, scripted_resizes.DEFERRED),
        ("Infeasible", Reason.RESIZE_INFEASIBLE, scripted_resizes.INFEASIBLE),
    ],
)
@pytest.mark.slow
async def test_what_the_kubelet_does_not_give_is_said_in_its_words_and_restarts_nothing(
    rig: Rig, api: ScriptedApi, running: Sandbox, pending: str, reason: Reason, words: str
) -> None:
    api.resizes.pending = pending
    await resize(rig, cpu_limit="100")
    waiting = await until_applied(rig, reason)
    assert (applied(waiting).status, applied(waiting).message) == (False, words)
    assert len(api.starts) == 1
    api.resizes.pending = ""
    api.look_at(PODS, POD)
    await until_applied(rig, Reason.READY)


@pytest.mark.slow
async def test_resources_that_the_kubelet_has_not_seen_do_not_hold_yet(
    rig: Rig, api: ScriptedApi, running: Sandbox
) -> None:
    await resize(rig, cpu_limit="2")
    await until_applied(rig, Reason.READY)
    api.resizes.held = True
    await resize(rig, cpu_limit="3")
    await until_applied(rig, Reason.RESIZING)
    api.resizes.held = False
    api.look_at(PODS, POD)
    await until_applied(rig, Reason.READY)


@pytest.mark.slow
async def test_a_pod_that_takes_no_other_resources_is_replaced(rig: Rig, api: ScriptedApi, running: Sandbox) -> None:
    api.resizes.refused = 422, 'Pod "suite-a-0" is invalid: spec.containers[0].resources: Forbidden: a webhook says no'
    await resize(rig, cpu_request="1", memory_request="1Gi")
    await until_applied(rig, Reason.READY)
    assert (len(api.starts), api.resizes.asked) == (2, [])
    assert api.starts[-1][0] == "2"


@pytest.mark.slow
async def test_a_right_that_is_taken_away_costs_a_restart(rig: Rig, api: ScriptedApi, running: Sandbox) -> None:
    answer = forbidden("patch", "pods/resize", "default")
    api.resizes.refused = 403, str(answer.text)
    await resize(rig, cpu_limit="2")
    await until_applied(rig, Reason.READY)
    assert (limits(api), len(api.starts)) == ({"pod": "2", "template": "2"}, 2)


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("exceeded quota: team, requested: limits.cpu=99, used: limits.cpu=1", Reason.QUOTA_EXCEEDED),
        ("maximum cpu usage per Container is 2, but limit is 100", Reason.ADMISSION_DENIED),
        ("minimum cpu usage per Pod is 1, but request is 100m", Reason.ADMISSION_DENIED),
        (
            "cpu max limit to request ratio per Container is 2, but provided ratio is 1000.000000",
            Reason.ADMISSION_DENIED,
        ),
    ],
)
@pytest.mark.slow
async def test_what_the_namespace_does_not_allow_is_said_and_the_pod_goes_on(
    rig: Rig, api: ScriptedApi, running: Sandbox, why: str, reason: Reason
) -> None:
    words = f'pods "{POD}" is forbidden: {why}'
    api.resizes.refused = 403, words
    await resize(rig, cpu_limit="100")
    refused = await until_applied(rig, reason)
    assert (applied(refused).message, len(api.starts)) == (words, 1)
    api.resizes.refused = None
    await resize(rig, cpu_limit="1")
    await until_applied(rig, Reason.READY)
    assert len(api.starts) == 1


@pytest.mark.parametrize("missing", ["subresource", "right"])
@pytest.mark.slow
async def test_a_cluster_that_cannot_do_it_restarts_the_sandbox(
    rig: Rig, api: ScriptedApi, running: Sandbox, missing: str
) -> None:
    if missing == "subresource":
        api.cluster.served = ("pods",)
    else:
        api.cluster.denied.add(("pods/resize", "patch"))
    await resize(rig, cpu_limit="2")
    await until_applied(rig, Reason.READY)
    assert (limits(api), len(api.starts), api.resizes.asked) == ({"pod": "2", "template": "2"}, 2, [])


@pytest.mark.slow
async def test_a_sandbox_that_is_not_ready_gets_another_pod(rig: Rig, api: ScriptedApi, running: Sandbox) -> None:
    await rig.ground.crash(running)
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    api.crashing.clear()
    await resize(rig, cpu_limit="2")
    await until_applied(rig, Reason.READY)
    assert (limits(api), api.resizes.asked) == ({"pod": "2", "template": "2"}, [])
