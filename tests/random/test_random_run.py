"""Traffic and faults at random, with a checker of what must always hold: `make test-random SECONDS=300 SEED=1`."""

import asyncio
import os
import random
import time
from collections.abc import Callable

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient

from tests.random import checker
from tests.random.traffic import NAMES, Caller, Faults, Ledger, Watcher, project, spec
from tests.support.log import whole_log
from tests.support.marked import end_programs
from tests.support.service import Service

SECONDS = float(os.environ.get("SECONDS", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(10**6)
PHASES = {pb.DESIRED_STATE_RUNNING: pb.PHASE_RUNNING, pb.DESIRED_STATE_STOPPED: pb.PHASE_STOPPED}


def chooser(actor: str) -> random.Random:
    """Each actor's own choices, whatever the others do meanwhile."""
    return random.Random(f"{SEED} {actor}")


async def settle(client: AsyncClient, service: Service) -> int:
    """Every sandbox comes to its desired phase; where the log then ends."""
    async with asyncio.timeout(90):
        while True:
            for folder in service.sandboxes():
                (folder / "volume" / "home" / "die").unlink(missing_ok=True)
            found = await client.page(page_size=1000)
            if all(one.status.phase == PHASES.get(one.desired_state) for one in found.sandboxes):
                return found.sequence
            await asyncio.sleep(0.2)


async def go(service: Service) -> Ledger:
    ledger, disks = Ledger(), checker.Disks(service)
    watchers = [
        Watcher(),
        Watcher(project="random-0"),
        Watcher(label_selector="third=1"),
        Watcher(sandbox_ids=NAMES[:5]),
        Watcher(chooser("first hopper")),
        Watcher(chooser("second hopper"), project="random-1"),
    ]
    async with AsyncClient(service.address, timeout=60) as client:
        for name in NAMES:
            ledger.requests += 1
            ledger.acknowledge(await client.create(project(name), sandbox_id=name, spec=spec(name), env={"ID": name}))
        watching = [asyncio.create_task(one.run(service)) for one in watchers]
        end = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as tasks:
            for number in range(6):
                tasks.create_task(Caller(client, ledger, chooser(f"caller {number}")).run(end))
            tasks.create_task(Faults(service, ledger.counts, chooser("faults")).run(end))
            while time.monotonic() < end:
                await asyncio.to_thread(disks.look)
                await asyncio.sleep(0.3)
        last = await settle(client, service)
        log = await whole_log(client, last)
        async with asyncio.timeout(30):
            for one in watchers:
                final = max((status.sequence for status in log if one.matches(status)), default=0)
                while not one.history or one.history[-1].sequence < final:
                    await asyncio.sleep(0.1)
        for task in watching:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        checker.check_log(log, ledger)
        for one in watchers:
            checker.check_watcher(one, log)
            checker.check_changes(one)
        await checker.check_ground(client, service, log)
        disks.look()
    ledger.counts["events"] = last
    ledger.counts["watches opened"] = sum(one.opened for one in watchers)
    ledger.counts["disks"] = len(disks.born)
    return ledger


@pytest.mark.timeout(int(SECONDS) + 240)
def test_random_traffic_with_faults_keeps_every_promise(make_service: Callable[..., Service]) -> None:
    print(f"SEED={SEED}")
    try:
        ledger = asyncio.run(go(make_service("--resync", "5").start()))
    finally:
        end_programs()
    print(dict(sorted(ledger.counts.items())))
    # What never happened was not tested.
    for happened in ("create", "start", "stop", "env", "delete", "status", "get", "list", "pages", "repeated", "disks"):
        assert ledger.counts[happened]
