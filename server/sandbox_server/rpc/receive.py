"""How the messages of calls arrive: each within bounded time, from authenticated callers and others alike."""

import asyncio
import math
import time
from typing import Any

from google.protobuf.message import DecodeError, Message

from sandbox_server.domain import errors
from sandbox_server.rpc.auth import Caller

MESSAGE_WITHIN = 10.0
"""Seconds that the message of a call may take to arrive."""


class Inbox:
    """Receives the messages of calls. A silent call holds a stream for `MESSAGE_WITHIN` at most, and no shutdown up.

    One timer serves all calls: `asyncio.timeout` would cost a twelfth of a read.
    """

    def __init__(self) -> None:
        self._since: dict[asyncio.Task[Any], float] = {}
        """When each call began to wait, the longest wait first; without those that were ended."""
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
            self._timer = asyncio.get_running_loop().call_later(MESSAGE_WITHIN, self._end_late)
        task: Any = asyncio.current_task()
        self._since[task] = time.monotonic()
        try:
            received: object = await context.read()
        except asyncio.CancelledError:
            # Still there: the caller left. It may also have left at the moment at which its call was ended.
            if task in self._since or task.uncancel():
                raise
            raise _closing() if self._closed else _not_received() from None
        finally:
            self._since.pop(task, None)
        return received if isinstance(received, bytes) else None

    def close(self) -> None:
        """Ends every wait for a message now."""
        self._closed = True
        self._end_until(math.inf)
        if self._timer is not None:
            self._timer.cancel()

    def _end_late(self) -> None:
        now = time.monotonic()
        self._end_until(now - MESSAGE_WITHIN)
        self._timer = None
        if self._since:
            remaining = next(iter(self._since.values())) + MESSAGE_WITHIN - now
            self._timer = asyncio.get_running_loop().call_later(remaining, self._end_late)

    def _end_until(self, moment: float) -> None:
        for task in [task for task, since in self._since.items() if since <= moment]:
            del self._since[task]
            task.cancel()


def _closing() -> errors.Unavailable:
    return errors.Unavailable("SHUTTING_DOWN", "the service is stopping: repeat the call")


def _not_received() -> errors.DeadlineExceeded:
    said = f"the message of the call did not arrive within {MESSAGE_WITHIN:g} s: repeat the call and send it"
    return errors.DeadlineExceeded("REQUEST_NOT_RECEIVED", said)


def parsed(kind: type[Message], written: bytes | None) -> Message:
    """Returns the message of that kind. Raises `errors.Invalid` if there is none or it is malformed."""
    if written is None:
        raise errors.Invalid((errors.Violation("request", "is missing: send one message"),))
    try:
        return kind.FromString(written)
    except DecodeError:
        said = "is not a message of the contract, or has text that is not UTF-8"
        raise errors.Invalid((errors.Violation("request", said),)) from None
