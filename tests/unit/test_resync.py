"""The resync: what no wake-up told of is seen all the same."""

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sandbox_server import feed, store
from sandbox_server.domain import lifecycle
from sandbox_server.domain.observed import Observed
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.reconciler.reconciler import Reconciler
from sandbox_server.rpc import render

from tests import samples
from tests.unit.domain.obedient import ObedientEngine


class SilentEngine:
    """Does what it is asked, and tells of nothing by itself."""

    def sees(self, _namespace: str) -> bool:
        return True

    def __init__(self) -> None:
        self.world = ObedientEngine(Observed())

    def observe(self, _sandbox: Sandbox) -> Observed:
        return self.world.observe()

    async def apply(self, sandbox: Sandbox, _env: Any, replicas: int) -> int:
        return self.world.act(sandbox, lifecycle.Apply(replicas))


async def test_a_change_that_nobody_told_of_is_seen_at_the_next_resync(tmp_path: Path) -> None:
    database = store.Store(f"sqlite:///{tmp_path}/a.db", store.Cipher([b"k" * 32]))
    memory = feed.Feed(database, render.Encoder(), heartbeat=60)
    engine: Any = SilentEngine()
    await database.open(memory.publish)
    made = await database.write(lambda _: store.Wanted(samples.sandbox(), {}))
    reconciler = Reconciler(
        memory, database, engine, workers=1, resync=0.05, start_deadline=timedelta(seconds=60), now=lambda: samples.NOW
    )
    task = asyncio.create_task(reconciler.run())

    async def until(holds: Callable[[Sandbox], bool]) -> None:
        async with asyncio.timeout(10):
            while (change := memory.get(made.key)) is None or not holds(change.sandbox):
                await asyncio.sleep(0.01)

    await until(lambda one: one.status.applied_generation == 1)
    while engine.world.step():
        pass
    await until(lambda one: one.status.phase is Phase.RUNNING)
    engine.world.pod = dataclasses.replace(engine.world.pod, restart_count=3)
    await until(lambda one: one.status.restart_count == 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await database.close()
