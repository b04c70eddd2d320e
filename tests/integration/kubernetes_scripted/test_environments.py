"""The Secrets of a sandbox: one for each generation of its pod, from before the template names it until nothing can use it."""

import base64
import copy
from typing import Any

import pytest
from aiohttp import web
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes import manifests, resources

from tests.support.rig import A, Rig
from tests.support.scripted import PODS, SECRETS, SERVICES, SETS, until, until_secret, writes
from tests.support.scripted_api import ScriptedApi, status

MADE, NAMES = manifests.objects, resources.names
FORMER = f"{A}-env"
"""The name of the Secret of a former release."""


def content(api: ScriptedApi, name: str) -> dict[str, str]:
    data = api.objects[SECRETS][name].get("data", {})
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


async def running(rig: Rig, **env: str) -> Sandbox:
    await rig.create(A, env)
    return await rig.settled(A, Phase.RUNNING)


@pytest.mark.slow
async def test_former_secret_stays_while_a_pod_of_its_template_may_start_again(rig: Rig, api: ScriptedApi) -> None:
    await running(rig, A="1")
    api.controllers.discard("StatefulSet")
    await rig.env(A, A="2")
    await until(lambda: api.objects[SETS][A]["metadata"]["annotations"][manifests.GENERATION] == "2")
    rig.reconciler.wake(rig.key(A))
    await rig.until(A, lambda one: one.applied_generation == 2)
    assert (content(api, f"{A}-env-1"), content(api, f"{A}-env-2")) == ({"A": "1"}, {"A": "2"})
    assert all(one["immutable"] for one in api.objects[SECRETS].values())
    api.controllers.add("StatefulSet")
    api.control("default", A)
    await until_secret(api, f"{A}-env-2")
    await rig.settled(A, Phase.RUNNING)
    assert api.starts == [("1", {"A": "1"}), ("2", {"A": "2"})]


@pytest.mark.slow
async def test_stopped_sandbox_has_no_secret(rig: Rig, api: ScriptedApi) -> None:
    await running(rig, A="1")
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    await until(lambda: not api.objects[SECRETS])
    await rig.env(A, A="2")
    await rig.settled(A, Phase.STOPPED)
    assert not api.objects[SECRETS]
    await rig.begin(A, Phase.RUNNING)
    await rig.settled(A, Phase.RUNNING)
    assert (api.objects[SECRETS].keys(), api.starts[-1]) == ({f"{A}-env-4"}, ("4", {"A": "2"}))


@pytest.mark.slow
async def test_mutation_of_labels_alone_keeps_the_secret_and_the_pod(rig: Rig, api: ScriptedApi) -> None:
    await running(rig, A="1")
    secret, pod = api.objects[SECRETS][f"{A}-env-1"], api.objects[PODS][f"{A}-0"]["metadata"]["uid"]
    assert (await rig.update(A, labels={"team": "b"})).generation == 2
    await rig.settled(A, Phase.RUNNING)
    assert api.objects[SECRETS] == {f"{A}-env-1": secret}
    assert api.objects[PODS][f"{A}-0"]["metadata"]["uid"] == pod
    await rig.env(A, A="3")
    await rig.settled(A, Phase.RUNNING)
    await until_secret(api, f"{A}-env-3")


async def test_sandbox_without_variables_has_an_empty_secret(rig: Rig, api: ScriptedApi) -> None:
    await running(rig)
    secret = api.objects[SECRETS][f"{A}-env-1"]
    assert (content(api, f"{A}-env-1"), api.starts) == ({}, [("1", {})])
    # It is the same when it is written again.
    api.edit(SERVICES, f"{A}-service", publishNotReadyAddresses=False)
    await until(lambda: api.objects[SERVICES][f"{A}-service"]["spec"]["publishNotReadyAddresses"])
    await rig.settled(A, Phase.RUNNING)
    assert api.objects[SECRETS] == {f"{A}-env-1": secret}


@pytest.mark.slow
async def test_environments_of_a_sandbox_that_never_runs_do_not_pile_up(rig: Rig, api: ScriptedApi) -> None:
    api.crashing.add(A)
    await rig.create(A)
    for generation in range(2, 5):
        await rig.env(A, A=str(generation))
        await until_secret(api, f"{A}-env-{generation}")
    assert (await rig.get(A)).status.phase is not Phase.RUNNING


@pytest.mark.slow
async def test_secret_of_a_generation_that_never_got_a_template_is_removed(rig: Rig, api: ScriptedApi) -> None:
    await running(rig, A="1")

    async def refuse(_: web.Request) -> web.StreamResponse:
        return status(403, "admission webhook denied the request")

    entry = (lambda request: request.method == "PATCH" and request.path == f"/{SETS}/{A}", refuse)
    api.lasting.append(entry)
    await rig.env(A, A="2")
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert api.objects[SECRETS].keys() == {f"{A}-env-1", f"{A}-env-2"}
    # Another process knows the Secrets by what the Service lists.
    await rig.restart()
    await rig.env(A, A="3")
    # From then on the second generation is not tried again.
    await until(lambda: f"{A}-env-3" in api.objects[SECRETS])
    api.lasting.remove(entry)
    await rig.settled(A, Phase.RUNNING)
    await until_secret(api, f"{A}-env-3")
    assert api.starts == [("1", {"A": "1"}), ("3", {"A": "3"})]


