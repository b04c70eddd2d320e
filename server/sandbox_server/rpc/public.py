"""Health checks, which need no token, and reflection, as gRPC defines them.

The health service of the grpc-health package is not used: it holds a lock while it writes to a watcher, so that one
watcher that does not read keeps changes from all others.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from sandbox_server import VERSION
from sandbox_server.domain import errors
from sandbox_server.rpc import receive
from sandbox_server.rpc.auth import Authenticator, Caller

VERSION_KEY = "sandbox-version"
"""The trailing metadata of a health check that has the version of the service."""
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
Answer = health_pb2.HealthCheckResponse


class Health:
    """The health of the server as a whole, which is that of each of its services."""

    def __init__(self, inbox: receive.Inbox, names: Sequence[str]) -> None:
        """`names` are the services that a caller may ask for. The empty name, the whole server, is always known."""
        self._inbox = inbox
        self._names = {"", *names}
        self._status: Any = Answer.NOT_SERVING
        self._changed = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Whether the health is SERVING."""
        return bool(self._status == Answer.SERVING)

    def serving(self, ready: bool) -> None:
        """Sets the health to SERVING or NOT_SERVING and sends a change to every watch."""
        status = Answer.SERVING if ready else Answer.NOT_SERVING
        if status != self._status:
            self._status = status
            self._changed.set()
            self._changed = asyncio.Event()

    async def check(self, context: Caller) -> bytes:
        """Returns the health. Raises `errors.NotFound` for a service that is not served."""
        if await self._requested(context) not in self._names:
            raise errors.NotFound("SERVICE_UNKNOWN", f"this server has no such service: ask for {HEALTH!r} or none")
        context.set_trailing_metadata(((VERSION_KEY, VERSION),))
        return bytes(Answer(status=self._status).SerializeToString())

    async def watch(self, context: Caller) -> None:
        """Sends the health now and after each change, until cancelled; SERVICE_UNKNOWN for a service that is not served."""
        known = await self._requested(context) in self._names
        sent: Any = None
        while True:
            changed = self._changed
            status = self._status if known else Answer.SERVICE_UNKNOWN
            if status != sent:
                await context.write(Answer(status=status).SerializeToString())
                sent = status
            await changed.wait()

    async def _requested(self, context: Caller) -> str:
        request: Any = receive.parsed(health_pb2.HealthCheckRequest, await self._inbox.message(context))
        return str(request.service)


class Reflection:
    """Server reflection: serves the contract of every service to tools such as grpcurl. It needs a token where calls do."""

    def __init__(self, inbox: receive.Inbox, authenticator: Authenticator, names: Sequence[str]) -> None:
        self._inbox = inbox
        self._authenticator = authenticator
        self._servicer = reflection.aio.ReflectionServicer(names)

    async def info(self, context: Caller) -> None:
        """Answers requests until the caller ends the stream or is silent for `Pace.message_within`.

        Raises `errors.DeadlineExceeded` if not even the first request arrives in that time, and `errors.Unauthenticated`.
        """
        self._authenticator.principal(context)
        async for answer in self._servicer.ServerReflectionInfo(self._requests(context), context):
            await context.write(answer.SerializeToString())

    async def _requests(self, context: Caller) -> AsyncIterator[Any]:
        for count in itertools.count():
            try:
                written = await self._inbox.message(context)
            except errors.DeadlineExceeded:
                if count == 0:
                    raise
                # Tools keep the stream open between requests, and open another when it has ended.
                return
            if written is None:
                return
            request: Any = receive.parsed(reflection_pb2.ServerReflectionRequest, written)
            if request.file_containing_symbol:
                request.file_containing_symbol = _indexed(request.file_containing_symbol)
            yield request


def _indexed(symbol: str) -> str:
    """Returns the service of a method, else the symbol itself. The reflection package finds no file by a method."""
    try:
        return str(descriptor_pool.Default().FindMethodByName(symbol).containing_service.full_name)
    except KeyError:
        return symbol
