"""The gRPC server.

It has the services of the contract, health and reflection on one address.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from sandbox_server.rpc import public
from sandbox_server.rpc.calls import Calls, Servicer

RECEIVE_MOST = 2 * 1024 * 1024
"""Bytes of a message. An environment and a spec at their limits are 1.1 MiB together."""

OPTIONS = (
    ("grpc.max_receive_message_length", RECEIVE_MOST),
    ("grpc.max_metadata_size", 16 * 1024),
    # What is taken in of each stream ahead of its reader. By default gRPC measures how much is on the way and takes in as much: tens
    # of MiB once either side has stalled for a moment.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", RECEIVE_MOST),
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


class Server:
    """Serves services of the contract, health and, unless it is turned off, reflection on one address."""

    def __init__(self, servicers: Sequence[Servicer], calls: Calls, reflects: bool = True) -> None:
        self.calls = calls
        self._reflects = reflects
        self._servicers = servicers
        names = tuple(one.described.full_name for one in servicers)
        self._health = public.Health(calls.inbox, names)
        self._reflection = public.Reflection(
            calls.inbox, calls.authenticator, (*names, public.HEALTH, reflection.SERVICE_NAME)
        )
        self._server = grpc.aio.server(options=OPTIONS)
        self._place: int | str | None = None

    async def start(self, listen: str, credentials: grpc.ServerCredentials | None) -> int:
        """Begins to serve, with the health NOT_SERVING, and returns the port. Raises OSError if it cannot listen."""
        stream = grpc.stream_stream_rpc_method_handler
        unary = grpc.stream_unary_rpc_method_handler
        services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {
            # gRPC looks a method up in the order in which services are added.
            **{one.described.full_name: self.calls.handlers(one) for one in self._servicers},
            public.HEALTH: {
                "Check": unary(self.calls.public("Check", self._health.check)),
                "Watch": stream(self.calls.public("Watch", self._health.watch)),
            },
        }
        if self._reflects:
            info = self.calls.public("ServerReflectionInfo", self._reflection.info)
            services[reflection.SERVICE_NAME] = {"ServerReflectionInfo": stream(info)}
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
        path = listen.removeprefix("unix:")
        self._place = port if path == listen else _path(path)
        return port

    @property
    def is_serving(self) -> bool:
        """Whether health checks are answered with SERVING."""
        return self._health.is_serving

    async def serving(self, ready: bool) -> None:
        """Sets whether health checks are answered with SERVING. Once the service stops they never are."""
        self._health.serving(ready and not self.calls.draining)

    async def stop(self, grace: float) -> None:
        """Refuses new calls with UNAVAILABLE, waits up to `grace` seconds for open calls that have an end, then closes.

        Assumes that the caller has ended the watches.
        """
        self._health.serving(False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self.calls.drain()
        await self.close()

    async def close(self) -> None:
        """Ends all calls and closes all connections at once.

        gRPC's own `stop` ends calls that have just arrived with CANCELLED, which clients do not retry. Where the connection
        ends, they fail with UNAVAILABLE.
        """
        _hang_up(self._place)
        await self._server.stop(None)


def _hang_up(place: int | str | None) -> None:
    """Shuts down the listener at a port, or at a path, and then its connections."""
    with contextlib.ExitStack() as opened:
        found = [one for one in map(opened.enter_context, _sockets()) if _place(one) == place]
        for one in sorted(found, key=lambda one: -one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _sockets() -> Iterator[socket.socket]:
    """Yields each socket of this process, under a descriptor of its own."""
    for path in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):
            if path.is_socket():
                yield socket.socket(fileno=os.dup(int(path.name)))


def _place(one: socket.socket) -> int | str:
    """Returns the port of a socket, or its path. An accepted one has that of its listener."""
    address = one.getsockname()
    return int(address[1]) if one.family in (socket.AF_INET, socket.AF_INET6) else _path(str(address))


def _path(text: str) -> str:
    """Returns a path that begins with one slash, where it begins with several: gRPC takes unix:///path for such a one."""
    return f"/{text.lstrip('/')}" if text.startswith("/") else text
