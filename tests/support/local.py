"""The ground of the local engine: real processes and directories, with and without bubblewrap."""

import asyncio
import contextlib
import json
import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import Readiness, SandboxSpec
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.ports import LOCAL_PORTS
from tests.support.rig import Rig
from tests.support.waiting import PATIENCE

BOTH = pytest.mark.parametrize("isolation", ["isolated", "plain"])
"""Marks a test whose subject differs without bubblewrap, so that `make test` runs it with and without."""
# Serves until the file `crash` is in its home.
PROGRAM = """
while ! test -e crash; do sleep 0.05; done
echo "cannot connect with $TOKEN" >&2; exit 3
"""


class LocalGround:
    """`mark` is a word in every process that a test starts with it, by which what is left of them is found."""

    namespace = "default"

    def __init__(self, folder: Path, isolate: bool) -> None:
        self.isolates = isolate
        self.settings = Settings(
            data_dir=folder / "data",
            local_terminal="",
            local_isolation="auto" if isolate else "none",
            local_ports=LOCAL_PORTS,
        )
        self.mark = f"1000.{uuid.uuid4().int % 10**9}"

    def spec(self) -> SandboxSpec:
        return self.script(PROGRAM)

    def script(self, text: str, **readiness: Any) -> SandboxSpec:
        """A spec that runs a shell script; `sleep MARK` in it is the marked sleep of 1000 seconds."""
        command = ("/bin/sh", "-c", text.replace("MARK", self.mark))
        return samples.spec(command=command, readiness=Readiness(**readiness))

    def marked(self) -> list[int]:
        """The marked sleeps that run."""
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if self.mark in one.cmdline() and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one.pid)
        return found

    def folder(self, sandbox_id: str) -> Path:
        return self.settings.data_dir / "sandboxes" / self.namespace / sandbox_id

    def home(self, sandbox_id: str) -> Path:
        return self.folder(sandbox_id) / "volume" / "home"

    def leader(self, sandbox_id: str) -> int:
        """The pid of the process that the engine started."""
        return _leader(self.folder(sandbox_id) / "main.process")

    async def crash(self, sandbox: Sandbox) -> None:
        (self.home(sandbox.id) / "crash").touch()

    async def heal(self, sandbox: Sandbox) -> None:
        (self.home(sandbox.id) / "crash").unlink()

    def end(self) -> None:
        for file in self.settings.data_dir.glob("sandboxes/*/*/main.process"):
            with contextlib.suppress(OSError, ValueError):
                os.killpg(_leader(file), signal.SIGKILL)
        for pid in self.marked():
            os.kill(pid, signal.SIGKILL)


def _leader(file: Path) -> int:
    return int(json.loads(file.read_text())["pid"])


def everything(folder: Path) -> dict[str, str]:
    """Every file in a folder with what is in it."""
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


class LocalRig(Rig):
    ground: LocalGround
    up = False

    async def start(self) -> None:
        await super().start()
        self.up = True

    async def stop(self) -> None:
        """May be called twice."""
        if self.up:
            self.up = False
            await super().stop()

    async def stopped(self, sandbox_id: str) -> Sandbox:
        """A sandbox that has run and is stopped."""
        await self.create(sandbox_id)
        await self.settled(sandbox_id, Phase.RUNNING)
        await self.begin(sandbox_id, Phase.STOPPED)
        return await self.settled(sandbox_id, Phase.STOPPED)

    async def there(self, check: Callable[[], object], within: float = 10) -> None:
        """Returns once `check` holds."""
        async with asyncio.timeout(within * PATIENCE):
            while not check():
                await asyncio.sleep(0.01)
