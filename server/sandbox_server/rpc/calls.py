"""The wrapper of each RPC: it authenticates the caller, receives the message, permits mutations, maps errors to statuses,
and counts and logs the call.

It costs a function call; a `grpc.aio` interceptor would cost 10 us.
"""

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2

from sandbox_server import failpoints
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.rpc import auth, convert, journal, receive
from sandbox_server.rpc import errors as rpc_errors
from sandbox_server.rpc.auth import Caller

Fields = dict[str, Any]
"""The fields of an answer. GetStatus, WaitForPhase and lists return encoded answers instead: a status is encoded once for all
callers, and the size of a page has to be known. A server stream returns None."""


class Servicer(Protocol):
    """Implements a service of the contract: it has a method for each RPC, with the RPC's name.

    Each is called with the principal, the request and the call. Of a client stream, the request is a `receive.Stream`.
    """

    described: ServiceDescriptor
    endless: frozenset[str]
    """Streams that have no end of their own. A server that stops does not wait for them."""


class Calls:
    """Wraps the methods of services.

    `open` counts open calls by method, `ended` counts ended calls by method, code and reason. `draining`: new calls are
    refused.
    """

    def __init__(self, authenticator: auth.Authenticator, pace: Pace) -> None:
        self.inbox = receive.Inbox(pace.message_within)
        self.open = collections.Counter[str]()
        self.ended = collections.Counter[tuple[str, str, str]]()
        self.authenticator = authenticator
        self._refusals = journal.Refusals()
        self.draining = False
        self._awaited: set[str] = set()
        self._idle = asyncio.Event()
        self._last_calls = pace.last_calls

    async def drain(self) -> None:
        """Refuses new calls with UNAVAILABLE, and waits for the open ones that have an end, and for those on their way."""
        self.draining = True
        self.inbox.close()
        while any(self.open[method] for method in self._awaited):
            self._idle.clear()
            await self._idle.wait()
        # A call that is on its way gets UNAVAILABLE as well, instead of a closed connection.
        await asyncio.sleep(self._last_calls)

    def handlers(self, servicer: Servicer) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        """Returns the handlers of a service by method."""
        methods = servicer.described.methods_by_name
        self._awaited |= {*methods} - servicer.endless
        return {name: self._handler(one, getattr(servicer, name)) for name, one in methods.items()}

    def _handler(
        self, described: MethodDescriptor, call: Callable[[Principal, Any, Caller], Awaitable[Fields | bytes | None]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        method = described.name
        request = GetMessageClass(described.input_type)
        response = GetMessageClass(described.output_type)
        # Only mutations are logged: a line for each read would add a third to the cost of the read.
        mutates = "request_id" in described.input_type.fields_by_name

        async def handle(_messages: object, context: Caller) -> bytes | None:
            began = time.monotonic()
            # The outcome of a call that ends by neither an answer nor an error.
            outcome = (method, "CANCELLED", "")
            principal: Principal | None = None
            message: Message | None = None
            request_id = ""
            sandbox: dict[str, str] = {}
            self.open[method] += 1
            try:
                if self.draining:
                    raise errors.Unavailable("SHUTTING_DOWN", "the service is stopping: repeat the call")
                principal = self.authenticator.principal(context)
                message = receive.parsed(request, await self.inbox.message(context))
                if mutates:
                    # Read now, because the call clears it in the message.
                    request_id = convert.valid_request_id(message)
                    sandbox = convert.named(principal, message)
                    principal.permit(method)
                received = receive.Stream(message, context) if described.client_streaming else message
                answer = await call(principal, received, context)
                if isinstance(answer, dict):
                    made = answer.get("sandbox") or answer.get("snapshot") or answer.get("schedule")
                    if mutates and made:
                        names = ("sandbox_id", "snapshot_id", "schedule_id", "namespace")
                        sandbox = {one: made[one] for one in names if one in made}
                    answer = response(**answer).SerializeToString()
                if mutates:
                    failpoints.hit("before_answer")
                outcome = (method, "OK", "")
                return answer
            except Exception as error:
                if principal is not None and message is not None and not mutates:
                    sandbox = convert.named(principal, message)
                status = rpc_errors.status(method, error, sandbox)
                reason = error.reason if isinstance(error, errors.ServiceError) else "INTERNAL"
                outcome = (method, code_pb2.Code.Name(status.code), reason)
            finally:
                self.ended[outcome] += 1
                self.open[method] -= 1
                if principal is None and outcome[1] == "UNAUTHENTICATED":
                    self._refusals.add(method, context.peer())
                elif mutates:
                    # Logged after the answer is sent: writing a line takes as long as reading the request.
                    seconds = time.monotonic() - began
                    asyncio.get_running_loop().call_soon(
                        journal.mutation, outcome, principal, sandbox, request_id, context.peer(), seconds
                    )
                if self.draining:
                    self._idle.set()
            return await rpc_errors.abort(context, status)

        # Registered as client streams, so that the inbox receives the message. gRPC itself would wait for it without
        # a limit, and the call would not be counted.
        if described.server_streaming:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)

    def public(self, method: str, call: Callable[[Caller], Awaitable[bytes | None]]) -> Any:
        """Returns the wrapper of a method that is not of the contract. It authenticates nobody; calls are counted, not logged."""

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
