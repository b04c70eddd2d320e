"""A random run: traffic of callers and watchers, one random fault at a time, and the checks of what was told meanwhile.

`make robustness SEED=1 MINUTES=30`. The seed replays what each actor chooses; the times at which things happen differ.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient

from tests.robustness import checker
from tests.robustness.traffic import NAMES, Anywhere, Caller, Ledger, Watcher
from tests.support.log import whole_log
from tests.support.waiting import PATIENCE

MINUTES = float(os.environ.get("MINUTES", "0.5"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(10**6)
PHASES = {pb.DESIRED_STATE_RUNNING: pb.PHASE_RUNNING, pb.DESIRED_STATE_STOPPED: pb.PHASE_STOPPED}
SETTLED_WITHIN = 180.0
QUIET = 6.0
"""Seconds: more than the `--resync` of the services."""
ACTS = ("create", "start", "stop", "env", "delete", "status", "get", "list", "pages", "repeated")


class Fault(Protocol):
    """Does something bad, and puts it right again. Its name is counted."""

    def __call__(self) -> Awaitable[None]: ...


class World(Protocol):
    """What the service runs in."""

    addresses: Sequence[str]
    namespaces: Sequence[str]

    def faults(self) -> Sequence[Fault]:
        """Returns the faults to choose from; one that is there twice is chosen more often."""

    async def look(self) -> None:
        """Looks at what must hold at every moment. Called again and again."""

    def heal(self) -> None:
        """Puts right what keeps a sandbox from its desired state."""

    async def check(self, rows: Mapping[str, pb.Sandbox], log: Sequence[pb.SandboxStatus]) -> None:
        """Checks that what is there agrees with the sandboxes by their ids."""


def chooser(actor: str) -> random.Random:
    """Returns the choices of one actor, which do not depend on what the others do."""
    return random.Random(f"{SEED} {actor}")


def _name(fault: Fault) -> str:
    """Returns the name of a fault, which may be a partial call of `asyncio.to_thread` with it."""
    return str(getattr(getattr(fault, "args", [fault])[0], "__name__", fault))


async def disturb(world: World, ledger: Ledger, end: float) -> None:
    """Has one fault after another until `end`. Prints each as it begins."""
    choose = chooser("faults")
    while time.monotonic() < end - 3:
        await asyncio.sleep(choose.uniform(0.2, 1.5))
        fault = choose.choice(world.faults())
        print(f"{end - time.monotonic():6.1f} s left: {_name(fault)}", flush=True)
        await fault()
        ledger.counts[_name(fault)] += 1


async def settle(service: Anywhere, world: World) -> pb.ListSandboxesResponse:
    """Returns every sandbox once each has come to its desired phase, and nothing has changed for longer than a resync."""
    end = time.monotonic() + SETTLED_WITHIN
    sequence, since = 0, time.monotonic()
    while True:
        world.heal()
        found: pb.ListSandboxesResponse = await service.ask("page", page_size=1000)
        late = [one for one in found.sandboxes if one.status.phase != PHASES.get(one.desired_state)]
        if late or found.sequence != sequence or any(one.status.stale for one in found.sandboxes):
            sequence, since = found.sequence, time.monotonic()
        elif time.monotonic() > since + QUIET:
            return found
        assert time.monotonic() < end, f"not settled: {late or found.sequence}"
        await asyncio.sleep(0.2)


async def events(client: AsyncClient, last: int) -> list[pb.Event]:
    """Returns the history with its causes."""
    return [one async for one in client.events(oldest_first=True) if one.sequence <= last]


async def go(world: World) -> Ledger:
    """Runs for MINUTES, and checks everything. Raises AssertionError for a violation."""
    print(f"SEED={SEED}", flush=True)
    ledger = Ledger()
    watchers = [
        Watcher(),
        Watcher(project="random-0"),
        Watcher(label_selector="third=1"),
        Watcher(chooser("first hopper")),
        Watcher(chooser("second hopper"), project="random-1"),
        Watcher(chooser("third hopper"), namespace=world.namespaces[0], sandbox_ids=names_in(world, 0)),
    ]
    async with contextlib.AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(AsyncClient(one, timeout=60)) for one in world.addresses]
        service = Anywhere(clients, world.namespaces, chooser("replica"))
        first = Caller(service, ledger, chooser("first"))
        for name in NAMES:
            await first.mutate("create", first.make, name)
        watching = [asyncio.create_task(one.run(clients)) for one in watchers]
        end = time.monotonic() + MINUTES * 60
        async with asyncio.TaskGroup() as tasks:
            for number in range(6):
                tasks.create_task(Caller(service, ledger, chooser(f"caller {number}")).run(end))
            tasks.create_task(disturb(world, ledger, end))
            while time.monotonic() < end:
                await world.look()
                await asyncio.sleep(0.3)
        last = (await settle(service, world)).sequence
        log = await whole_log(clients[0], last)
        async with asyncio.timeout(60 * PATIENCE):
            for one in watchers:
                final = max((status.sequence for status in log if one.matches(status)), default=0)
                while not one.history or one.history[-1].sequence < final:
                    await asyncio.sleep(0.1)
        for task in watching:
            assert not task.done(), task.exception()
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        for client in clients:
            assert [one.status for one in await events(client, last)] == log, "the replicas do not have one history"
        checker.check_log(log, ledger)
        checker.check_mutations(await events(clients[-1], last), ledger, service.unsure)
        for one in watchers:
            checker.check_watcher(one, log)
            checker.check_changes(one)
        rows = {one.sandbox_id: one for one in (await service.ask("page", page_size=1000)).sandboxes}
        latest = {one.sandbox_id: one for one in log}
        changed = [(latest[name], one.status) for name, one in rows.items() if one.status != latest[name]]
        assert not changed, f"a settled sandbox has changed: {changed}"
        await world.check(rows, log)
    ledger.counts["events"] = last
    ledger.counts["mutations"] = len(ledger.mutations)
    ledger.counts["calls"] = service.tries
    ledger.counts["watches opened"] = sum(one.opened for one in watchers)
    print(dict(sorted(ledger.counts.items())), f"slowest call: {service.slowest:.1f} s", flush=True)
    # What never happened was not tested.
    assert not [act for act in ACTS if not ledger.counts[act]]
    return ledger


def names_in(world: World, number: int) -> list[str]:
    """Returns the ids of the sandboxes in a namespace."""
    return [name for name in NAMES if int(name[2:]) % len(world.namespaces) == number][:5]
