"""The ground of the local engine's tests: real processes and directories, with and without bubblewrap."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sandbox_server.domain.pace import Pace
from sandbox_server.engines import local

from tests.support.local import LocalGround, LocalRig


@pytest.fixture(params=["isolated", pytest.param("plain", marks=pytest.mark.slow)])
def isolation(request: pytest.FixtureRequest) -> str:
    """Whether the sandboxes of the rig run in bubblewrap. `make test` runs without it what is marked with `local.BOTH`."""
    return str(request.param)


@pytest.fixture
async def rig(tmp_path: Path, pace: Pace, isolation: str) -> AsyncIterator[LocalRig]:
    isolate = isolation == "isolated"
    if isolate:
        assert local.describe("auto").startswith("bubblewrap"), "bubblewrap must run where these tests do"
    ground = LocalGround(tmp_path, isolate)
    made = LocalRig(ground, tmp_path, pace=pace)
    await made.start()
    try:
        yield made
        if made.up:
            for sandbox in made.feed.catalogue.sandboxes():
                await made.delete(sandbox.id)
            await made.there(lambda: not made.feed.catalogue.sandboxes(), within=20)
            assert ground.marked() == []
    finally:
        await made.stop()
        ground.end()
