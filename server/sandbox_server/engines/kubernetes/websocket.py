"""WebSockets whose connection ends when they are closed, whatever the other side does."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
from aiohttp import WSCloseCode

if TYPE_CHECKING:
    Base = aiohttp.ClientWebSocketResponse[Literal[True]]
else:
    # Older releases do not have it as a generic class.
    Base = aiohttp.ClientWebSocketResponse


class WebSocket(Base):
    """A WebSocket that drops on close what the other side has not taken by then.

    Without this, aiohttp keeps the connection open until the unsent data is sent, which never happens if the program in the
    sandbox reads nothing. That program then never learns that its caller has left.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The connection is without it once it is released.
        self._transport: asyncio.Transport | None = self._conn.transport if self._conn is not None else None

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"") -> bool:
        """Closes the WebSocket, and the connection."""
        try:
            return await super().close(code=code, message=message)
        finally:
            # With TLS, asyncio's own loop forgets what it would have to drop. The service runs on uvloop, which does not.
            with contextlib.suppress(AttributeError):
                if self._transport is not None and self._transport.get_write_buffer_size() > 0:
                    self._transport.abort()
