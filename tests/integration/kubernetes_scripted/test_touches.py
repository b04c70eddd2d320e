"""A pod that the StatefulSet controller could not make: the service wakes the controller when the cause may be gone."""

import asyncio
import dataclasses
import time

import pytest
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason

from tests.support.rig import FAST, A, Rig
from tests.support.scripted import DENIED, EVENTS, SETS, event, until, writes
from tests.support.scripted_api import ScriptedApi

pytestmark = [pytest.mark.find(14), pytest.mark.fault(64)]
OFTEN = 0.3
TOUCH = ("PATCH", A)


@pytest.fixture
def pace() -> Pace:
    return dataclasses.replace(FAST, touch_every=OFTEN)


async def denied(rig: Rig, api: ScriptedApi) -> None:
    api.unmade.add(A)
    await rig.create(A)
    await until(lambda: A in api.objects.get(SETS, {}))
    api.put(EVENTS, event("e", api.objects[SETS][A], "StatefulSet", DENIED))
    await rig.until(A, lambda one: one.status.reason is Reason.ADMISSION_DENIED)


@pytest.mark.slow
async def test_controller_is_woken_until_it_makes_the_pod_and_then_left_alone(rig: Rig, api: ScriptedApi) -> None:
    await denied(rig, api)
    before, since = await rig.get(A), len(writes(api))
    began = time.monotonic()
    await until(lambda: len(writes(api)) >= since + 3)
    touches = writes(api)[since:]
    assert set(touches) == {TOUCH}
    assert len(touches) <= (time.monotonic() - began) / OFTEN + 1
    assert api.objects[SETS][A]["metadata"]["generation"] == 1
    # The same attempt, without a change of the status, an event or a contest.
    assert await rig.get(A) == before
    api.unmade.clear()
    await rig.settled(A, Phase.RUNNING)
    since = len(writes(api))
    await asyncio.sleep(3 * OFTEN)
    assert TOUCH not in writes(api)[since:]


@pytest.mark.slow
async def test_pod_that_is_missing_without_a_known_cause_is_asked_for_as_well(rig: Rig, api: ScriptedApi) -> None:
    """An event is kept for an hour only, and may never have been written."""
    api.unmade.add(A)
    await rig.create(A)
    await until(lambda: A in api.objects.get(SETS, {}))
    await asyncio.sleep(OFTEN / 2)
    api.unmade.clear()
    await rig.settled(A, Phase.RUNNING)


async def test_stopped_sandbox_is_not_touched(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    since = len(writes(api))
    await asyncio.sleep(3 * OFTEN)
    assert TOUCH not in writes(api)[since:]


@pytest.mark.slow
async def test_sandbox_of_a_release_without_the_annotation_is_touched_without_an_apply(
    rig: Rig, api: ScriptedApi
) -> None:
    await denied(rig, api)
    old = api.objects[SETS][A]
    del old["metadata"]["annotations"]["sandbox.fullstackagent.io/touched"]
    api.put(SETS, old)
    await asyncio.sleep(2 * OFTEN)
    since = len(writes(api))
    await until(lambda: len(writes(api)) >= since + 2)
    assert set(writes(api)[since:]) == {TOUCH}
