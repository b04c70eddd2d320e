"""The input of an exec, written in calls that can be repeated, for asyncio."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import aio_connection, errors, outage, stdin

Chunks = bytes | Iterable[bytes] | AsyncIterable[bytes]


async def parts(chunks: Chunks) -> AsyncIterator[bytes]:
    """Yields chunks in parts of the size of a message."""
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            for part in stdin.parts(chunk):
                yield part
    else:
        for part in stdin.parts(chunks):
            yield part


class AsyncWriter:
    """Writes chunks as they come. They are taken from their iterator in a task of its own."""

    def __init__(
        self, link: aio_connection.AsyncConnection, unaccepted: stdin.Unaccepted, eof: bool, timeout: float | None
    ) -> None:
        self._link = link
        self._unaccepted = unaccepted
        self._eof = eof
        self._tries = outage.Tries(timeout)
        self._coming: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(maxsize=4)
        self._complete = False
        self._failure: BaseException | None = None

    async def write(self, chunks: Chunks) -> None:
        """Returns when all was accepted. Raises `ServiceError`, and what the chunks raise."""
        reading = asyncio.create_task(self._read(chunks))
        try:
            while await self._wait():
                await self._send()
        finally:
            reading.cancel()
        if self._failure is not None:
            raise self._failure

    async def _read(self, chunks: Chunks) -> None:
        try:
            async for part in parts(chunks):
                await self._coming.put(part)
            await self._coming.put(None)
        except Exception as error:
            await self._coming.put(error)

    async def _wait(self) -> bool:
        """Waits until there is something to send. Returns False at the end of the input. Raises `TimedOut`."""
        if self._unaccepted.messages or await self._take(self._tries.left()):
            return True
        if not self._complete:
            raise errors.TimedOut("no more input came within the time", grpc.StatusCode.DEADLINE_EXCEEDED)
        return False

    async def _take(self, seconds: float | None) -> bool:
        """Takes the next part as a message. Returns False if none comes within the time, or any more."""
        if self._complete:
            return False
        try:
            async with asyncio.timeout(seconds):
                item = await self._coming.get()
        except TimeoutError:
            return False
        if isinstance(item, bytes):
            self._unaccepted.add(item, False)
            return True
        self._complete = True
        self._failure = item
        if item is not None or not self._eof:
            return False
        self._unaccepted.add(b"", True)
        return True

    async def _send(self) -> None:
        """Makes one call. It sends what was not accepted before, and what is added during the call. Waits after a failure."""
        sent: list[pb.WriteStdinRequest] = []
        try:
            await (await self._link.stream("WriteStdin", self._requests(sent), self._seconds()))
        except grpc.aio.AioRpcError as rpc_error:
            error = errors.from_rpc(rpc_error)
            if isinstance(error, errors.TimedOut) and self._tries.left() != 0:
                return
            if not self._unaccepted.was_accepted(error):
                await asyncio.sleep(self._tries.delay(error))
                return
        self._tries.reached()
        del self._unaccepted.messages[: len(sent)]

    def _seconds(self) -> float:
        """Returns the seconds for a call."""
        left = self._tries.left()
        return stdin.LONGEST if left is None else min(left, stdin.LONGEST)

    async def _requests(self, sent: list[pb.WriteStdinRequest]) -> AsyncIterator[pb.WriteStdinRequest]:
        """Yields the messages of a call."""
        while len(sent) * stdin.PART < stdin.WINDOW:
            if len(sent) >= len(self._unaccepted.messages) and not await self._take(stdin.IDLE):
                return
            message = self._unaccepted.messages[len(sent)]
            sent.append(message)
            yield message
