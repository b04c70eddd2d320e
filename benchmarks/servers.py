"""Servers to measure, each a process of its own: `python -m benchmarks.servers KIND PORT [NUMBER]`.

`echo`, `fanout` and `content` are the baselines: the least that grpc.aio with uvloop can do. `watch` and `start` are the service over
a log that is only in memory and without its reconciler, so that what is measured is the watch and nothing else.
"""

import asyncio
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import uvloop
from sandbox.v1 import access_pb2
from sandbox_server import app
from sandbox_server.domain.event import OBSERVED, Event
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Addresses, Condition, ObjectNames, Sandbox, Status, VolumeStatus
from sandbox_server.domain.spec import Resources, SandboxSpec, Storage
from sandbox_server.rpc import render
from sandbox_server.rpc.server import OPTIONS
from sandbox_server.settings import Settings

from benchmarks import content as benchmarked

NOW = datetime.now(UTC)


def sandbox(number: int, project: str = "bench") -> Sandbox:
    """A sandbox as it is when it runs."""
    conditions = tuple(Condition(one, True, Reason.READY, NOW) for one in ConditionType)
    status = Status(
        phase=Phase.RUNNING,
        reason=Reason.READY,
        message="the pod is ready",
        transition_time=NOW,
        observed_generation=1,
        conditions=conditions,
        volume=VolumeStatus(f"vn-homevn-agent-bench-{number}-0", "5Gi", True),
    )
    return Sandbox(
        id=f"bench-{number}",
        namespace="default",
        tenant="default",
        uid=f"00000000-0000-0000-0000-{number:012}",
        host=f"h{number:011}",
        spec=SandboxSpec(
            project=project,
            image="registry.example/sandbox:1",
            resources=Resources("100m", "2", "256Mi", "2Gi"),
            storage=Storage("5Gi", "", "ReadWriteOnce"),
            labels={"tier": "bench"},
        ),
        env_names=("A", "B", "C"),
        desired=DesiredState.RUNNING,
        generation=1,
        start_generation=1,
        create_time=NOW,
        attempt_at=NOW,
        objects=ObjectNames.of(f"bench-{number}"),
        addresses=Addresses(
            dns_name=f"bench-{number}-0.bench-{number}-service.default.svc",
            public_url=f"https://h{number:011}.sandbox.example",
            ttyd_url=f"https://h{number:011}-ttyd.sandbox.example",
        ),
        status=status,
        volume_uid="00000000-0000-0000-0000-000000000000",
        applied_generation=1,
    )


def accepted(number: int) -> Sandbox:
    """A sandbox as it is when it was just asked for."""
    status = Status(phase=Phase.CREATING, reason=Reason.ACCEPTED, message="accepted", transition_time=NOW)
    return dataclasses.replace(sandbox(number), status=status, applied_generation=0, volume_uid="")


def event(number: int, sequence: int, project: str = "bench") -> Event:
    """The last event of a sandbox that runs."""
    return Event(sequence, sandbox(number, project), OBSERVED)


MESSAGE = render.Encoder().event(event(0, 1))
STATUS = render.Encoder().status(event(0, 1))


async def _bare(port: int, handlers: dict[str, Any], service: str = "sandbox.v1.SandboxService") -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await _terminated()
    await server.stop(None)


async def _terminated() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


async def echo(port: int) -> None:
    """Answers a message of the size of a status."""

    async def answer(_request: bytes, _context: Any) -> bytes:
        return STATUS

    await _bare(port, {"GetStatus": grpc.unary_unary_rpc_method_handler(answer)})


async def fanout(port: int) -> None:
    """Sends one prepared message to every stream at each SIGUSR1."""
    woken = asyncio.Event()

    async def stream(_request: bytes, context: Any) -> None:
        following = woken
        await context.write(MESSAGE)
        while True:
            await following.wait()
            following = woken
            await context.write(MESSAGE)

    def wake() -> None:
        nonlocal woken
        woken, former = asyncio.Event(), woken
        former.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, wake)
    await _bare(port, {"WatchStatus": grpc.unary_stream_rpc_method_handler(stream)})


