"""The gRPC server: one way in and out for every call.

Each RPC is wrapped here, where it is registered: who calls, how long it may take, what its errors become. A wrapper
costs a function call; a `grpc.aio` interceptor would cost 10 us on each.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server.domain import errors
from sandbox_server.domain.tenant import Tenant
from sandbox_server.rpc import auth
from sandbox_server.rpc import errors as rpc_errors
from sandbox_server.rpc.servicer import CALL_MOST, Servicer

log = structlog.get_logger()

SERVICE = pb.DESCRIPTOR.services_by_name["SandboxService"].full_name
RECEIVE_MOST = 2 * 1024 * 1024
"""Bytes: an environment at its limit and a spec at its limits together stay below half of it."""

OPTIONS = (
    ("grpc.max_receive_message_length", RECEIVE_MOST),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 100_000),
    # More new streams than this at once are cancelled; the default of about 1,000 is less than one console's restart.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
)

LAST_CALLS = 0.2
"""Seconds between the last call's end and the closing of the connections."""

Context = grpc.aio.ServicerContext[bytes, bytes]
M = TypeVar("M", bound=Message)
Unary = Callable[[Tenant, M, float], Awaitable[Message | bytes]]
MUTATIONS = frozenset({"CreateSandbox", "Start", "Stop", "Delete", "UpdateEnvVars"})


class Server:
    """Serves the contract, health and reflection on one address."""

    def __init__(self, servicer: Servicer, authenticator: auth.Authenticator) -> None:
        self._servicer = servicer
        self._authenticator = authenticator
        self._health = health.HealthServicer()
        self._draining = False
        self._calls = 0
        self._idle = asyncio.Event()
        self._server = grpc.aio.server(options=OPTIONS)

    async def start(self, listen: str, certificate: tuple[Path, Path] | None) -> int:
        """Serves, NOT_SERVING yet, and returns the port. Raises OSError if the address cannot be had, ValueError for a bad certificate."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), self._server
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        await self.serving(False)
        try:
            if certificate is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, _credentials(*certificate))
        except RuntimeError as error:
            raise OSError(f"listen: {listen} cannot be had: {error}") from None
        await self._server.start()
        return port

    async def serving(self, ready: bool) -> None:
        """Tells health checks whether to send calls here."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def stop(self, grace: float) -> None:
        """Refuses new calls with UNAVAILABLE and lets those under way finish for `grace` seconds.

        Watches must have been ended. gRPC's own way to stop would answer what arrives meanwhile with CANCELLED, which
        no caller takes for a reason to try again.
        """
        self._draining = True
        await self._health.enter_graceful_shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._calls:
                    self._idle.clear()
                    await self._idle.wait()
                # Those who were just refused have backed off; whoever is on the way is still refused in good order.
                await asyncio.sleep(min(grace, LAST_CALLS))
        await self.close()

    async def close(self) -> None:
        """Ends everything at once."""
        await self._server.stop(None)

    def _handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        servicer = self._servicer
        watch: grpc.RpcMethodHandler[Any, Any] = grpc.unary_stream_rpc_method_handler(self._watch)
        return {
            "CreateSandbox": self._unary("CreateSandbox", pb.CreateSandboxRequest, servicer.create_sandbox),
            "Start": self._unary("Start", pb.StartRequest, servicer.start),
            "Stop": self._unary("Stop", pb.StopRequest, servicer.stop),
            "Delete": self._unary("Delete", pb.DeleteRequest, servicer.delete),
            "GetStatus": self._unary("GetStatus", pb.GetStatusRequest, servicer.get_status),
            "UpdateEnvVars": self._unary("UpdateEnvVars", pb.UpdateEnvVarsRequest, servicer.update_env_vars),
            "ListSandboxes": self._unary("ListSandboxes", pb.ListSandboxesRequest, servicer.list_sandboxes),
            "GetSandbox": self._unary("GetSandbox", pb.GetSandboxRequest, servicer.get_sandbox),
            "WatchStatus": watch,
        }

    def _unary(self, method: str, message: type[M], call: Unary[M]) -> "grpc.RpcMethodHandler[Any, Any]":
        logged = method in MUTATIONS

        async def handle(written: bytes, context: Context) -> bytes:
            began = time.monotonic() if logged else 0.0
            self._calls += 1
            try:
                tenant = self._tenant(context)
                left = context.time_remaining()
                request = _parse(message, written)
                answer = await call(tenant, request, CALL_MOST if left is None else min(left, CALL_MOST))
            except errors.ServiceError as error:
                status = rpc_errors.to_status(error)
                if logged:
                    log.info("call", method=method, code=grpc_name(status.code), reason=error.reason)
            except Exception as error:
                status = rpc_errors.unforeseen(method, error)
            else:
                if logged:
                    milliseconds = round((time.monotonic() - began) * 1000, 1)
                    log.info("call", method=method, tenant=tenant.name, code="OK", ms=milliseconds)
                return answer if isinstance(answer, bytes) else answer.SerializeToString()
            finally:
                self._calls -= 1
                if self._draining:
                    self._idle.set()
            return await rpc_errors.abort(context, status)

        return grpc.unary_unary_rpc_method_handler(handle)

    async def _watch(self, written: bytes, context: Context) -> None:
        try:
            tenant = self._tenant(context)
            await self._servicer.watch_status(tenant, _parse(pb.WatchStatusRequest, written), context.write)
        except errors.ServiceError as error:
            status = rpc_errors.to_status(error)
        except Exception as error:
            status = rpc_errors.unforeseen("WatchStatus", error)
        else:
            return
        await rpc_errors.abort(context, status)

    def _tenant(self, context: Context) -> Tenant:
        if self._draining:
            raise errors.Unavailable("SHUTTING_DOWN", "the service is stopping: repeat the call")
        metadata = context.invocation_metadata() or () if self._authenticator.needs_metadata else ()
        return self._authenticator.tenant(metadata)  # type: ignore[arg-type]


def grpc_name(code: int) -> str:
    """The name of a status code."""
    return next(one.name for one in grpc.StatusCode if one.value[0] == code)


def _parse(message: type[M], written: bytes) -> M:
    try:
        return message.FromString(written)
    except DecodeError:
        raise errors.Invalid(
            (errors.Violation("request", "is not a message of the contract, or has text that is not UTF-8"),)
        ) from None


def _credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Credentials that are read again for each new connection when the files changed."""

    def read() -> tuple[bytes, bytes]:
        return key.read_bytes(), certificate.read_bytes()

    def configuration(pair: tuple[bytes, bytes]) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([pair])

    known = read()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal known
        try:
            present = read()
        except OSError:
            return None
        if present == known:
            return None
        known = present
        return configuration(present)

    return grpc.dynamic_ssl_server_credentials(configuration(known), fetch)  # type: ignore[arg-type]
