"""What a former system made is taken over in place, and given back."""

import copy
import dataclasses
from typing import Any

import pytest
from sandbox_server.adoption import Adoption, Wanted
from sandbox_server.domain.adoption import Entry, Outcome
from sandbox_server.domain.event import Cause, Kind
from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines import kubernetes
from sandbox_server.engines.kubernetes.manifests import FIELD_MANAGER, OURS
from sandbox_server.settings import Defaults

from tests.support import former_objects as former
from tests.support.former_objects import NAME
from tests.support.rig import Rig
from tests.support.scripted import CLAIMS, INGRESSES, PODS, SECRETS, SERVICES, SETS, until, writes
from tests.support.scripted_api import ScriptedApi

POD = f"{NAME}-0"
ENV = {
    "ANTHROPIC_API_KEY": "sk-former-canary",
    "DB_HOST": "myproject-db-postgresql",
    "DATABASE_URL": "postgresql://postgres:pa$word@myproject-db-postgresql:5432/postgres",
}


async def adopt(
    rig: Rig, *, keeps_pods: bool = True, dry: bool = False, undo: bool = False, selector: str = ""
) -> list[Entry]:
    settings = rig.ground.settings
    found = await kubernetes.discover(settings.kubernetes, settings.pace, "default", selector, "", Defaults())
    wanted = Wanted("default", "default", keeps_pods, dry, Cause(Kind.MUTATION, "test"))
    adoption = Adoption(rig.store, rig.engine)
    return await (adoption.give_back if undo else adoption.adopt)(wanted, found)


async def made(api: ScriptedApi) -> dict[str, Any]:
    """The sandbox of the former system, with its pod; what there is then."""
    former.put(api, former.objects())
    await until(lambda: POD in api.objects.get(PODS, {}))
    return snapshot(api)


def snapshot(api: ScriptedApi) -> dict[str, Any]:
    """Every object without what each write changes."""
    found = copy.deepcopy(api.objects)
    for one in (one for objects in found.values() for one in objects.values()):
        for field in ("apiVersion", "kind"):
            one.pop(field, None)
        for field in ("resourceVersion", "managedFields", "generation"):
            one["metadata"].pop(field, None)
        one.get("status", {}).pop("observedGeneration", None)
        for field in ("labels", "annotations"):
            if not one["metadata"].get(field):
                one["metadata"].pop(field, None)
    return {where: objects for where, objects in found.items() if objects}


async def settled(rig: Rig, phase: Phase, generation: int = 1) -> Sandbox:
    return await rig.until(NAME, lambda one: one.status.phase is phase and one.generation == generation)


@pytest.mark.slow
async def test_a_pod_that_runs_goes_on_untouched_until_its_sandbox_is_changed(api: ScriptedApi, rig: Rig) -> None:
    before = await made(api)
    (entry,) = await adopt(rig)
    assert entry.outcome is Outcome.ADOPTED
    sandbox = await settled(rig, Phase.RUNNING)
    assert sandbox.status.reason is Reason.READY
    for collection in (SETS, SERVICES, INGRESSES):
        for name, one in api.objects[collection].items():
            assert one["spec"] == before[collection][name]["spec"]
            assert one["metadata"]["uid"] == before[collection][name]["metadata"]["uid"]
    assert api.objects[PODS][POD]["metadata"]["uid"] == before[PODS][POD]["metadata"]["uid"]
    assert len(api.starts) == 1
    await rig.manager.update_env(rig.mutation(NAME), {"MORE": "1"}, (), False)
    await settled(rig, Phase.RUNNING, 2)
    check_taken_over(api, before, ENV | {"MORE": "1"})
    assert [env for _, env in api.starts] == [ENV | {"DATABASE_URL": before_expanded()}, ENV | {"MORE": "1"}]


def before_expanded() -> str:
    """The scripted kubelet does not expand variables."""
    return "postgresql://postgres:pa$$word@$(DB_HOST):5432/postgres"


def check_taken_over(api: ScriptedApi, before: dict[str, Any], env: dict[str, str]) -> None:
    """The same objects as before, by uid, with our template, and without a plain value in it."""
    for collection in (SETS, SERVICES, INGRESSES, CLAIMS):
        uids = {name: one["metadata"]["uid"] for name, one in api.objects[collection].items()}
        assert uids == {name: one["metadata"]["uid"] for name, one in before[collection].items()}
    workload, was = api.objects[SETS][NAME]["spec"], before[SETS][NAME]["spec"]
    for field in ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates", "revisionHistoryLimit"):
        assert workload[field] == was[field]
    (container,) = workload["template"]["spec"]["containers"]
    assert "env" not in container or [one["name"] for one in container["env"]] == ["PORT"]
    assert "canary" not in str(workload)
    (secret,) = api.objects[SECRETS]
    assert container["envFrom"] == [{"secretRef": {"name": secret}}]
    assert api.env(api.objects[PODS][POD]) == env
    service = api.objects[SERVICES][f"{NAME}-service"]["spec"]
    assert service["clusterIP"] == "10.96.14.3"
    assert service["selector"].items() <= workload["template"]["metadata"]["labels"].items()
    for name, one in api.objects[INGRESSES].items():
        assert one["spec"] == before[INGRESSES][name]["spec"]
        kept = before[INGRESSES][name]["metadata"]["annotations"]
        assert kept.items() <= one["metadata"]["annotations"].items()


