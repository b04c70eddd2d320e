"""The start deadline of a sandbox that was RUNNING for longer than it."""

import asyncio
import copy
import dataclasses
from pathlib import Path

import pytest
from aiohttp import web
from sandbox_server.domain.phase import Phase, Reason

from tests.support.rig import FAST, A, Rig
from tests.support.scripted import PODS, ScriptedGround, started
from tests.support.scripted_api import ScriptedApi

DEADLINE = 1.0


@pytest.mark.fault(53)
@pytest.mark.find(1)
async def test_lost_readiness_is_starting_until_the_deadline_has_passed_since(api: ScriptedApi, tmp_path: Path) -> None:
    async with started(Rig(ScriptedGround(api, tmp_path), tmp_path, start_deadline=DEADLINE)) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        await asyncio.sleep(1.5 * DEADLINE)
        told = len(rig.history)
        pod = copy.deepcopy(api.objects[PODS][f"{A}-0"])
        pod["status"]["conditions"][0] |= {"status": "False", "reason": "ContainersNotReady"}
        pod["status"]["conditions"][1] |= {"status": "False", "reason": "ContainersNotReady"}
        pod["status"]["containerStatuses"][0]["ready"] = False
        api.put(PODS, pod)
        failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
        fallen = next(one for one in rig.history[told:] if one.status.phase is not Phase.RUNNING)
        assert (fallen.status.phase, fallen.status.reason) == (Phase.STARTING, Reason.NOT_READY)
        assert failed.status.reason is Reason.START_DEADLINE
        assert (failed.status.transition_time - fallen.status.transition_time).total_seconds() >= DEADLINE * 0.9


@pytest.mark.slow
@pytest.mark.fault(54)
@pytest.mark.find(2)
async def test_the_deadline_holds_while_the_engine_fails_and_backs_off(api: ScriptedApi, tmp_path: Path) -> None:
    async def drop(request: web.Request) -> web.StreamResponse | None:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    # By itself it would be tried again far later.
    pace = dataclasses.replace(FAST, retry_first=120, retry_most=120)
    api.lasting.append((lambda request: request.method == "PATCH", drop))
    async with started(Rig(ScriptedGround(api, tmp_path), tmp_path, start_deadline=DEADLINE, pace=pace)) as rig:
        made = await rig.create(A)
        failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
        assert failed.status.reason is Reason.START_DEADLINE
        late = (failed.status.transition_time - made.create_time).total_seconds() - DEADLINE
        assert 0 <= late < 50
        api.lasting.clear()
        rig.reconciler.wake(rig.key(A))
        await rig.settled(A, Phase.RUNNING, within=40)
