"""Calls and watches that go on while replicas are replaced, and whatever of them is not as callers are promised."""

import asyncio
import itertools
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf import field_mask_pb2
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc

from tests.support.waiting import PATIENCE

CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
)
TIMEOUT = 10 * PATIENCE
"""Seconds for one try of a call, and for all tries together."""
EVERY_PHASE = [one for one in pb.Phase.values() if one]


class Load:
    """Changes sandboxes, reads them and watches all of them, on several replicas by turns.

    `violations` is what must not happen: a failed call that is not UNAVAILABLE, an event that a watch misses or gets twice, a
    read that is older than what was acknowledged. `reasons` are those that each replica has sent. `requests` are the
    mutations that were acknowledged, with the generation of the answer, in order, for each sandbox.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.channels = {one: grpc.aio.insecure_channel(one, CHANNEL) for one in addresses}
        self.stubs: dict[str, Any] = {
            one: sandbox_pb2_grpc.SandboxServiceStub(channel)  # type: ignore[no-untyped-call]
            for one, channel in self.channels.items()
        }
        self.violations: list[str] = []
        self.retried = 0
        self.calls = 0
        self.reasons: dict[str, set[int]] = defaultdict(set)
        self.requests: dict[tuple[str, str], list[tuple[Any, int]]] = defaultdict(list)
        self.heard: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._watches: list[asyncio.Task[None]] = []
        self._ended = asyncio.Event()
        self._turns = itertools.cycle(self.stubs.values())

    async def call(self, method: str, request: Any) -> Any:
        """Returns the answer of whichever replica answers; None if it is another error than UNAVAILABLE."""
        self.calls += 1
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                return await getattr(next(self._turns), method)(request, timeout=TIMEOUT)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                    self.violations.append(f"{method}: {error.code().name} {error.details()}")
                    return None
            self.retried += 1
            await asyncio.sleep(0.05)

    async def create(self, namespace: str, sandbox_id: str) -> None:
        spec = pb.SandboxSpec(project="demo", labels={"tier": "web"}, command=["serve"])
        request = pb.CreateSandboxRequest(
            request_id=str(uuid.uuid4()), sandbox_id=sandbox_id, namespace=namespace, spec=spec, env={"FIRST": "1"}
        )
        answer = await self.call("CreateSandbox", request)
        assert answer is not None, self.violations
        self.requests[namespace, sandbox_id].append((request, 1))

    def start(self, watches: int) -> None:
        """Changes every sandbox that is there whose id does not begin with `quiet`, and begins so many watches."""
        changed = [one for one in self.requests if not one[1].startswith("quiet")]
        self._tasks += [asyncio.create_task(self._change(*one)) for one in changed]
        self.heard += [0] * watches
        self._watches += [asyncio.create_task(self._watch(number)) for number in range(watches)]

    async def change(self, namespace: str, sandbox_id: str) -> None:
        """Sets a variable that no call before has set, and reads what has become of it."""
        number = len(self.requests[namespace, sandbox_id])
        request = pb.UpdateEnvVarsRequest(namespace=namespace, sandbox_id=sandbox_id, set={f"V{number}": "1"})
        await self.mutate("UpdateEnvVars", request)

    async def limit(self, namespace: str, sandbox_id: str) -> None:
        """Gives the sandbox another limit of CPU, which changes its spec."""
        spec = pb.SandboxSpec(resources=pb.Resources(cpu_limit="3"))
        mask = field_mask_pb2.FieldMask(paths=["resources.cpu_limit"])
        request = pb.UpdateSandboxRequest(namespace=namespace, sandbox_id=sandbox_id, spec=spec, update_mask=mask)
        await self.mutate("UpdateSandbox", request)

    async def mutate(self, method: str, request: Any) -> None:
        """Makes a mutation that changes something, and reads what has become of it."""
        request.request_id = str(uuid.uuid4())
        sandbox_id = request.sandbox_id
        done = self.requests[request.namespace, sandbox_id]
        named = {"namespace": request.namespace, "sandbox_id": sandbox_id}
        answer = await self.call(method, request)
        if answer is None:
            return
        status = answer.sandbox.status
        expected = done[-1][1] + 1
        if status.generation != expected:
            self.violations.append(f"{sandbox_id}: generation {status.generation} instead of {expected}")
        done.append((request, expected))
        read = await self.call("GetStatus", pb.GetStatusRequest(min_sequence=status.sequence, **named))
        if read is not None and read.status.generation != expected:
            self.violations.append(f"{sandbox_id}: read at generation {read.status.generation} instead of {expected}")

    async def _change(self, namespace: str, sandbox_id: str) -> None:
        while not self._ended.is_set():
            await self.change(namespace, sandbox_id)
            await asyncio.sleep(0.2)

    async def _watch(self, number: int) -> None:
        """Hops from replica to replica, each time from the last event that it has."""
        for address in self._from(number):
            try:
                async with asyncio.timeout(random.uniform(1, 4)):
                    request = pb.WatchStatusRequest(after_sequence=self.heard[number])
                    async for event in self.stubs[address].WatchStatus(request):
                        self._take(number, address, event)
            except TimeoutError:
                continue
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self.violations.append(f"WatchStatus: {error.code().name} {error.details()}")
            await asyncio.sleep(0.05)

    def _from(self, number: int) -> Iterator[str]:
        addresses = [*self.stubs]
        return itertools.cycle(addresses[number % len(addresses) :] + addresses[: number % len(addresses)])

    def _take(self, number: int, address: str, event: pb.WatchStatusResponse) -> None:
        if not event.HasField("status"):
            return
        if event.sequence != self.heard[number] + 1:
            self.violations.append(f"a watch of {address} has {event.sequence} after {self.heard[number]}")
        self.heard[number] = event.sequence
        self.reasons[address].add(event.status.reason)

    async def sandboxes(self) -> list[pb.Sandbox]:
        """Returns all sandboxes, ended ones too."""
        found = [
            await self.call("ListSandboxes", pb.ListSandboxesRequest(namespace=one, phases=EVERY_PHASE))
            for one in sorted({namespace for namespace, _ in self.requests})
        ]
        return [one for page in found for one in page.sandboxes]

    async def settled(self) -> list[pb.Sandbox]:
        """Returns all sandboxes once each runs at its generation."""
        async with asyncio.timeout(20 * PATIENCE):
            while True:
                found = await self.sandboxes()
                if all(
                    one.status.phase == pb.PHASE_RUNNING and one.status.observed_generation == one.status.generation
                    for one in found
                ):
                    return found
                await asyncio.sleep(0.1)

    async def sequence(self) -> int:
        """Returns the sequence of the newest event."""
        return max([one.status.sequence for one in await self.sandboxes()])

    async def end(self) -> None:
        """Ends the changes with one of each spec, and the watches when each has the newest event."""
        self._ended.set()
        await asyncio.gather(*self._tasks)
        for namespace, sandbox_id in self.requests:
            if not sandbox_id.startswith("quiet"):
                await self.limit(namespace, sandbox_id)
        await self.settled()
        last = await self.sequence()
        async with asyncio.timeout(20 * PATIENCE):
            while min(self.heard) < last:
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        tasks = [*self._tasks, *self._watches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self.channels.values():
            await channel.close()
