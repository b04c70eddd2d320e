"""Receives the messages of calls, each within bounded time."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from sandbox_server.domain import errors
from sandbox_server.rpc.auth import Caller

T = TypeVar("T")
M = TypeVar("M", bound=Message)


class Inbox:
    """Receives the messages of calls, and ends calls that are silent for too long or at a shutdown.

    One timer serves all calls: an `asyncio.timeout` for each would add a twelfth to the cost of a read.
    """

    def __init__(self, message_within: float) -> None:
        """`message_within`: seconds that the message of a call may take to arrive."""
        self._message_within = message_within
        self._since: dict[asyncio.Task[Any], float] = {}
        """When each waiting call began to wait, the longest wait first. A call that was ended is removed."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def message(self, context: Caller) -> bytes | None:
        """Returns the next message of a call, or None after the last.

        Raises `errors.DeadlineExceeded` if it does not arrive in time, and `errors.Unavailable` if the service stops
        meanwhile.
        """
        if self._closed:
            raise _closing()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._message_within, self._end_late)
        task: Any = asyncio.current_task()
        self._since[task] = time.monotonic()
        try:
            received: object = await context.read()
        except asyncio.CancelledError:
            cancelled_by_caller = task in self._since
            # `uncancel` takes back our own cancellation. Another that is left is the caller's, made at the same moment.
            if cancelled_by_caller or task.uncancel() > 0:
                raise
            raise _closing() if self._closed else _not_received(self._message_within) from None
        finally:
            self._since.pop(task, None)
        return received if isinstance(received, bytes) else None

    def close(self) -> None:
        """Ends every wait for a message, and refuses new ones."""
        self._closed = True
        self._end(list(self._since))
        if self._timer is not None:
            self._timer.cancel()

    def _end_late(self) -> None:
        """Ends the calls that have waited for too long, and sets the timer for the next one."""
        now = time.monotonic()
        self._end([task for task, since in self._since.items() if since <= now - self._message_within])
        self._timer = None
        if self._since:
            remaining = next(iter(self._since.values())) + self._message_within - now
            self._timer = asyncio.get_running_loop().call_later(remaining, self._end_late)

    def _end(self, tasks: list[asyncio.Task[Any]]) -> None:
        for task in tasks:
            del self._since[task]
            task.cancel()


def _closing() -> errors.Unavailable:
    return errors.Unavailable("SHUTTING_DOWN", "the service is stopping: repeat the call")


def _not_received(within: float) -> errors.DeadlineExceeded:
    message = f"the message of the call did not arrive within {within:g} s: repeat the call and send it"
    return errors.DeadlineExceeded("REQUEST_NOT_RECEIVED", message)


async def further(messages: AsyncIterator[T], within: float) -> T | None:
    """Returns the next message of a client stream, None after the last.

    Raises `errors.DeadlineExceeded` if the caller sends nothing for `within` seconds.
    """
    try:
        async with asyncio.timeout(within):
            return await anext(messages, None)
    except TimeoutError:
        raise errors.DeadlineExceeded(
            "REQUEST_NOT_RECEIVED", f"nothing was sent for {within:g} s: repeat the call and send all of it"
        ) from None


def parsed(kind: type[M], written: bytes | None) -> M:
    """Returns the message that `written` encodes. Raises `errors.Invalid` if it is None or malformed."""
    if written is None:
        raise errors.Invalid((errors.Violation("request", "is missing: send one message"),))
    try:
        return kind.FromString(written)
    except DecodeError:
        description = "is not a message of the contract, or has text that is not UTF-8"
        raise errors.Invalid((errors.Violation("request", description),)) from None


class Stream(Generic[M]):
    """The messages of a client stream: the first, and those after it. The time between two is the method's own matter."""

    def __init__(self, first: M, context: Caller) -> None:
        self.first = first
        self._context = context

    async def encoded(self) -> AsyncIterator[bytes]:
        """Yields the messages after the first as they came."""
        while isinstance(written := await self._context.read(), bytes):
            yield written

    async def rest(self) -> AsyncIterator[M]:
        """Yields the messages after the first. Raises `errors.Invalid` for a malformed one."""
        async for written in self.encoded():
            yield parsed(type(self.first), written)
