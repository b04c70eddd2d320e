"""The time that a call may take."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from sandbox_server.domain import errors
from sandbox_server.rpc.auth import Caller

T = TypeVar("T")


async def within(most: float, caller: Caller, work: Awaitable[T]) -> T:
    """Returns the result of `work`. Raises `errors.DeadlineExceeded` if it takes longer than `most`, or than the call may."""
    remaining = caller.time_remaining()
    limit = most if remaining is None else min(remaining, most)
    try:
        async with asyncio.timeout(limit):
            return await work
    except TimeoutError:
        raise errors.DeadlineExceeded(
            "DEADLINE_EXCEEDED", "the call's time ran out: repeat it, a mutation with the same request_id"
        ) from None


async def taken(most: float, sending: Awaitable[None]) -> None:
    """Returns when a message of a stream is on its way. Raises `errors.DeadlineExceeded` if the caller does not make room for
    it within `most` seconds."""
    try:
        async with asyncio.timeout(most):
            await sending
    except TimeoutError:
        raise errors.DeadlineExceeded(
            "RESPONSE_NOT_TAKEN", f"nothing was read for {most:g} s: call again, from the end of what was read"
        ) from None
