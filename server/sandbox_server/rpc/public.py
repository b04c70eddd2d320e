"""What needs no token: health checks and reflection, in gRPC's own contracts.

gRPC's own health service holds a lock while it writes to a watcher, so that one that does not read would keep every
change of the health from all others.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from sandbox_server import VERSION
from sandbox_server.domain import errors
from sandbox_server.rpc import receive
from sandbox_server.rpc.auth import Caller

VERSION_KEY = "sandbox-version"
"""Metadata of a health check's answer."""
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
Answer = health_pb2.HealthCheckResponse


class Health:
    """The health of the server as a whole, which is that of each of its services."""

    def __init__(self, inbox: receive.Inbox, names: Sequence[str]) -> None:
        """`names`: the services that a caller may ask for, besides the empty name."""
        self._inbox = inbox
        self._names = {"", *names}
        self._status: Any = Answer.NOT_SERVING
        self._changed = asyncio.Event()

    def serving(self, ready: bool) -> None:
        """Reports from now on whether the server is ready."""
        status = Answer.SERVING if ready else Answer.NOT_SERVING
        if status != self._status:
            self._status = status
            self._changed.set()
            self._changed = asyncio.Event()

    async def check(self, context: Caller) -> bytes:
        """Returns the health. Raises `errors.NotFound` for a service that is not served."""
        if await self._asked(context) not in self._names:
            raise errors.NotFound("SERVICE_UNKNOWN", f"this server has no such service: ask for {HEALTH!r} or none")
        context.set_trailing_metadata(((VERSION_KEY, VERSION),))
        return bytes(Answer(status=self._status).SerializeToString())

    async def watch(self, context: Caller) -> None:
        """Sends the health, and again after each change; SERVICE_UNKNOWN for a service that is not served."""
        known = await self._asked(context) in self._names
        sent: Any = None
        while True:
            changed = self._changed
            status = self._status if known else Answer.SERVICE_UNKNOWN
            if status != sent:
                await context.write(Answer(status=status).SerializeToString())
                sent = status
            await changed.wait()

    async def _asked(self, context: Caller) -> str:
        request: Any = receive.parsed(health_pb2.HealthCheckRequest, await self._inbox.message(context))
        return str(request.service)


class Reflection:
    """The contract of every service, for tools such as grpcurl."""

    def __init__(self, inbox: receive.Inbox, names: Sequence[str]) -> None:
        self._inbox = inbox
        self._servicer = reflection.aio.ReflectionServicer(names)

    async def info(self, context: Caller) -> None:
        """Answers requests until the caller has sent its last, or sends none for a while."""
        async for answer in self._servicer.ServerReflectionInfo(self._requests(context), context):
            await context.write(answer.SerializeToString())

    async def _requests(self, context: Caller) -> AsyncIterator[Any]:
        for count in itertools.count():
            try:
                written = await self._inbox.message(context)
            except errors.DeadlineExceeded:
                if not count:
                    raise
                # Tools keep the stream open while they work, and open another one if it has ended.
                return
            if written is None:
                return
            yield receive.parsed(reflection_pb2.ServerReflectionRequest, written)
