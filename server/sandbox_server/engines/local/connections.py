"""Connections to ports of sandboxes. The network is that of the machine: only ports that belong to the sandbox are reached."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

from sandbox_server import engines
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import TERMINAL_PORT


class Connection:
    """See `engines.Connection`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def opened(self) -> None:
        """Returns: it is open from the first."""

    async def write(self, data: bytes) -> None:
        """Writes, and waits while the socket takes no more."""
        with _breaks():
            self._writer.write(data)
            await self._writer.drain()

    async def end(self) -> None:
        """Shuts the socket down for writing."""
        with _breaks():
            self._writer.write_eof()

    async def read(self) -> bytes:
        """Returns what the socket has."""
        with _breaks():
            return await self._reader.read(engines.PORT_PART)


@contextlib.asynccontextmanager
async def connect(sandbox: Sandbox, runs: Callable[[], bool], port: int) -> AsyncIterator[Connection]:
    """Connects to a port of a sandbox; see `engines.Access.connect`. `runs`: whether the incarnation does."""
    number = _loopback(sandbox, port)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", number, limit=engines.PORT_PART)
    except ConnectionRefusedError:
        raise engines.PortRefused(
            f"nothing listens on 127.0.0.1:{number}, which is port {port} of the sandbox"
        ) from None
    except OSError as error:
        raise engines.Unreachable(f"127.0.0.1:{number}: {error.strerror or error}") from None
    try:
        # Another process may have the port once that of the sandbox has ended. Also, the kernel may choose the port as that of
        # the connection itself, which then is connected to itself.
        if not runs():
            raise engines.Unreachable("the process of the sandbox has ended")
        if writer.get_extra_info("sockname") == writer.get_extra_info("peername"):
            raise engines.PortRefused(f"nothing listens on 127.0.0.1:{number}, which is port {port} of the sandbox")
        yield Connection(reader, writer)
    finally:
        # Not closed in order: what is not sent by now is for nobody.
        writer.transport.abort()


def _loopback(sandbox: Sandbox, port: int) -> int:
    """Returns the loopback port of a sandbox that stands for a port. Raises `engines.PortRefused` for any other."""
    own = sandbox.addresses.ports
    names = dict(zip((sandbox.spec.ports[0].number, TERMINAL_PORT), own, strict=False))
    if port in own:
        return port
    if port not in names:
        allowed = ", ".join(str(one) for one in (*names, *own))
        raise engines.PortRefused(
            f"port {port} may be another program's, since the local engine shares the network of its machine; ports of the "
            f"sandbox are {allowed}"
        )
    return names[port]


@contextlib.contextmanager
def _breaks() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise engines.Unreachable(f"the connection broke: {error.strerror or error}") from None
