"""Connects callers to ports of sandboxes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import structlog

from sandbox_server import engines
from sandbox_server.access.sandboxes import Sandboxes, not_reached, refusals
from sandbox_server.access.slots import Slots
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key, Sandbox

log = structlog.get_logger()

OF_SANDBOX = 64
OF_TENANT = 512
"""Connections at one replica. A browser opens six to a server."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A part of what one side sends, the last one if `eof`."""

    data: bytes
    eof: bool = False


Send = Callable[[Bytes], Awaitable[None]]


class Ports:
    """The ports of all sandboxes, on behalf of principals."""

    def __init__(self, found: Sandboxes, engine: engines.Access, pace: Pace) -> None:
        self._sandboxes = found
        self._engine = engine
        self._pace = pace
        self._slots = Slots("connections", OF_SANDBOX, OF_TENANT)

    async def forward(self, principal: Principal, key: Key, port: int, parts: AsyncIterator[Bytes], send: Send) -> None:
        """Connects to a port, and carries `parts` there and what comes back to `send`, until both sides have ended.

        Raises `errors.NotFound`, `errors.FailedPrecondition`, `errors.ResourceExhausted` and `errors.Unavailable`.
        """
        sandbox = await self._sandboxes.running(principal, key)
        incarnation = await self._sandboxes.incarnation(sandbox)
        with self._slots.taken(sandbox), refusals():
            try:
                async with self._engine.connect(sandbox, incarnation, port) as connection:
                    log.info(
                        "port_connected", namespace=key.namespace, sandbox=key.id, tenant=principal.name, port=port
                    )
                    works = (_take(connection, parts), _give(connection, send))
                    await _together(self._ended(principal, sandbox, incarnation), *works)
            except engines.PortRefused as error:
                raise errors.FailedPrecondition("PORT_REFUSED", f"{error}: start a server in the sandbox") from None
            except engines.Unreachable as error:
                raise not_reached(error) from None

    async def _ended(self, principal: Principal, sandbox: Sandbox, incarnation: str) -> None:
        """Raises `errors.Unavailable` once the incarnation has ended, or the service stops."""
        if await self._sandboxes.ended(principal, sandbox, incarnation, self._pace.access_within) is None:
            raise errors.Unavailable("SHUTTING_DOWN", "the service is stopping: connect again")
        raise not_reached(engines.Unreachable("the process of the sandbox has ended"))


async def _take(connection: engines.Connection, parts: AsyncIterator[Bytes]) -> None:
    """Sends what the caller sends."""
    async for part in parts:
        if part.data:
            await connection.write(part.data)
        if part.eof:
            break
    await connection.end()


async def _give(connection: engines.Connection, send: Send) -> None:
    """Sends to the caller that the connection is open, and what arrives."""
    await connection.opened()
    await send(Bytes(b""))
    while data := await connection.read():
        await send(Bytes(data))
    await send(Bytes(b"", eof=True))


async def _together(guard: Awaitable[None], *works: Awaitable[None]) -> None:
    """Returns when all works have. Raises what one of them raises, or the guard, and ends the others."""
    tasks = [asyncio.ensure_future(one) for one in works]
    watch = asyncio.ensure_future(guard)
    try:
        waited = {watch, *tasks}
        while not all(one.done() for one in tasks):
            done, waited = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
    finally:
        for one in (watch, *tasks):
            one.cancel()
        await asyncio.wait((watch, *tasks))
