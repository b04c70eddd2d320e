"""The connection of a client for asyncio."""

import asyncio
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc

from sandbox_client import calls, channel, contact, errors, policy, retry

T = TypeVar("T")


class AsyncConnection:
    """The same as `Connection`, for one event loop."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        token: str = "",
        tls: bool = False,
        ca_file: str | Path | None = None,
        timeout: float = policy.CALLS.timeout,
        contact_timeout: float = contact.WITHIN,
    ) -> None:
        """`timeout` is in seconds for a call with all its tries.

        Until the service has been reached once, calls and streams raise `Unavailable` after `contact_timeout` seconds.

        Raises ValueError for an invalid address, or a token that cannot be sent.
        """
        channel.check(address)
        secure = tls or ca_file is not None
        self._metadata = channel.metadata(address, token, secure)
        self._timeout = timeout
        self._address = address
        self._contact_timeout = contact_timeout
        self._reached = False
        if secure:
            self._channel = grpc.aio.secure_channel(address, channel.credentials(ca_file), channel.options(address))
        else:
            self._channel = grpc.aio.insecure_channel(address, channel.options(address))
        self._stub = channel.stub(self._channel)

    async def call(self, call: calls.Call[T]) -> T:
        """Makes a call of `sandbox_client.calls` and repeats it while that is useful. Raises `ServiceError`."""
        schedule = retry.Schedule(self._timeout if call.timeout is None else call.timeout)
        method = getattr(self._stub, call.method)
        await self._contact(schedule.left())
        while True:
            try:
                return call.result(await method(call.request, timeout=schedule.left(), metadata=self._metadata))
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(schedule.delay(errors.from_rpc(error)))

    async def stream(self, method: str, request: Any, timeout: float | None) -> Any:
        """See `Connection.stream`. Returns the call."""
        await self._contact(timeout)
        return getattr(self._stub, method)(request, timeout=timeout, metadata=self._metadata)

    async def _contact(self, left: float | None) -> None:
        """See `Connection._contact`."""
        if self._reached:
            return
        seconds = contact.within(self._contact_timeout, left)
        try:
            await asyncio.wait_for(self._channel.channel_ready(), seconds)
        except TimeoutError:
            try:
                await self._stub.ListSandboxes(contact.PROBE, timeout=contact.PROBE_TIMEOUT, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                failure = contact.failure(errors.from_rpc(error), self._address, seconds)
                if failure is not None:
                    raise failure from None
        self._reached = True

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
