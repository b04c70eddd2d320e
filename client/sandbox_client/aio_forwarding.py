"""Ports of sandboxes on this machine, for asyncio."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import aio_connection, errors, forwarding


class AsyncForward:
    """The same as `Forward`, for `AsyncClient`."""

    def __init__(
        self,
        link: aio_connection.AsyncConnection,
        first: pb.ForwardPortRequest,
        host: str,
        port: int,
        failed: forwarding.Failed,
    ) -> None:
        self._link = link
        self._first = first
        self._failed = failed
        self._address = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port of this machine, once the context has begun."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else self._address[1]

    async def close(self) -> None:
        """Ends every connection, and listens no more."""
        if self._server is not None:
            self._server.close()
        for one in self._open:
            one.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, *self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(near, back))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _carry(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            await self._pass_back(near, back)
        except grpc.aio.AioRpcError as error:
            self._failed(errors.from_rpc(error))
        except errors.ServiceError as error:
            self._failed(error)
        except OSError:
            # The local program has closed its connection.
            pass
        finally:
            back.close()

    async def _pass_back(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        stream = await self._link.stream("ForwardPort", self._requests(near), None)
        try:
            async for message in stream:
                back.write(message.data)
                await back.drain()
                if message.eof:
                    back.write_eof()
        finally:
            stream.cancel()

    async def _requests(self, near: asyncio.StreamReader) -> AsyncIterator[pb.ForwardPortRequest]:
        yield self._first
        with contextlib.suppress(OSError):
            while data := await near.read(forwarding.CHUNK):
                yield pb.ForwardPortRequest(data=data)
        yield pb.ForwardPortRequest(eof=True)
