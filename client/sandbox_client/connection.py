"""The connection of a client without asyncio: calls with retries, and the first contact."""

import time
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc

from sandbox_client import calls, channel, contact, errors, policy, retry

T = TypeVar("T")


class Connection:
    """Calls the service and repeats calls that were not carried out."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        token: str = "",
        tls: bool = False,
        ca_file: str | Path | None = None,
        timeout: float = policy.CALLS.timeout,
        contact_timeout: float = contact.WITHIN,
        over: grpc.Channel | None = None,
    ) -> None:
        """`timeout` is in seconds for a call with all its tries; `over` is a channel to use instead of a new one.

        Until the service has been reached once, calls and streams raise `Unavailable` after `contact_timeout` seconds.

        Raises ValueError for an invalid address, or a token that cannot be sent.
        """
        if over is None:
            channel.check(address)
        secure = tls or ca_file is not None
        self._metadata = channel.metadata(address, token, secure)
        self._timeout = timeout
        self._address = address
        self._contact_timeout = contact_timeout
        self._reached = over is not None
        if over is not None:
            self._channel = over
        elif secure:
            self._channel = grpc.secure_channel(address, channel.credentials(ca_file), channel.options(address))
        else:
            self._channel = grpc.insecure_channel(address, channel.options(address))
        self._stub = channel.stub(self._channel)

    def call(self, call: calls.Call[T]) -> T:
        """Makes a call of `sandbox_client.calls` and repeats it while that is useful. Raises `ServiceError`."""
        schedule = retry.Schedule(self._timeout if call.timeout is None else call.timeout)
        method = getattr(self._stub, call.method)
        self._contact(schedule.left())
        while True:
            try:
                return call.result(method(call.request, timeout=schedule.left(), metadata=self._metadata))
            except grpc.RpcError as error:
                time.sleep(schedule.delay(errors.from_rpc(error)))

    def stream(self, method: str, request: Any, timeout: float | None) -> Any:
        """Makes a call that has a stream, once. Its request may be an iterator. Raises `Unavailable`, and `grpc.RpcError`."""
        self._contact(timeout)
        return getattr(self._stub, method)(request, timeout=timeout, metadata=self._metadata)

    def _contact(self, left: float | None) -> None:
        """Returns once the service has been reached. Raises `Unavailable` if it is not reached in time."""
        if self._reached:
            return
        seconds = contact.within(self._contact_timeout, left)
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(timeout=seconds)
        except grpc.FutureTimeoutError:
            ready.cancel()
            try:
                self._stub.ListSandboxes(contact.PROBE, timeout=contact.PROBE_TIMEOUT, metadata=self._metadata)
            except grpc.RpcError as error:
                failure = contact.failure(errors.from_rpc(error), self._address, seconds)
                if failure is not None:
                    raise failure from None
        self._reached = True

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
