"""While many creates wait for a slow API server, the status of a sandbox that it has already made is recorded at once."""

import asyncio
from pathlib import Path

from aiohttp import web
from sandbox_server.domain.phase import Phase

from tests.support.rig import Rig
from tests.support.scripted import SETS, ScriptedGround, started, until
from tests.support.scripted_api import ScriptedApi

FIRST = "first"
LATER = [f"later-{number}" for number in range(12)]
LONG = 600.0
"""Seconds for an answer of the API server: none is late in this test."""


async def test_a_sandbox_runs_while_those_after_it_wait_for_their_turn(api: ScriptedApi, tmp_path: Path) -> None:
    rig = Rig(ScriptedGround(api, tmp_path, LONG), tmp_path / "rig")
    rig.settings["workers"] = 1
    answering = asyncio.Event()

    async def hold(_: web.Request) -> None:
        await answering.wait()

    api.lasting.append((lambda request: request.method == "PATCH" and FIRST not in request.path, hold))
    async with started(rig):
        # Sandboxes that are created before their namespace is listed come to the worker in any order.
        await until(lambda: rig.engine.synced(rig.ground.namespace))
        for sandbox_id in (FIRST, *LATER):
            await rig.create(sandbox_id)
        await rig.settled(FIRST, Phase.RUNNING)
        assert list(api.objects[SETS]) == [FIRST]
        answering.set()
        for sandbox_id in LATER:
            await rig.settled(sandbox_id, Phase.RUNNING)
