"""Callers and watchers over one service or several replicas of it: all that is asked in a random run, and what is told."""

import asyncio
import contextlib
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Kind, errors
from sandbox_client.watch import Event

from tests.support.marked import MARK

NAMES = [f"r-{number}" for number in range(12)]
# Ends when it is told to; what is in `born` is as old as the disk.
SCRIPT = "test -e born || date +%s.%N >born; while sleep 0.2; do test -e die && rm die && exit 3; done"
REFUSALS = (errors.NotFound, errors.AlreadyExists, errors.FailedPrecondition, errors.Aborted)
AWAY = (errors.Unavailable, errors.TimedOut)
METHODS = {"create": "CreateSandbox", "start": "Start", "stop": "Stop", "env": "UpdateEnvVars", "delete": "Delete"}
"""The RPC of each mutation of a caller."""
TRY, PATIENCE = 8.0, 120.0
"""Seconds for one try at one replica, and for all tries of a call."""


def project(name: str) -> str:
    return f"random-{int(name[2:]) % 2}"


def spec(name: str) -> pb.SandboxSpec:
    command = ["/bin/sh", "-c", SCRIPT, MARK]
    return pb.SandboxSpec(image="any", command=command, labels={"third": str(int(name[2:]) % 3)})


class Anywhere:
    """Makes each call at a replica that it chooses, and where that fails at another, with the same request id.

    `unsure` has the request ids of mutations of which a try may have taken effect without an answer. `slowest` is the longest
    time that a call took with all its tries.
    """

    def __init__(self, clients: Sequence[AsyncClient], namespaces: Sequence[str], choose: random.Random) -> None:
        self._clients = clients
        self._namespaces = namespaces
        self._choose = choose
        self.unsure: set[str] = set()
        self.tries = 0
        self.slowest = 0.0

    def namespace(self, name: str) -> str:
        """Returns the namespace of a sandbox, whose number chooses it."""
        return self._namespaces[int(name[2:]) % len(self._namespaces)]

    async def ask(self, method: str, *words: Any, **payload: Any) -> Any:
        began = time.monotonic()
        try:
            while True:
                client = self._choose.choice(self._clients)
                self.tries += 1
                try:
                    return await getattr(client, method)(*words, timeout=TRY, **payload)
                except AWAY:
                    if time.monotonic() > began + PATIENCE:
                        raise
                    self.unsure.add(payload.get("request_id", ""))
                    await asyncio.sleep(0.05)
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)

    async def about(self, method: str, name: str, **payload: Any) -> Any:
        """Makes a call about one sandbox."""
        return await self.ask(method, name, namespace=self.namespace(name), **payload)

    async def pages(self, **wanted: Any) -> AsyncIterator[pb.ListSandboxesResponse]:
        """Yields the pages of a list, each from any replica."""
        token = ""
        while True:
            page = await self.ask("page", page_token=token, **wanted)
            yield page
            token = page.next_page_token
            if not token:
                return


@dataclass
class Mutation:
    """What a caller asked for and when, by the monotonic clock. `answer` is None while there is none, or it was `refused`."""

    name: str
    method: str
    begun: float
    expected: int = 0
    ended: float = 0.0
    answer: pb.Sandbox | None = None
    refused: bool = False


