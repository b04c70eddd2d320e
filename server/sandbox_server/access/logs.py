"""Sends what the processes of sandboxes print."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from sandbox_server import engines
from sandbox_server.access.sandboxes import Sandboxes, not_reached, refusals
from sandbox_server.access.slots import Slots
from sandbox_server.domain import errors
from sandbox_server.domain.logs import Asked, Ended, EndReason, Part
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key, Sandbox

OF_SANDBOX = 16
OF_TENANT = 256
"""Streams at one replica: each holds a file or a connection."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Nothing was printed for a while."""


Send = Callable[[Part | Beat], Awaitable[None]]


class Logs:
    """The output of all sandboxes, on behalf of principals."""

    def __init__(self, found: Sandboxes, engine: engines.Access, pace: Pace) -> None:
        self._sandboxes = found
        self._engine = engine
        self._pace = pace
        self._slots = Slots("streams of logs", OF_SANDBOX, OF_TENANT)

    async def stream(self, principal: Principal, key: Key, asked: Asked, send: Send) -> None:
        """Sends output as `asked`, no faster than it is taken.

        Raises `errors.NotFound`, `errors.Invalid`, `errors.FailedPrecondition`, `errors.ResourceExhausted` and
        `errors.Unavailable`.
        """
        sandbox = await self._sandboxes.last(principal, key)
        with self._slots.taken(sandbox):
            try:
                with refusals():
                    await self._copy(principal, sandbox, asked, send)
            except engines.BadPosition:
                violation = errors.Violation("after_position", "must be a position of an answer, or empty")
                raise errors.Invalid((violation,)) from None
            except engines.NoOutput as error:
                status = (await self._sandboxes.last(principal, key)).status
                raise errors.FailedPrecondition(
                    "NO_OUTPUT_KEPT",
                    f"{error}; the sandbox is {status.phase.name}: start it, or wait for it",
                    phase=status.phase.name,
                    phase_reason=status.reason.name,
                ) from None
            except engines.Unreachable as error:
                raise not_reached(error) from None

    async def _copy(self, principal: Principal, sandbox: Sandbox, asked: Asked, send: Send) -> None:
        async with contextlib.aclosing(self._engine.logs(sandbox, asked)) as parts:
            while (part := await self._next(parts, send)) is not None:
                if isinstance(part, Ended):
                    part = Ended(self._reason(part.reason, await self._sandboxes.last(principal, sandbox.key)))
                await send(part)

    async def _next(self, parts: AsyncGenerator[Part, None], send: Send) -> Part | None:
        """Returns the next part, None after the last. Sends a sign of life while there is none."""
        awaited = asyncio.ensure_future(anext(parts, None))
        silent = 0.0
        try:
            while not awaited.done():
                await asyncio.wait((awaited,), timeout=self._pace.access_look_most)
                if self._sandboxes.closed:
                    raise errors.Unavailable("SHUTTING_DOWN", "the service is stopping: call again with after_position")
                silent += self._pace.access_look_most
                if not awaited.done() and silent >= self._pace.heartbeat:
                    await send(Beat())
                    silent = 0.0
            return await awaited
        finally:
            # The generator cannot be closed while it runs.
            awaited.cancel()
            await asyncio.wait((awaited,))

    def _reason(self, found: EndReason, sandbox: Sandbox) -> EndReason:
        """Returns why a process ended: the engine has `found` whether it was replaced."""
        if sandbox.desired is not DesiredState.RUNNING:
            return EndReason.SANDBOX_STOPPED
        return EndReason.NODE_LOST if sandbox.status.reason is Reason.NODE_LOST else found