@pytest.mark.slow
async def test_a_pod_is_made_anew_once_and_at_once_where_that_is_asked_for(api: ScriptedApi, rig: Rig) -> None:
    before = await made(api)
    await adopt(rig, keeps_pods=False)
    await settled(rig, Phase.RUNNING)
    check_taken_over(api, before, ENV)
    assert len(api.starts) == 2
    assert api.objects[PODS][POD]["metadata"]["uid"] != before[PODS][POD]["metadata"]["uid"]


@pytest.mark.slow
async def test_what_is_stopped_stays_stopped_and_starts_with_its_environment(api: ScriptedApi, rig: Rig) -> None:
    objects = former.objects()
    former.of_kind(objects, "StatefulSet")["spec"]["replicas"] = 0
    former.put(api, objects)
    before = snapshot(api)
    (entry,) = await adopt(rig)
    assert (entry.outcome, entry.desired) == (Outcome.ADOPTED, "STOPPED")
    await settled(rig, Phase.STOPPED)
    assert api.objects[SETS][NAME]["spec"] == before[SETS][NAME]["spec"]
    await rig.manager.start(rig.mutation(NAME), False)
    await settled(rig, Phase.RUNNING, 2)
    check_taken_over(api, before, ENV)
    assert [env for _, env in api.starts] == [ENV]


async def test_a_dry_run_changes_nothing_and_says_what_would_be(api: ScriptedApi, rig: Rig) -> None:
    former.put(api, former.objects("deployment.yaml"))
    before = await made(api)
    entries = await adopt(rig, dry=True)
    assert [(one.kind, one.outcome) for one in entries] == [
        ("StatefulSet", Outcome.ADOPTED),
        ("Deployment", Outcome.SKIPPED),
    ]
    assert snapshot(api) == before
    assert writes(api) == []
    assert await rig.store.load() == (0, [])


@pytest.mark.slow
async def test_a_second_run_changes_nothing(api: ScriptedApi, rig: Rig) -> None:
    await made(api)
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    before, sequence = snapshot(api), rig.feed.sequence
    (entry,) = await adopt(rig, keeps_pods=False)
    assert entry.outcome is Outcome.UNCHANGED
    assert (snapshot(api), rig.feed.sequence) == (before, sequence)


@pytest.mark.slow
async def test_what_was_adopted_is_given_back_as_it_was(api: ScriptedApi, rig: Rig) -> None:
    before = await made(api)
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    (entry,) = await adopt(rig, undo=True)
    assert entry.outcome is Outcome.GIVEN_BACK
    await settled(rig, Phase.TERMINATED, 2)
    await until(lambda: not api.objects[SECRETS])
    assert snapshot(api) == before
    (entry,) = await adopt(rig)
    assert entry.outcome is Outcome.ADOPTED
    await settled(rig, Phase.RUNNING)
    assert len(api.starts) == 1


@pytest.mark.slow
async def test_what_is_stopped_is_given_back_stopped(api: ScriptedApi, rig: Rig) -> None:
    objects = former.objects()
    former.of_kind(objects, "StatefulSet")["spec"]["replicas"] = 0
    former.put(api, objects)
    await adopt(rig)
    await settled(rig, Phase.STOPPED)
    # The former system, which still runs, starts it, and the service alone then says how many there are.
    workload = api.objects[SETS][NAME]
    api.put(SETS, workload | {"spec": workload["spec"] | {"replicas": 1}}, "former")
    await until(lambda: api.objects[SETS][NAME]["spec"]["replicas"] == 0)
    await adopt(rig, undo=True)
    await settled(rig, Phase.TERMINATED, 2)
    assert api.objects[SETS][NAME]["spec"]["replicas"] == 0


@pytest.mark.slow
async def test_a_mark_that_comes_after_it_was_given_back_is_taken_away(api: ScriptedApi, rig: Rig) -> None:
    await made(api)
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    marked = copy.deepcopy(api.objects[SETS][NAME]["metadata"])
    await adopt(rig, undo=True)
    await settled(rig, Phase.TERMINATED, 2)
    workload = api.objects[SETS][NAME]
    late = {one: marked[one] for one in ("labels", "annotations")}
    said = [("metadata", one, name) for one, marks in late.items() for name in marks if name.startswith(OURS)]
    api.put(SETS, workload | {"metadata": workload["metadata"] | late}, FIELD_MANAGER, said)
    await until(lambda: f"{OURS}/uid" not in api.objects[SETS][NAME]["metadata"].get("annotations", {}))
    assert api.objects[SETS][NAME]["metadata"]["uid"] == workload["metadata"]["uid"]
    assert len(api.starts) == 1


