"""Callers, watchers and faults over one service: all that happens to it in a random run."""

import asyncio
import contextlib
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Kind, errors
from sandbox_client.watch import Event

from tests.support.marked import MARK, kill, programs
from tests.support.service import Service

NAMES = [f"r-{number}" for number in range(12)]
# Ends when it is told to; what is in `born` is as old as the disk.
SCRIPT = "test -e born || date +%s.%N >born; while sleep 0.2; do test -e die && rm die && exit 3; done"
REFUSALS = (errors.NotFound, errors.AlreadyExists, errors.FailedPrecondition, errors.Aborted)


def project(name: str) -> str:
    return f"random-{int(name[2:]) % 2}"


def spec(name: str) -> pb.SandboxSpec:
    return pb.SandboxSpec(command=["/bin/sh", "-c", SCRIPT, MARK], labels={"third": str(int(name[2:]) % 3)})


@dataclass
class Ledger:
    """The answers that callers got, and what they asked for."""

    desired: dict[tuple[str, int], int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def heard(self, told: pb.Sandbox) -> pb.Sandbox:
        """Checks that no two answers about one generation differ."""
        assert self.desired.setdefault((told.uid, told.status.generation), told.desired_state) == told.desired_state
        return told

    def acknowledge(self, told: pb.Sandbox) -> pb.Sandbox:
        self.acknowledged[told.uid] = max(self.acknowledged.get(told.uid, 0), told.status.generation)
        self.sequences[told.sandbox_id] = max(self.sequences.get(told.sandbox_id, 0), told.status.sequence)
        return self.heard(told)


class Caller:
    """Asks for anything of anything, and repeats itself."""

    def __init__(self, client: AsyncClient, ledger: Ledger, choose: random.Random) -> None:
        self.client = client
        self.ledger = ledger
        self.choose = choose

    async def run(self, end: float) -> None:
        acts = [self.create, self.start, self.stop, self.env, self.delete, self.status, self.get, self.list, self.pages]
        while time.monotonic() < end:
            act, name = self.choose.choice(acts), self.choose.choice(NAMES)
            try:
                await act(name)
                self.ledger.counts[act.__name__] += 1
            except REFUSALS as refused:
                self.ledger.counts[type(refused).__name__] += 1
            await asyncio.sleep(self.choose.random() * 0.1)

    async def mutate(self, ask: Callable[..., Awaitable[pb.Sandbox]], name: str, **payload: Any) -> None:
        """Makes a mutation under an id, and often once more; now and then only for a generation that was seen."""
        payload["request_id"] = str(uuid.UUID(int=self.choose.getrandbits(128), version=4))
        expected = 0
        if "adopt_volume" not in payload and self.choose.random() < 0.4:
            expected = (await self.client.get(name)).status.generation
            payload["expected_generation"] = expected + self.choose.choice((0, 0, 1000))
        self.ledger.requests += 1
        made = self.ledger.acknowledge(await ask(name, **payload))
        assert payload.get("expected_generation", 0) == expected <= made.status.generation
        if self.choose.random() < 0.4:
            again = self.ledger.acknowledge(await ask(name, **payload))
            assert (again.uid, again.status.generation >= made.status.generation) == (made.uid, True)
            try:
                await self.client.stop("another", request_id=payload["request_id"])
                raise AssertionError("one id stood for two mutations")
            except errors.InvalidArgument as refused:
                assert refused.reason == "REQUEST_ID_REUSED"
                self.ledger.counts["repeated"] += 1

    async def create(self, name: str) -> None:
        adopt = self.choose.random() < 0.5

        async def ask(name: str, **payload: Any) -> pb.Sandbox:
            return await self.client.create(
                project(name), sandbox_id=name, spec=spec(name), env={"ID": name}, **payload
            )

        with contextlib.suppress(errors.AlreadyExists):
            await self.mutate(ask, name, adopt_volume=adopt)

    async def start(self, name: str) -> None:
        await self.mutate(self.client.start, name)

    async def stop(self, name: str) -> None:
        await self.mutate(self.client.stop, name)

    async def env(self, name: str) -> None:
        values = {"ID": name, f"N{self.choose.randrange(3)}": str(self.choose.random())}
        unset = ["N1"] if "N1" not in values and self.choose.random() < 0.3 else []
        await self.mutate(self.client.update_env, name, set=values, unset=unset, replace=not unset)

    async def delete(self, name: str) -> None:
        await self.mutate(self.client.delete, name, keep_volume=self.choose.random() < 0.3)

    async def status(self, name: str) -> None:
        known = self.ledger.sequences.get(name, 0)
        assert (await self.client.status(name, min_sequence=known)).sequence >= known

    async def get(self, name: str) -> None:
        known = self.ledger.sequences.get(name, 0)
        found = self.ledger.heard(await self.client.get(name, min_sequence=known))
        assert found.status.sequence >= known
        assert "ID" in found.env_names

    async def list(self, name: str) -> None:
        third, phase = f"third={int(name[2:]) % 3}", self.choose.choice([pb.PHASE_RUNNING, pb.PHASE_STOPPED])
        async for one in self.client.list(project=project(name), label_selector=third, phases=[phase]):
            assert (one.spec.project, one.status.phase) == (project(name), phase)
            assert f"third={one.spec.labels['third']}" == third
            self.ledger.heard(one)

    async def pages(self, _: str) -> None:
        token, found = "", list[str]()
        while token or not found:
            page = await self.client.page(page_size=5, page_token=token)
            found += [one.sandbox_id for one in page.sandboxes]
            token = page.next_page_token
            if not token:
                break
        assert len(found) == len(set(found)) <= len(NAMES)


class Watcher:
    """Listens all the time, or again and again from where it was."""

    def __init__(self, hops: random.Random | None = None, **wanted: Any) -> None:
        self.wanted = wanted
        self.hops = hops
        self.history: list[Event] = []
        self.opened = 0

    def matches(self, status: pb.SandboxStatus) -> bool:
        third = str(int(status.sandbox_id[2:]) % 3)
        return (
            status.sandbox_id in self.wanted.get("sandbox_ids", NAMES)
            and status.project == self.wanted.get("project", status.project)
            and f"third={third}" == self.wanted.get("label_selector", f"third={third}")
        )

    async def run(self, service: Service) -> None:
        after = None
        async with AsyncClient(service.address) as client:
            while True:
                self.opened += 1
                left = self.hops.randrange(1, 30) if self.hops else -1
                async with contextlib.aclosing(client.watch(**self.wanted, after_sequence=after)) as events:
                    async for event in events:
                        self.history.append(event)
                        left -= 1
                        if event.kind is not Kind.SNAPSHOT:
                            after = event.sequence
                            if left <= 0 and self.hops:
                                break


class Faults:
    """One at a time: the service killed, ended or frozen; a sandbox's process killed, inside or around it, or crashing."""

    def __init__(self, service: Service, counts: Counter[str], choose: random.Random) -> None:
        self.service = service
        self.counts = counts
        self.choose = choose

    async def run(self, end: float) -> None:
        faults = [self.kill, self.terminate, self.freeze, *[self.kill_inside, self.kill_around, self.crash] * 4]
        while time.monotonic() < end - 3:
            await asyncio.sleep(self.choose.uniform(0.2, 1.5))
            fault = self.choose.choice(faults)
            await asyncio.to_thread(fault)
            self.counts[fault.__name__] += 1

    def kill(self) -> None:
        self.service.kill()
        self.service.start()

    def terminate(self) -> None:
        assert self.service.terminate() == 0
        self.service.start()

    def freeze(self) -> None:
        assert self.service.process is not None
        self.service.process.send_signal(signal.SIGSTOP)
        time.sleep(self.choose.uniform(0.1, 2))
        self.service.process.send_signal(signal.SIGCONT)

    def kill_inside(self) -> None:
        for pid in self.choose.sample(found := list(programs()), min(1, len(found))):
            kill(pid)

    def kill_around(self) -> None:
        for pid in self.choose.sample(found := list(programs()), min(1, len(found))):
            with contextlib.suppress(psutil.Error):
                kill(psutil.Process(pid).parents()[1].pid)

    def crash(self) -> None:
        for folder in self.choose.sample(found := self.service.sandboxes(), min(1, len(found))):
            with contextlib.suppress(OSError):
                (folder / "volume" / "home" / "die").touch()
