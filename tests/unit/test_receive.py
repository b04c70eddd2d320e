"""How waits for a message end: by the service, by the caller, or by both at once."""

import asyncio
from typing import Any

import pytest
from sandbox_server.domain import errors
from sandbox_server.rpc import receive

pytestmark = pytest.mark.find(35)


class Caller:
    """A caller that sends nothing."""

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        return b""


async def waiting(inbox: receive.Inbox) -> "asyncio.Task[int]":
    """A call that waits for its message, and returns how often it is still to be cancelled when the service ends that."""

    async def call() -> int:
        caller: Any = Caller()
        with pytest.raises(errors.ServiceError):
            await inbox.message(caller)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    task = asyncio.create_task(call())
    await asyncio.sleep(0.01)
    return task


async def test_call_that_the_service_ends_is_not_cancelled() -> None:
    for within in (0.01, 60):
        inbox = receive.Inbox(within)
        task = await waiting(inbox)
        if within > 1:
            inbox.close()
        assert await task == 0


async def test_call_that_its_caller_cancels_at_the_moment_of_the_shutdown_is_cancelled() -> None:
    inbox = receive.Inbox(60)
    task = await waiting(inbox)
    inbox.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
