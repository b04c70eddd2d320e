"""The gRPC server.

Each RPC is registered here in a wrapper that authenticates the caller, receives the message, maps errors to statuses,
and counts and logs the call. It costs a function call; a `grpc.aio` interceptor would cost 10 us.
"""

import asyncio
import collections
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2
from grpc_reflection.v1alpha import reflection
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server.domain import errors
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import auth, convert, journal, public, receive
from sandbox_server.rpc import errors as rpc_errors
from sandbox_server.rpc.auth import Caller
from sandbox_server.rpc.servicer import Fields, Servicer

SERVICE = pb.DESCRIPTOR.services_by_name["SandboxService"]
RECEIVE_MOST = 2 * 1024 * 1024
"""Bytes of a message. An environment and a spec at their limits are 1.1 MiB together."""

OPTIONS = (
    ("grpc.max_receive_message_length", RECEIVE_MOST),
    ("grpc.max_metadata_size", 16 * 1024),
    # On one connection. A client queues more streams than these, or they fail with UNAVAILABLE.
    ("grpc.max_concurrent_streams", 2_000),
    # More new streams at once are cancelled. A web console that restarts opens more than the default of about 1,000.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients may ping without an open call; by default gRPC closes the connection for that. It still closes the
    # connection if pings come faster than this.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ("grpc.so_reuseport", 0),
)

LAST_CALLS = 0.2
"""Seconds from the end of the last call until connections are closed."""


class Server:
    """Serves the contract, health and reflection on one address.

    `open` counts open calls by method, `ended` counts ended calls by method, code and reason.
    """

    def __init__(self, servicer: Servicer, authenticator: auth.Authenticator) -> None:
        self._servicer = servicer
        self._authenticator = authenticator
        self._inbox = receive.Inbox()
        names = (SERVICE.full_name, public.HEALTH, reflection.SERVICE_NAME)
        self._health = public.Health(self._inbox, (SERVICE.full_name,))
        self._reflection = public.Reflection(self._inbox, names)
        self._refusals = journal.Refusals()
        self._draining = False
        self._idle = asyncio.Event()
        self.open = collections.Counter[str]()
        self.ended = collections.Counter[tuple[str, str, str]]()
        self._server = grpc.aio.server(options=OPTIONS)

    async def start(self, listen: str, credentials: grpc.ServerCredentials | None) -> int:
        """Begins to serve, with the health NOT_SERVING, and returns the port. Raises OSError if it cannot listen."""
        stream = grpc.stream_stream_rpc_method_handler
        unary = grpc.stream_unary_rpc_method_handler
        services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {
            # gRPC looks a method up in the order in which services are added.
            SERVICE.full_name: {one.name: self._handler(one) for one in SERVICE.methods},
            public.HEALTH: {
                "Check": unary(self._public("Check", self._health.check)),
                "Watch": stream(self._public("Watch", self._health.watch)),
            },
            reflection.SERVICE_NAME: {
                "ServerReflectionInfo": stream(self._public("ServerReflectionInfo", self._reflection.info))
            },
        }
        for name, handlers in services.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        try:
            if credentials is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, credentials)
        except RuntimeError:
            raise OSError(f"listen: {listen} cannot be had: it is taken, or not an address of this machine") from None
        await self._server.start()
        return port

    async def serving(self, ready: bool) -> None:
        """Sets whether health checks are answered with SERVING. Once the service stops they never are."""
        self._health.serving(ready and not self._draining)

    async def stop(self, grace: float) -> None:
        """Refuses new calls with UNAVAILABLE, waits for open unary calls for up to `grace` seconds, then closes.

        Assumes that the caller has ended the watches. gRPC's own `stop` would answer new calls with CANCELLED, which
        clients do not retry.
        """
        self._draining = True
        self._health.serving(False)
        self._inbox.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while any(self.open[one.name] for one in SERVICE.methods if not one.server_streaming):
                    self._idle.clear()
                    await self._idle.wait()
                # A call that is on its way gets UNAVAILABLE as well, instead of a closed connection.
                await asyncio.sleep(min(grace, LAST_CALLS))
        await self.close()

    async def close(self) -> None:
        """Ends all calls and closes all connections at once."""
        await self._server.stop(None)

    def _handler(self, described: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
        method = described.name
        call: Callable[[Tenant, Message, Caller], Awaitable[Fields | bytes | None]] = getattr(self._servicer, method)
        request = GetMessageClass(described.input_type)
        response = GetMessageClass(described.output_type)
        # Only mutations are logged: a line for each read would add a third to the cost of the read.
        logged = "request_id" in described.input_type.fields_by_name

        async def handle(_messages: object, context: Caller) -> bytes | None:
            began = time.monotonic()
            # The outcome of a call that ends by neither an answer nor an error.
            outcome = (method, "CANCELLED", "")
            tenant: Tenant | None = None
            message: Message | None = None
            request_id = ""
            sandbox: dict[str, str] = {}
            self.open[method] += 1
            try:
                if self._draining:
                    raise errors.Unavailable("SHUTTING_DOWN", "the service is stopping: repeat the call")
                tenant = self._authenticator.tenant(context)
                message = receive.parsed(request, await self._inbox.message(context))
                if logged:
                    # Read now, because the call clears it in the message.
                    request_id = convert.valid_request_id(message)
                    sandbox = convert.named(tenant, message)
                answer = await call(tenant, message, context)
                if isinstance(answer, dict):
                    if logged:
                        sandbox = {name: answer["sandbox"][name] for name in ("sandbox_id", "namespace")}
                    answer = response(**answer).SerializeToString()
                outcome = (method, "OK", "")
                return answer
            except Exception as error:
                if tenant is not None and message is not None and not logged:
                    sandbox = convert.named(tenant, message)
                status = rpc_errors.status(method, error, sandbox)
                reason = error.reason if isinstance(error, errors.ServiceError) else "INTERNAL"
                outcome = (method, code_pb2.Code.Name(status.code), reason)
            finally:
                self.ended[outcome] += 1
                self.open[method] -= 1
                if tenant is None and outcome[1] == "UNAUTHENTICATED":
                    self._refusals.add(method, context.peer())
                elif logged:
                    # Logged after the answer is sent: writing a line takes as long as reading the request.
                    seconds = time.monotonic() - began
                    asyncio.get_running_loop().call_soon(
                        journal.mutation, outcome, tenant, sandbox, request_id, context.peer(), seconds
                    )
                if self._draining:
                    self._idle.set()
            return await rpc_errors.abort(context, status)

        # Registered as client streams, so that the inbox receives the message. gRPC itself would wait for it without
        # a limit, and the call would not be counted.
        if described.server_streaming:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)

    def _public(self, method: str, call: Callable[[Caller], Awaitable[bytes | None]]) -> Any:
        """Returns the wrapper of a method that needs no token. Its calls are counted and not logged."""

        async def handle(_messages: object, context: Caller) -> bytes | None:
            outcome = (method, "CANCELLED", "")
            self.open[method] += 1
            try:
                answer = await call(context)
                outcome = (method, "OK", "")
                return answer
            except errors.ServiceError as error:
                status = rpc_errors.status(method, error)
                outcome = (method, code_pb2.Code.Name(status.code), error.reason)
            finally:
                self.ended[outcome] += 1
                self.open[method] -= 1
            return await rpc_errors.abort(context, status)

        return handle
