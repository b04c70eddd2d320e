"""The part of `AsyncClient` that is about what is in a sandbox."""

import asyncio
import functools
from collections.abc import AsyncGenerator
from datetime import datetime

import grpc
from sandbox.v1 import access_pb2 as pb

from sandbox_client import aio_filing, aio_forwarding, aio_running, calls, errors, forwarding, logs, outage


class AsyncAccess(aio_running.AsyncCommands):
    """Reads logs, has the files and forwards ports, beside running commands."""

    @functools.cached_property
    def files(self) -> aio_filing.AsyncFiles:
        """The files of sandboxes."""
        return aio_filing.AsyncFiles(self)

    async def logs(
        self,
        sandbox: calls.Named,
        *,
        follow: bool = False,
        previous: bool = False,
        tail: int | None = None,
        since: datetime | None = None,
        after_position: str = "",
        namespace: str = "",
        timeout: float | None = None,
        lost: outage.Lost = lambda _error: None,
        back: outage.Back = lambda: None,
    ) -> AsyncGenerator[logs.Log, None]:
        """See `Client.logs`."""
        position = logs.Position(logs.request(sandbox, namespace, previous, follow, tail, since, after_position))
        tries = outage.Tries(timeout, lost, back)
        while not position.complete:
            failure = None
            stream = await self.stream("StreamLogs", position.request, tries.left())
            try:
                async for message in stream:
                    tries.reached()
                    part = position.take(message)
                    if part is not None:
                        yield part
                position.ended()
            except grpc.aio.AioRpcError as error:
                failure = errors.from_rpc(error)
            finally:
                stream.cancel()
            if not position.complete:
                await asyncio.sleep(tries.delay(failure))

    def forward(
        self,
        sandbox: calls.Named,
        port: int,
        *,
        local_port: int = 0,
        host: str = "127.0.0.1",
        namespace: str = "",
        failed: forwarding.Failed = lambda _error: None,
    ) -> aio_forwarding.AsyncForward:
        """See `Client.forward`."""
        sandbox_id, namespace = calls.target(sandbox, namespace)
        first = pb.ForwardPortRequest(sandbox_id=sandbox_id, namespace=namespace, port=port)
        return aio_forwarding.AsyncForward(self, first, host, local_port, failed)
