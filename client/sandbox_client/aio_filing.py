"""Files in sandboxes, for asyncio."""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Concatenate, ParamSpec, TypeVar

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import aio_connection, calls, errors, files, outage

P = ParamSpec("P")
T = TypeVar("T")


def _method(make: Callable[P, calls.Call[T]]) -> Callable[Concatenate["AsyncFiles", P], Awaitable[T]]:
    @functools.wraps(make)
    async def method(self: "AsyncFiles", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._link.call(make(*args, **kwargs))

    method.__signature__ = calls.signature(make)  # type: ignore[attr-defined]
    return method


class AsyncFiles:
    """The same as `Files`, for `AsyncClient`."""

    def __init__(self, link: aio_connection.AsyncConnection) -> None:
        self._link = link

    stat = _method(files.stat)
    make_directory = _method(files.make_directory)
    remove = _method(files.remove)
    move = _method(files.move)
    page = _method(files.page)

    async def read(
        self,
        sandbox: calls.Named,
        path: files.Where,
        *,
        offset: int = 0,
        limit: int | None = None,
        namespace: str = "",
        timeout: float | None = None,
    ) -> bytes:
        """See `Files.read`."""
        parts = self.parts(sandbox, path, offset=offset, limit=limit, namespace=namespace, timeout=timeout)
        return b"".join([part async for part in parts])

    async def parts(
        self,
        sandbox: calls.Named,
        path: files.Where,
        *,
        offset: int = 0,
        limit: int | None = None,
        namespace: str = "",
        timeout: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """See `Files.parts`."""
        position = files.Position(sandbox, path, offset, limit, namespace)
        tries = outage.Tries(timeout, patience=outage.PATIENCE)
        while True:
            stream = await self._link.stream("ReadFile", position.request, tries.left())
            try:
                async for message in stream:
                    tries.reached()
                    yield position.take(message)
                return
            except grpc.aio.AioRpcError as error:
                failure = errors.from_rpc(error)
            finally:
                stream.cancel()
            await asyncio.sleep(tries.delay(failure))

    async def write(
        self,
        sandbox: calls.Named,
        path: files.Where,
        content: files.Content,
        *,
        parents: bool = False,
        mode: int | None = None,
        if_match: str = "",
        namespace: str = "",
        sent: files.Sent = lambda _size: None,
        timeout: float | None = None,
    ) -> pb.FileInfo:
        """See `Files.write`."""
        first = files.write_request(sandbox, path, content, mode, if_match, namespace)
        if parents and (folder := first.path.rpartition(b"/")[0]):
            await self.make_directory(sandbox, folder, parents=True, namespace=namespace)
        tries = outage.Tries(timeout, patience=outage.PATIENCE)
        while True:
            try:
                answer = await (
                    await self._link.stream(
                        "WriteFile", files.messages(first, content, sent), files.seconds(first, tries.left())
                    )
                )
            except grpc.aio.AioRpcError as error:
                failure = errors.from_rpc(error)
                if not isinstance(failure, errors.TimedOut) or tries.left() == 0:
                    await asyncio.sleep(tries.delay(failure))
            else:
                return answer.file  # type: ignore[no-any-return]

    async def list(
        self, sandbox: calls.Named, path: files.Where, *, namespace: str = "", timeout: float | None = None
    ) -> AsyncIterator[pb.FileInfo]:
        """See `Files.list`."""
        token = ""
        while True:
            found = await self.page(sandbox, path, page_token=token, namespace=namespace, timeout=timeout)
            for one in found.files:
                yield one
            token = found.next_page_token
            if not token:
                return
