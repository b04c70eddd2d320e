"""A client of ForwardPort, and what its tests need of an engine's world."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc
from sandbox.v1 import access_pb2 as pb
from sandbox.v1 import access_pb2_grpc

from tests.support.rig import A, Rig
from tests.support.working import WITHIN

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Place(Protocol):
    """A sandbox `A` that runs, and its `port`, on which a test may listen.

    `carries_ends`: whether a server is told that the caller has ended, before the connection is closed.
    """

    rig: Any
    port: int
    carries_ends: bool

    def listening(self, serve: Serve) -> AbstractAsyncContextManager[object]:
        """Listens while the context is open."""


class Forwarded:
    """A connection of a caller."""

    def __init__(self, call: Any, names: dict[str, Any]) -> None:
        self._call = call
        self._names = names

    async def send(self, data: bytes = b"", *, eof: bool = False) -> None:
        await self._call.write(pb.ForwardPortRequest(**self._names, data=data, eof=eof))
        self._names = {}

    async def done(self) -> None:
        """Sends no more requests."""
        await self._call.done_writing()

    async def receive(self) -> pb.ForwardPortResponse | None:
        """The next answer; None after the last."""
        answer = await self._call.read()
        if answer is grpc.aio.EOF:
            code = await self._call.code()
            if code is not grpc.StatusCode.OK:
                await self._call
            return None
        return answer

    async def opened(self) -> None:
        assert await self.receive() == pb.ForwardPortResponse()

    async def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            answer = await self.receive()
            assert answer is not None
            assert not answer.eof
            data += answer.data
        return data

    async def rest(self) -> bytes:
        """Everything until the other side has ended."""
        data = b""
        while (answer := await self.receive()) is not None:
            data += answer.data
            if answer.eof:
                return data
        raise AssertionError("the stream ended before the other side")

    def cancel(self) -> None:
        self._call.cancel()


class Forwarder:
    def __init__(self, channel: grpc.aio.Channel, port: int) -> None:
        self.stub: Any = access_pb2_grpc.SandboxAccessStub(channel)
        self.names = {"sandbox_id": A, "port": port}

    def connect(self, **names: Any) -> Forwarded:
        return Forwarded(self.stub.ForwardPort(timeout=WITHIN), {**self.names, **names})


@asynccontextmanager
async def forwarding(rig: Rig, port: int) -> AsyncIterator[Forwarder]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        yield Forwarder(channel, port)


@asynccontextmanager
async def serving(serve: Serve, where: int | Path) -> AsyncIterator[int]:
    """Serves on a loopback port, or a socket of the file system, while the context is open; its connections end with it.

    Yields the port, or 0.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            # What was written is still sent if the server has closed it in order.
            if not writer.is_closing():
                writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    if isinstance(where, int):
        server = await asyncio.start_server(accept, "127.0.0.1", where)
    else:
        # The path of a socket is limited to 107 characters.
        folder = os.open(where.parent, os.O_RDONLY | os.O_DIRECTORY)
        server = await asyncio.start_unix_server(accept, f"/proc/self/fd/{folder}/{where.name}")
        os.close(folder)
    try:
        yield server.sockets[0].getsockname()[1] if isinstance(where, int) else 0
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
