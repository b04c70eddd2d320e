"""The gRPC server: one way in and out for every call.

Each RPC is wrapped here, where it is registered: who calls, how long it may take, what its errors become. A wrapper
costs a function call; a `grpc.aio` interceptor would cost 10 us on each.
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
"""Bytes: an environment and a spec at their limits are 1.1 MiB together."""

OPTIONS = (
    ("grpc.max_receive_message_length", RECEIVE_MOST),
    ("grpc.max_metadata_size", 16 * 1024),
    # On one connection. A client keeps back what it opens beyond them, or is refused with UNAVAILABLE.
    ("grpc.max_concurrent_streams", 2_000),
    # More new streams than this at once are cancelled; the default of about 1,000 is less than one console's restart.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients may ping while they have no call; gRPC otherwise takes that for abuse and closes the connection. Pings that
    # come faster than this are still refused.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ("grpc.so_reuseport", 0),
)

LAST_CALLS = 0.2
"""Seconds between the last call's end and the closing of the connections."""


class Server:
    """Serves the contract, health and reflection on one address.

    `open` counts the calls under way by method, `ended` those that ended by method, code and reason.
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
        """Serves, NOT_SERVING yet, and returns the port. Raises OSError if the address cannot be had."""
        stream, unary = grpc.stream_stream_rpc_method_handler, grpc.stream_unary_rpc_method_handler
        services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {
            # The first that was added is the first that is asked.
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
        """Reports to health checks whether to send calls here; never again once the service stops."""
        self._health.serving(ready and not self._draining)

    async def stop(self, grace: float) -> None:
        """Refuses new calls with UNAVAILABLE and lets those under way finish for `grace` seconds.

        Watches must have been ended. gRPC's own way to stop would answer what arrives meanwhile with CANCELLED, which
        no caller takes for a reason to try again.
        """
        self._draining = True
        self._health.serving(False)
        self._inbox.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while any(self.open[one.name] for one in SERVICE.methods if not one.server_streaming):
                    self._idle.clear()
                    await self._idle.wait()
                # Those who were just refused have backed off; whoever is on the way is still refused in good order.
                await asyncio.sleep(min(grace, LAST_CALLS))
        await self.close()

    async def close(self) -> None:
        """Ends everything at once."""
        await self._server.stop(None)

    def _handler(self, described: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
        method = described.name
        call: Callable[[Tenant, Message, Caller], Awaitable[Fields | bytes | None]] = getattr(self._servicer, method)
        request, response = map(GetMessageClass, (described.input_type, described.output_type))
        ok, left = (method, "OK", ""), (method, "CANCELLED", "")
        # Mutations: a log line for each read would cost a third of the read.
        logged = "request_id" in described.input_type.fields_by_name

        async def handle(_messages: object, context: Caller) -> bytes | None:
            began, outcome = time.monotonic(), left
            tenant: Tenant | None = None
            message: Message | None = None
            request_id = ""
            told: dict[str, str] = {}
            self.open[method] += 1
            try:
                if self._draining:
                    raise errors.Unavailable("SHUTTING_DOWN", "the service is stopping: repeat the call")
                tenant = self._authenticator.tenant(context)
                message = receive.parsed(request, await self._inbox.message(context))
                if logged:
                    # The call takes it out of the message.
                    request_id = convert.known_request_id(message)
                    told = convert.named(tenant, message)
                answer = await call(tenant, message, context)
                if isinstance(answer, dict):
                    if logged:
                        told = {name: answer["sandbox"][name] for name in ("sandbox_id", "namespace")}
                    answer = response(**answer).SerializeToString()
                outcome = ok
                return answer
            except Exception as error:
                if tenant is not None and message is not None and not logged:
                    told = convert.named(tenant, message)
                status = rpc_errors.status(method, error, told)
                reason = error.reason if isinstance(error, errors.ServiceError) else "INTERNAL"
                outcome = (method, code_pb2.Code.Name(status.code), reason)
            finally:
                self.ended[outcome] += 1
                self.open[method] -= 1
                if tenant is None and outcome[1] == "UNAUTHENTICATED":
                    self._refusals.add(method, context.peer())
                elif logged:
                    # After the answer has gone: writing a line takes as long as reading the request.
                    took = time.monotonic() - began
                    asyncio.get_running_loop().call_soon(
                        journal.mutation, outcome, tenant, told, request_id, context.peer(), took
                    )
                if self._draining:
                    self._idle.set()
            return await rpc_errors.abort(context, status)

        # As if the caller streamed: gRPC would otherwise wait for the message itself, without end and uncounted.
        if described.server_streaming:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)

    def _public(self, method: str, call: Callable[[Caller], Awaitable[bytes | None]]) -> Any:
        """A method that needs no token: it is counted as the others are."""

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