@dataclass
class Ledger:
    """The answers that callers got, and what they asked for."""

    desired: dict[tuple[str, int], int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    mutations: dict[str, Mutation] = field(default_factory=dict)
    """By their request ids."""
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

    def __init__(self, service: Anywhere, ledger: Ledger, choose: random.Random) -> None:
        self.service = service
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

    async def mutate(self, act: str, ask: Callable[..., Awaitable[pb.Sandbox]], name: str, **payload: Any) -> None:
        """Makes a mutation under an id, and often once more; now and then only for a generation that was seen."""
        request_id = payload["request_id"] = str(uuid.UUID(int=self.choose.getrandbits(128), version=4))
        expected = 0
        if act != "create" and self.choose.random() < 0.4:
            expected = (await self.service.about("get", name)).status.generation
            payload["expected_generation"] = expected + self.choose.choice((0, 0, 1000))
        mutation = Mutation(name, METHODS[act], time.monotonic(), payload.get("expected_generation", 0))
        self.ledger.mutations[request_id] = mutation
        try:
            made = self.ledger.acknowledge(await ask(name, **payload))
        except REFUSALS:
            mutation.refused = True
            raise
        mutation.ended, mutation.answer = time.monotonic(), made
        assert payload.get("expected_generation", 0) == expected <= made.status.generation
        if self.choose.random() < 0.4:
            again = self.ledger.acknowledge(await ask(name, **payload))
            assert (again.uid, again.status.generation >= made.status.generation) == (made.uid, True)
            try:
                await self.service.ask("stop", "another", request_id=request_id)
                raise AssertionError("one id stood for two mutations")
            except errors.InvalidArgument as refused:
                assert refused.reason == "REQUEST_ID_REUSED"
                self.ledger.counts["repeated"] += 1

    async def make(self, name: str, **payload: Any) -> pb.Sandbox:
        namespace = self.service.namespace(name)
        fields = {"sandbox_id": name, "namespace": namespace, "spec": spec(name), "env": {"ID": name}}
        made: pb.Sandbox = await self.service.ask("create", project(name), **fields, **payload)
        return made

    async def create(self, name: str) -> None:
        with contextlib.suppress(errors.AlreadyExists):
            await self.mutate("create", self.make, name, adopt_volume=self.choose.random() < 0.5)

    async def about(self, act: str, method: str, name: str, **payload: Any) -> None:
        async def ask(name: str, **payload: Any) -> pb.Sandbox:
            made: pb.Sandbox = await self.service.about(method, name, **payload)
            return made

        await self.mutate(act, ask, name, **payload)

    async def start(self, name: str) -> None:
        await self.about("start", "start", name)

    async def stop(self, name: str) -> None:
        await self.about("stop", "stop", name)

    async def env(self, name: str) -> None:
        values = {"ID": name, f"N{self.choose.randrange(3)}": str(self.choose.random())}
        unset = ["N1"] if "N1" not in values and self.choose.random() < 0.3 else []
        await self.about("env", "update_env", name, set=values, unset=unset, replace=not unset)

    async def delete(self, name: str) -> None:
        await self.about("delete", "delete", name, keep_volume=self.choose.random() < 0.3)

    async def status(self, name: str) -> None:
        known = self.ledger.sequences.get(name, 0)
        assert (await self.service.about("status", name, min_sequence=known)).sequence >= known

    async def get(self, name: str) -> None:
        known = self.ledger.sequences.get(name, 0)
        found = self.ledger.heard(await self.service.about("get", name, min_sequence=known))
        assert found.status.sequence >= known
        assert "ID" in found.env_names

    async def list(self, name: str) -> None:
        third, phase = f"third={int(name[2:]) % 3}", self.choose.choice([pb.PHASE_RUNNING, pb.PHASE_STOPPED])
        async for page in self.service.pages(project=project(name), label_selector=third, phases=[phase]):
            for one in page.sandboxes:
                assert (one.spec.project, one.status.phase) == (project(name), phase)
                assert f"third={one.spec.labels['third']}" == third
                self.ledger.heard(one)

    async def pages(self, _: str) -> None:
        found = [one.sandbox_id async for page in self.service.pages(page_size=5) for one in page.sandboxes]
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

    async def run(self, clients: Sequence[AsyncClient]) -> None:
        """Watches at the first client, or again and again at one that it chooses, from where it was."""
        after = None
        while True:
            self.opened += 1
            left = self.hops.randrange(1, 30) if self.hops else -1
            client = self.hops.choice(clients) if self.hops else clients[0]
            if after is None:
                self.history.clear()
            with contextlib.suppress(*AWAY):
                async with contextlib.aclosing(client.watch(**self.wanted, after_sequence=after)) as events:
                    async for event in _without_silence(events, SILENCE if self.hops else None):
                        if event.kind is Kind.RESYNC:
                            # A snapshot that broke off. A history that was begun is never trimmed here.
                            assert after is None
                            self.history.clear()
                            continue
                        self.history.append(event)
                        left -= 1
                        if event.kind is not Kind.SNAPSHOT:
                            after = event.sequence
                            if left <= 0 and self.hops:
                                break


SILENCE = 5.0
"""Seconds without an event after which a watcher that hops goes to another replica."""


async def _without_silence(events: AsyncIterator[Event], most: float | None) -> AsyncIterator[Event]:
    """Yields the events until there is none for that long."""
    with contextlib.suppress(TimeoutError, StopAsyncIteration):
        while True:
            async with asyncio.timeout(most):
                event = await anext(events)
            yield event