@pytest.mark.slow
async def test_other_resources_are_given_where_it_runs_after_the_takeover(api: ScriptedApi, rig: Rig) -> None:
    await made(api)
    await adopt(rig, keeps_pods=False)
    sandbox = await settled(rig, Phase.RUNNING)
    await rig.update(NAME, resources=dataclasses.replace(sandbox.spec.resources, cpu_limit="300m"))
    await rig.until(NAME, lambda one: one.generation == 2 and _applied(one) is True)
    assert api.resizes.asked[-1]["limits"]["cpu"] == "300m"
    assert len(api.starts) == 2


def _applied(sandbox: Sandbox) -> bool | None:
    return next(one.status for one in sandbox.status.conditions if one.type is ConditionType.RESOURCES_APPLIED)


@pytest.mark.slow
async def test_what_has_been_taken_over_is_not_given_back(api: ScriptedApi, rig: Rig) -> None:
    await made(api)
    await adopt(rig, keeps_pods=False)
    await settled(rig, Phase.RUNNING)
    (entry,) = await adopt(rig, undo=True)
    assert (entry.outcome, entry.desired) == (Outcome.SKIPPED, "RUNNING")


@pytest.mark.slow
async def test_a_hundred_are_adopted_in_one_run(api: ScriptedApi, rig: Rig) -> None:
    for number in range(100):
        former.put(api, former.objects(name=f"p{number}-agentruntime-x{number:05d}"))
    entries = await adopt(rig)
    assert [one.outcome for one in entries] == [Outcome.ADOPTED] * 100
    await until(lambda: all(one.status.phase is Phase.RUNNING for one in rig.feed.catalogue.sandboxes()), within=60)
    assert {one.outcome for one in await adopt(rig)} == {Outcome.UNCHANGED}
    assert len(api.starts) == 100


@pytest.mark.slow
async def test_a_pod_that_is_replaced_while_it_waits_is_the_sandboxs_too(api: ScriptedApi, rig: Rig) -> None:
    before = await made(api)
    await adopt(rig)
    await settled(rig, Phase.RUNNING)
    api.delete(PODS, POD)
    await until(lambda: len(api.starts) == 2)
    await settled(rig, Phase.RUNNING)
    await until(lambda: "sandbox.fullstackagent.io/uid" in api.objects[PODS][POD]["metadata"].get("annotations", {}))
    assert api.objects[SETS][NAME]["spec"] == before[SETS][NAME]["spec"]


@pytest.mark.slow
async def test_what_is_missing_is_made_and_goes_when_the_rest_is_given_back(api: ScriptedApi, rig: Rig) -> None:
    objects = former.objects()
    objects.remove([one for one in objects if one["kind"] == "Ingress"][1])
    former.put(api, objects)
    await until(lambda: POD in api.objects.get(PODS, {}))
    before = snapshot(api)
    (entry,) = await adopt(rig)
    await settled(rig, Phase.RUNNING)
    terminal = api.objects[INGRESSES][f"{NAME}-ttyd-ingress"]["spec"]["rules"][0]["host"]
    assert entry.ttyd_url == f"https://{terminal}"
    await adopt(rig, undo=True)
    await settled(rig, Phase.TERMINATED, 2)
    await until(lambda: not api.objects[SECRETS])
    assert snapshot(api) == before


@pytest.mark.parametrize("keeps_pods", [False, True])
@pytest.mark.slow
async def test_a_delete_removes_everything_and_a_further_ingress_with_it(
    api: ScriptedApi, rig: Rig, keeps_pods: bool
) -> None:
    objects = former.objects()
    third = copy.deepcopy(former.of_kind(objects, "Ingress"))
    third["metadata"]["name"] = "network-zzz"
    third["spec"]["rules"][0]["host"] = "shop.example.com"
    former.put(api, [*objects, third])
    await until(lambda: POD in api.objects.get(PODS, {}))
    await adopt(rig, keeps_pods=keeps_pods)
    await settled(rig, Phase.RUNNING)
    assert api.objects[INGRESSES]["network-zzz"]["spec"] == third["spec"]
    await rig.delete(NAME)
    await settled(rig, Phase.TERMINATED, 2)
    await until(lambda: not any(api.objects[one] for one in (SETS, SERVICES, INGRESSES, CLAIMS, SECRETS, PODS)))
