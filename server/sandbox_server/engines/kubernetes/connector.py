"""Connections to the API server that lose nothing of what came before their end.

uvloop drops up to 256 KiB that have arrived over TLS if the other side closes while the reading is paused, as it is while
a caller is slower than the sandbox (MagicStack/uvloop#661). So the reading of the connection below TLS is paused instead:
its end is then met only after everything before it was passed on.
"""

import asyncio
from typing import Any

import aiohttp


class _Steady:
    """The transport of a TLS connection, whose reading is paused below TLS."""

    def __init__(self, transport: asyncio.BaseTransport, below: asyncio.Transport) -> None:
        self._transport = transport
        self.pause_reading = below.pause_reading
        self.resume_reading = below.resume_reading

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connector(aiohttp.TCPConnector):
    """Connects, and starts TLS on the connection as behind a proxy: so both transports are at hand."""

    async def _wrap_create_connection(self, *args: Any, **options: Any) -> Any:
        tls = options.pop("ssl", None)
        name = options.pop("server_hostname", None)
        transport, protocol = await super()._wrap_create_connection(*args, **options)
        if tls is None:
            return transport, protocol
        if transport.is_closing():
            # The API server has closed the connection. To start TLS on it would raise ValueError in uvloop, or never return.
            raise options["client_error"](
                options["req"].connection_key, ConnectionResetError("closed before TLS began")
            )
        # The name in the URL may end with a dot, those in certificates do not.
        options["req"].server_hostname = name
        return await self._start_tls_connection(
            transport, req=options["req"], timeout=options["timeout"], client_error=options["client_error"]
        )

    async def _start_tls_connection(self, underlying_transport: asyncio.Transport, *args: Any, **options: Any) -> Any:
        transport, protocol = await super()._start_tls_connection(underlying_transport, *args, **options)
        steady: Any = _Steady(transport, underlying_transport)
        protocol.transport = steady
        return steady, protocol