async def content(port: int) -> None:
    """Takes what WriteFile takes, and sends what ReadFile sends of as large a file."""
    part = access_pb2.ReadFileResponse(data=bytes(benchmarked.READ)).SerializeToString()

    async def take(requests: Any, _context: Any) -> bytes:
        async for _ in requests:
            pass
        return b""

    async def send(_request: bytes, context: Any) -> None:
        for _ in range(benchmarked.SIZE // benchmarked.READ):
            await context.write(part)

    handlers = {
        "WriteFile": grpc.stream_unary_rpc_method_handler(take),
        "ReadFile": grpc.unary_stream_rpc_method_handler(send),
    }
    await _bare(port, handlers, "sandbox.v1.SandboxAccess")


class _NoSnapshots:
    """The part of a reader that is about snapshots, of which there are none."""

    def sequence(self) -> int:
        return 0

    def live(self, namespaces: Any) -> list[Any]:
        return []

    def events(self, after: int, limit: int) -> list[Any]:
        return []


class _NoSchedules:
    """The part of a reader that is about schedules, of which there are none."""

    def revision(self) -> int:
        return 0

    def namespaces(self) -> list[str]:
        return []


class _MemoryStore:
    """A store whose log is only in memory: all that it holds is what it was made with."""

    shared = False

    def __init__(self, live: Sequence[Sandbox]) -> None:
        self._live = [Event(number, one, OBSERVED) for number, one in enumerate(live, 1)]
        self._sequence = len(live)
        self.snapshots = _NoSnapshots()
        self.schedules = _NoSchedules()

    async def open(self, committed: Callable[[Sequence[Event]], None]) -> None:
        self._committed = committed

    async def load(self) -> tuple[int, list[Event]]:
        return self._sequence, self._live

    async def close(self) -> None:
        """Has nothing to close."""

    async def read(self, query: Callable[[Any], Any], lane: Any = None) -> Any:
        return query(self)

    def ping(self) -> None:
        """The health asks whether the store answers."""

    async def listen(self, heard: Any, again: float) -> None:
        """Has no other replicas."""

    async def trim(self, before: datetime) -> None:
        """Has no history."""

    async def events(self, after: int, limit: int) -> list[Event]:
        return []

    def publish(self, *sandboxes: Sandbox) -> None:
        """Publishes an event of each."""
        events = [Event(sequence, one, OBSERVED) for sequence, one in enumerate(sandboxes, self._sequence + 1)]
        self._sequence += len(events)
        self._committed(events)


class _IdleEngine:
    """As much of an engine as the service needs without its reconciler."""

    any_synced = True

    async def open(self, live: Iterable[Sandbox], changed: Any, held: Any) -> None:
        """Has nothing to observe."""

    def follow(self, namespaces: Iterable[str]) -> None:
        """Has nothing to observe."""

    async def close(self) -> None:
        """Has nothing to close."""

    def synced(self, namespace: str) -> bool:
        return True


async def watch(port: int, sandboxes: int) -> None:
    """The service's watch over so many sandboxes; one of them changes at each SIGUSR1."""
    live = [sandbox(number, "bench" if number == 0 else "others") for number in range(sandboxes)]
    await _served(
        Settings(listen=f"127.0.0.1:{port}", heartbeat=3600, follow=3600, shutdown_grace=0, access_listen=""),
        live,
        live[:1],
    )


async def start(port: int, sandboxes: int) -> None:
    """The service over so many sandboxes that were just asked for; all of them run at a SIGUSR1."""
    live = [accepted(number) for number in range(sandboxes)]
    runs = [sandbox(number) for number in range(sandboxes)]
    await _served(Settings(listen=f"127.0.0.1:{port}", follow=3600, shutdown_grace=0, access_listen=""), live, runs)


async def _served(settings: Settings, live: Sequence[Sandbox], following: Sequence[Sandbox]) -> None:
    """Serves live sandboxes, and at each SIGUSR1 an event of each that follows."""
    memory = _MemoryStore(live)
    database: Any = memory
    engine: Any = _IdleEngine()
    async with app.service(settings, event_store=database, engine=engine) as running:
        # Nothing but the watch is measured.
        running.reconciling.cancel()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, memory.publish, *following)
        await _terminated()


if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind in ("watch", "start"):
        app.tune()
        uvloop.run({"watch": watch, "start": start}[kind](port, int(sys.argv[3])))
    else:
        uvloop.run({"echo": echo, "fanout": fanout, "content": content}[kind](port))
