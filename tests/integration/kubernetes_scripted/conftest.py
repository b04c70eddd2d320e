"""A scripted API server for each test, and the service over it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sandbox_server.domain.pace import Pace

from tests.support.rig import Rig
from tests.support.scripted import ANSWERED_WITHIN, ScriptedGround, started
from tests.support.scripted_api import ScriptedApi


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ScriptedApi]:
    made = ScriptedApi()
    made.kubelet.folder = tmp_path
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture
def answered_within() -> float:
    """Seconds for an answer of the API server. A test whose subject is a call that is not answered has less."""
    return ANSWERED_WITHIN


@pytest.fixture
async def rig(api: ScriptedApi, tmp_path: Path, pace: Pace, answered_within: float) -> AsyncIterator[Rig]:
    ground = ScriptedGround(api, tmp_path, answered_within)
    async with started(Rig(ground, tmp_path, pace=pace)) as made:
        yield made
