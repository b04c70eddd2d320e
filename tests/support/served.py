"""The service in this process over an engine that sees nothing, and a real gRPC client: statuses change as a test writes
them."""

import base64
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from pydantic import SecretStr
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import sandbox_pb2_grpc
from sandbox_server import app, store
from sandbox_server.domain.event import Event
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.principal import Operator, Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import Tenant
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.blind import BlindEngine
from tests.support.waiting import PATIENCE


class As:
    """Accepts every call as one tenant, or an operator, which a test may replace."""

    needs_token = False

    def __init__(self) -> None:
        self.current: Principal = Tenant("default", ("default",))

    def follow(self, changed: Callable[[tuple[str, ...]], None]) -> None:
        changed(self.current.namespaces)

    def principal(self, _caller: Any) -> Principal:
        return self.current

    def owner(self, namespace: str) -> str:
        found = namespace in self.current.namespaces
        return self.current.tenant if found else ""


class Served:
    """`stub` calls the service. Calls have 20 seconds."""

    def __init__(self, running: app.Service, channel: grpc.aio.Channel, authenticator: As) -> None:
        self.running = running
        self.stub: Any = sandbox_pb2_grpc.SandboxServiceStub(channel)
        self.caller = authenticator

    def tenant(self, name: str, *namespaces: str) -> None:
        """Makes the following calls those of another tenant, or of one with other namespaces."""
        self.caller.current = Tenant(name, namespaces)

    def operator(self, name: str, *namespaces: str, writes: bool = False) -> None:
        """Makes the following calls those of an operator of the service."""
        self.caller.current = Operator(name, namespaces, writes)

    async def create(self, sandbox_id: str, project: str = "demo", **fields: Any) -> pb.Sandbox:
        spec = pb.SandboxSpec(project=project)
        request = pb.CreateSandboxRequest(sandbox_id=sandbox_id, spec=spec, **fields)
        return (await self.stub.CreateSandbox(request, timeout=20 * PATIENCE)).sandbox

    async def write(
        self,
        sandbox_id: str,
        phase: Phase,
        reason: Reason = Reason.READY,
        *,
        namespace: str = "default",
        **changes: Any,
    ) -> Event:
        """Writes the next event of a sandbox. `changes` are its, or its status's."""
        of_status = {name: changes.pop(name) for name in ("transition_time", "message", "volume") if name in changes}

        def change(reader: store.Reader) -> store.Write:
            last = reader.last(Key(namespace, sandbox_id))
            assert last is not None
            status = samples.status(phase=phase, reason=reason, **of_status)
            return samples.write(samples.changed(last, status=status, **changes))

        return await self.running.store.write(change)


@contextlib.asynccontextmanager
async def served(database_url: str, folder: Path) -> AsyncIterator[Served]:
    """Yields a service with a database that has nothing in it."""
    settings = Settings(
        listen="127.0.0.1:0",
        data_dir=folder,
        database_url=SecretStr(database_url),
        encryption_keys=SecretStr(base64.b64encode(b"k" * 32).decode()),
    )
    caller = As()
    async with contextlib.AsyncExitStack() as opened:
        running = await opened.enter_async_context(app.service(settings, engine=BlindEngine(), authenticator=caller))
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{running.port}"))
        yield Served(running, channel, caller)
