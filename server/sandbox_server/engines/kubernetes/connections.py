"""Connections to ports of pods, by `pods/portforward`.

The subprotocol `SPDY/3.1+portforward.k8s.io` is SPDY within the messages of a WebSocket, which the API server hands on to the
kubelet since 1.31: the one way that carries the end of each side by itself. A connection is a pair of streams, one for the data
and one on which the kubelet says why it failed.

The kubelet says nothing when it has connected. So a connection counts as open when data arrives, or no refusal has for a while.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from sandbox_server import engines
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes import client, entrance, resources, rights, spdy
from sandbox_server.engines.kubernetes.resources import Kind
from sandbox_server.engines.kubernetes.spdy import Frame

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
_ERROR, _DATA = 1, 3
"""The streams. Those of the side that has opened the connection have odd numbers."""
_MESSAGE_MOST = 32 * 1024
"""Bytes of data in one message: the API server hands on as many at once."""
_FRAME_MOST = 1 << 20
_COMPLAINT_MOST = 4096
# Words of Go's net, which containerd, CRI-O and the others hand on.
_REFUSED = re.compile(r"connection refused", re.IGNORECASE)


class Connection:
    """See `engines.Connection`."""

    def __init__(self, socket: "aiohttp.ClientWebSocketResponse[Any]", settled_after: float) -> None:
        self._socket = socket
        self._settled_after = settled_after
        self._frames = spdy.Reader(_FRAME_MOST)
        self._arrived = b""
        self._complaint = b""
        self._ended = False
        """Whether the other side has ended its data."""
        self._explained = False
        """Whether the kubelet has nothing more to say."""
        self._failure: Exception | None = None
        self._filling: asyncio.Task[None] | None = None

    async def begin(self, port: int) -> None:
        """Opens both streams."""
        frames = spdy.Writer()
        headers = {"port": str(port), "requestid": "0"}
        await self._send(frames.open(_ERROR, {"streamtype": "error", **headers}) + spdy.data(_ERROR, b"", fin=True))
        await self._send(frames.open(_DATA, {"streamtype": "data", **headers}))

    async def opened(self) -> None:
        """Returns when something has arrived, or nothing for a while."""
        # Not cancelled when the time is over: a message would be lost.
        self._filling = asyncio.create_task(self._fill())
        await asyncio.wait((self._filling,), timeout=self._settled_after)
        if self._filling.done():
            self._filling.result()

    async def write(self, data: bytes) -> None:
        """Sends messages, and waits while the connection takes no more."""
        if self._ended and self._explained:
            raise engines.Unreachable("portforward: the other side has closed the connection")
        for begin in range(0, len(data), _MESSAGE_MOST):
            await self._send(spdy.data(_DATA, data[begin : begin + _MESSAGE_MOST]))

    async def end(self) -> None:
        """Ends the data of this side."""
        await self._send(spdy.data(_DATA, b"", fin=True))

    async def read(self) -> bytes:
        """Returns what has arrived."""
        await (self._fill() if self._filling is None else self._filling)
        self._filling = None
        read, self._arrived = self._arrived[: engines.PORT_PART], self._arrived[engines.PORT_PART :]
        return read

    def close(self) -> None:
        """Waits for nothing any more."""
        if self._filling is not None:
            self._filling.cancel()

    async def _fill(self) -> None:
        """Returns when there is data, or the other side has ended. Raises what has broken the connection."""
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            if not self._ended:
                await self._receive()
                continue
            # Some runtimes end the data before the kubelet says why, if there is a reason.
            try:
                async with asyncio.timeout(self._settled_after):
                    while not self._explained and self._failure is None:
                        await self._receive()
            except TimeoutError:
                return
            if self._failure is None:
                return

    async def _receive(self) -> None:
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            self._fail("the connection was cut")
            return
        try:
            for frame in self._frames.feed(message.data):
                await self._take(frame)
        except spdy.Broken as error:
            self._fail(str(error))

    async def _take(self, frame: Frame) -> None:
        match frame:
            case Frame(spdy.Kind.DATA, stream, data, fin) if stream == _DATA:
                self._arrived += data
                self._ended = self._ended or fin
            case Frame(spdy.Kind.DATA, stream, data, fin) if stream == _ERROR:
                self._complaint += data[: _COMPLAINT_MOST - len(self._complaint)]
                if fin:
                    self._explain()
            # After a failure the kubelet writes why, and resets both streams in place of ending them.
            case Frame(spdy.Kind.RST_STREAM, stream) if stream == _ERROR:
                self._explain()
            case Frame(spdy.Kind.RST_STREAM, stream) if stream == _DATA:
                self._fail("the connection was reset")
            case Frame(spdy.Kind.GOAWAY):
                self._fail("the kubelet ends the connection")
            case Frame(spdy.Kind.PING):
                await self._send(spdy.pong(frame))

    def _explain(self) -> None:
        """Notes that the kubelet has nothing more to say."""
        self._explained = True
        if self._complaint:
            self._fail("")

    def _fail(self, otherwise: str) -> None:
        """Notes why the connection failed: what the kubelet has said, if that is anything."""
        words = self._complaint.decode(errors="replace").strip() or otherwise
        if self._failure is None:
            self._failure = engines.Unreachable(f"portforward: {words}")
            if _REFUSED.search(words):
                self._failure = engines.PortRefused(f"nothing listens on that port of the pod ({words})")

    async def _send(self, data: bytes) -> None:
        try:
            await self._socket.send_bytes(data)
        except (aiohttp.ClientError, OSError) as error:
            raise engines.Unreachable(f"portforward: {str(error) or type(error).__name__}") from error


@contextlib.asynccontextmanager
async def connect(
    api: client.Client, sandbox: Sandbox, incarnation: str, port: int, settled_after: float
) -> AsyncIterator[Connection]:
    """Connects to a port of a pod; see `engines.Access.connect`. `settled_after`: seconds without a refusal.

    As in `entrance.enter`, the pod is read once it is connected.
    """
    path = f"{client.path(Kind.POD, sandbox.namespace, resources.pod_name(sandbox))}/portforward"
    async with contextlib.AsyncExitStack() as opened:
        with rights.granted(sandbox.namespace, "get and create pods/portforward"):
            # No signs of life: while the caller reads nothing, none of the other side would be read either.
            upgraded = api.upgraded(path, [("ports", str(port))], (PROTOCOL,), beats=False)
            socket = await opened.enter_async_context(upgraded)
        if socket.protocol != PROTOCOL:
            raise engines.Unsupported("the API server cannot carry the end of a connection: ports need Kubernetes 1.31")
        pod = await entrance.read_pod(api, sandbox)
        if pod is None or pod.incarnation != incarnation:
            raise engines.Unreachable("the process of the sandbox has ended")
        connection = Connection(socket, settled_after)
        opened.callback(connection.close)
        await connection.begin(port)
        yield connection
