"""Servers to measure, each a process of its own: `python -m benchmarks.servers KIND PORT [NUMBER]`.

`echo` and `fanout` are the baselines: the least that grpc.aio with uvloop can do. `watch` is the service's own server,
manager and feed over a log that is only in memory, so that what is measured is the watch and nothing else.
"""

import asyncio
import dataclasses
import signal
import sys
from datetime import UTC, datetime
from typing import Any

import grpc
import uvloop
from sandbox_server import app, feed, manager
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Addresses, Condition, Sandbox, Status, VolumeStatus
from sandbox_server.domain.spec import Resources, SandboxSpec, Storage
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import auth, render
from sandbox_server.rpc.server import OPTIONS, Server
from sandbox_server.rpc.servicer import Servicer
from sandbox_server.settings import Settings

NOW = datetime.now(UTC)


def sandbox(number: int, sequence: int, project: str = "bench") -> Sandbox:
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
        addresses=Addresses(
            dns_name=f"bench-{number}-0.bench-{number}-service.default.svc",
            public_url=f"https://h{number:011}.sandbox.example",
            ttyd_url=f"https://h{number:011}-ttyd.sandbox.example",
        ),
        status=status,
        volume_uid="00000000-0000-0000-0000-000000000000",
        applied_generation=1,
        sequence=sequence,
    )


def wished(number: int) -> Sandbox:
    """A sandbox as it is when it was just asked for."""
    status = Status(phase=Phase.CREATING, reason=Reason.ACCEPTED, message="accepted", transition_time=NOW)
    return dataclasses.replace(sandbox(number, 0), status=status, applied_generation=0, volume_uid="")


MESSAGE = render.Encoder().change(sandbox(0, 1))
STATUS = render.Encoder().status(sandbox(0, 1))


async def _bare(port: int, handlers: dict[str, Any]) -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("sandbox.v1.SandboxService", handlers),))
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


class _Memory:
    """A log that is only in memory, and an engine that sees all: the manager needs no more to serve reads."""

    def sees(self, _namespace: str) -> bool:
        return True

    async def events(self, after: int, limit: int) -> list[Sandbox]:
        return []


async def watch(port: int, sandboxes: int) -> None:
    """The service's watch over so many sandboxes; one of them changes at each SIGUSR1."""
    nothing: Any = _Memory()
    memory = feed.Feed(nothing, render.Encoder(), heartbeat=3600)
    live = [sandbox(number, number + 1, "bench" if number == 0 else "others") for number in range(sandboxes)]
    memory.load(sandboxes, live)
    servicer = Servicer(manager.StatefulSetManager(nothing, memory, nothing), Settings())
    server = Server(servicer, auth.Anyone(Tenant("default", ("default",))))

    def change() -> None:
        memory.publish([dataclasses.replace(live[0], sequence=memory.sequence + 1)])

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, change)
    await server.start(f"127.0.0.1:{port}", None)
    await _terminated()
    await server.close()


if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "watch":
        app.tune()
        uvloop.run(watch(port, int(sys.argv[3])))
    else:
        uvloop.run({"echo": echo, "fanout": fanout}[kind](port))
