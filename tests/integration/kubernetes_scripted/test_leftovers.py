"""What arrives after its sandbox has ended goes again, and nothing else does."""

import asyncio
import copy
from typing import Any

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.support.rig import A, Rig
from tests.support.scripted import CLAIM, CLAIMS, INGRESSES, PODS, SERVICES, SETS, until, writes
from tests.support.scripted_api import ScriptedApi

UID = "sandbox.fullstackagent.io/uid"


def late(api: ScriptedApi, collection: str, name: str) -> dict[str, Any]:
    """The object as a write would make it that arrives later."""
    found = copy.deepcopy(api.objects[collection][name])
    for field in ("uid", "resourceVersion", "generation", "deletionTimestamp"):
        found["metadata"].pop(field, None)
    return {field: value for field, value in found.items() if field != "status"}


def there(api: ScriptedApi) -> list[str]:
    return [name for one in (SETS, SERVICES, INGRESSES, CLAIMS, PODS) for name in api.objects.get(one, {})]


@pytest.mark.fault(11)
async def test_stateful_set_of_an_ended_sandbox_goes_with_all_that_its_controller_makes(
    rig: Rig, api: ScriptedApi
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    made = late(api, SETS, A)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    api.put(SETS, made)
    api.control("default", A)
    await until(lambda: not there(api))


@pytest.mark.fault(11)
@pytest.mark.parametrize("collection", [SETS, SERVICES, INGRESSES, CLAIMS])
@pytest.mark.slow
async def test_sandbox_gets_the_name_that_an_object_of_an_ended_one_took(
    rig: Rig, api: ScriptedApi, collection: str
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    made = [late(api, collection, name) for name in api.objects[collection]]
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    await rig.suspend()
    for one in made:
        api.put(collection, one)
    again = await rig.create(A)
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    assert {one["metadata"]["annotations"][UID] for one in api.objects[collection].values()} == {again.uid}


@pytest.mark.fault(11)
@pytest.mark.slow
async def test_claim_of_an_ended_sandbox_goes_unless_the_sandbox_kept_its_volume(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.delete(A, keep=True)
    kept = await rig.settled(A, Phase.TERMINATED)
    assert kept.status.reason is Reason.VOLUME_KEPT
    before = len(writes(api))
    api.put(CLAIMS, api.objects[CLAIMS][CLAIM] | {"status": {"phase": "Bound"}})
    await rig.restart()
    await asyncio.sleep(0.5)
    assert (there(api), len(writes(api))) == ([CLAIM], before)
    made = late(api, CLAIMS, CLAIM)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    assert there(api) == []
    api.put(CLAIMS, made)
    await until(lambda: not there(api))


@pytest.mark.fault(11)
@pytest.mark.fault(24)
@pytest.mark.slow
async def test_object_of_a_sandbox_that_the_store_does_not_know_stays(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    made = [(one, late(api, one, name)) for one in (SETS, SERVICES, CLAIMS) for name in api.objects[one]]
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    for collection, one in made:
        one["metadata"]["annotations"][UID] = "another installation's"
        api.put(collection, one)
    before = len(writes(api))
    await asyncio.sleep(0.5)
    assert len(writes(api)) == before
    await rig.create(A)
    await rig.until(A, lambda one: one.status.reason is Reason.NAME_CONFLICT)
    assert api.objects[SERVICES][f"{A}-service"]["metadata"]["annotations"][UID] == "another installation's"
