"""The contract suite on the local engine, with and without bubblewrap."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sandbox_server import engines
from sandbox_server.domain.sandbox import Sandbox, SandboxSpec
from sandbox_server.engines import local

from tests import samples
from tests.contract.rig import Rig
from tests.contract.suite import *  # noqa: F403 - the tests themselves

# Serves until the file `crash` is in its home.
PROGRAM = "test -e crash && exit 3; while sleep 0.05; do test -e crash && exit 3; done"


class LocalGround:
    namespace = "default"

    def __init__(self, folder: Path, isolate: bool) -> None:
        self.config = local.Config(data_dir=folder / "data", terminal="", isolate=isolate)

    def engine(self) -> engines.Engine:
        return local.LocalEngine(self.config)

    def spec(self) -> SandboxSpec:
        return samples.spec(command=("/bin/sh", "-c", PROGRAM))

    def home(self, sandbox: Sandbox) -> Path:
        return self.config.data_dir / "sandboxes" / sandbox.namespace / sandbox.id / "volume" / "home"

    async def crash(self, sandbox: Sandbox) -> None:
        (self.home(sandbox) / "crash").touch()

    async def heal(self, sandbox: Sandbox) -> None:
        (self.home(sandbox) / "crash").unlink()

    def end(self) -> None:
        for file in self.config.data_dir.glob("sandboxes/*/*/*.process"):
            with contextlib.suppress(OSError, ValueError):
                os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)


@pytest.fixture(params=["isolated", "plain"])
async def rig(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    isolate = request.param == "isolated"
    if isolate:
        assert local.describe(True).startswith("bubblewrap"), "bubblewrap must run where these tests do"
    ground = LocalGround(tmp_path, isolate)
    made = Rig(ground, tmp_path)
    await made.start()
    try:
        yield made
    finally:
        for sandbox in list(made.feed.live()):
            await made.delete(sandbox.id)
        async with asyncio.timeout(20):
            while list(made.feed.live()):
                await asyncio.sleep(0.02)
        await made.stop()
        ground.end()