@pytest.mark.parametrize("immutable", [True, False])
@pytest.mark.slow
async def test_secret_with_another_content_is_replaced(rig: Rig, api: ScriptedApi, immutable: bool) -> None:
    await running(rig, A="1")
    copied = copy.deepcopy(api.objects[SECRETS][f"{A}-env-1"])
    api.delete(SECRETS, f"{A}-env-1")
    for field in ("uid", "resourceVersion", "managedFields", "generation"):
        del copied["metadata"][field]
    copied |= {"immutable": immutable, "data": {"A": "Mg==", "THEIRS": "Mg=="}}
    api.put(SECRETS, copied)
    # What is repaired is written as a whole.
    api.edit(SERVICES, f"{A}-service", publishNotReadyAddresses=False)
    await until(lambda: f"{A}-env-1" in api.objects[SECRETS] and content(api, f"{A}-env-1") == {"A": "1"})
    await rig.settled(A, Phase.RUNNING)
    api.delete(PODS, f"{A}-0")
    api.control("default", A)
    assert api.objects[SECRETS][f"{A}-env-1"]["immutable"]
    assert api.starts[1] == ("1", {"A": "1"})


@pytest.mark.slow
async def test_secrets_of_a_deleted_sandbox_are_removed_without_the_garbage_collector(
    rig: Rig, api: ScriptedApi
) -> None:
    await running(rig, A="1")
    api.unmade.add(A)
    await rig.env(A, A="2")
    await rig.until(A, lambda one: one.applied_generation == 2)
    api.controllers.discard("garbage")
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    assert not api.objects[SECRETS]


@pytest.mark.slow
async def test_secret_of_somebody_else_with_the_name_of_a_former_generation_is_left_alone(
    rig: Rig, api: ScriptedApi
) -> None:
    await running(rig, A="1")
    theirs = {"metadata": {"name": f"{A}-env-1", "annotations": {}}, "data": {}}
    await rig.suspend()
    await rig.env(A, A="2")
    api.delete(SECRETS, f"{A}-env-1")
    api.put(SECRETS, theirs)
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    assert api.objects[SECRETS].keys() == {f"{A}-env-1", f"{A}-env-2"}


@pytest.fixture
def former_release(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Has the engine make objects as the former release did, until it is undone."""

    def objects(*arguments: Any) -> resources.Resources[resources.Resource]:
        found = MADE(*arguments)
        del found.service.manifest["metadata"]["annotations"][manifests.ENVIRONMENTS]
        return found

    monkeypatch.setattr(manifests, "objects", objects)
    monkeypatch.setattr(resources, "names", lambda one: resources.named(one.namespace, one.objects))
    return monkeypatch


@pytest.mark.slow
async def test_sandbox_of_a_former_release_keeps_its_secret_and_its_pod_until_the_next_generation(
    rig: Rig, api: ScriptedApi, former_release: pytest.MonkeyPatch
) -> None:
    await running(rig, A="1")
    await rig.stop()
    former_release.undo()
    assert (api.objects[SECRETS].keys(), "immutable" in api.objects[SECRETS][FORMER]) == ({FORMER}, False)
    pod = api.objects[PODS][f"{A}-0"]["metadata"]["uid"]
    count = len(writes(api))
    await rig.start()
    await rig.settled(A, Phase.RUNNING)
    assert len(writes(api)) == count
    # What is written again is as it was, and so it is where only labels change.
    api.edit(SERVICES, f"{A}-service", publishNotReadyAddresses=False)
    await until(lambda: api.objects[SERVICES][f"{A}-service"]["spec"]["publishNotReadyAddresses"])
    await rig.update(A, labels={"team": "b"})
    await rig.settled(A, Phase.RUNNING)
    assert (api.objects[SECRETS].keys(), content(api, FORMER)) == ({FORMER}, {"A": "1"})
    assert api.objects[PODS][f"{A}-0"]["metadata"]["uid"] == pod
    await rig.env(A, A="3")
    await rig.settled(A, Phase.RUNNING)
    await until_secret(api, f"{A}-env-3")
    assert api.starts == [("1", {"A": "1"}), ("3", {"A": "3"})]


@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.TERMINATED])
@pytest.mark.slow
async def test_secret_of_a_former_release_goes_with_its_pod(
    rig: Rig, api: ScriptedApi, former_release: pytest.MonkeyPatch, phase: Phase
) -> None:
    await running(rig, A="1")
    await rig.stop()
    former_release.undo()
    api.controllers.discard("garbage")
    await rig.start()
    await (rig.begin(A, phase) if phase is Phase.STOPPED else rig.delete(A))
    await rig.settled(A, phase)
    await until(lambda: not api.objects[SECRETS])


@pytest.mark.slow
async def test_release_that_follows_the_former_one_again_finds_its_secret(
    rig: Rig, api: ScriptedApi, former_release: pytest.MonkeyPatch
) -> None:
    """Releases of both kinds run on one database while the service is upgraded."""
    await running(rig, A="1")
    await rig.stop()
    with former_release.context() as present:
        present.setattr(manifests, "objects", MADE)
        present.setattr(resources, "names", NAMES)
        await rig.start()
        await rig.env(A, A="2")
        await rig.settled(A, Phase.RUNNING)
        await until_secret(api, f"{A}-env-2")
        await rig.stop()
    await rig.start()
    await rig.env(A, A="3")
    await rig.settled(A, Phase.RUNNING)
    await rig.stop()
    former_release.undo()
    await rig.start()
    await rig.env(A, A="4")
    await rig.settled(A, Phase.RUNNING)
    await until(lambda: FORMER not in api.objects[SECRETS])
    assert api.starts == [(str(one), {"A": str(one)}) for one in range(1, 5)]
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    await until(lambda: not api.objects[SECRETS])
