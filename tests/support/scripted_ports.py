"""What the scripted API server answers to `pods/portforward`: SPDY/3.1 in the messages of a WebSocket, and TCP behind it.

After cri-streaming/pkg/streaming/internal/portforward/httpstream.go and apiserver/pkg/util/proxy/streamtunnel.go of 1.36.
"""

import asyncio
import contextlib
import struct
import zlib
from collections.abc import Iterator

from aiohttp import WSMsgType, web

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
SYN_STREAM, SYN_REPLY, RST_STREAM, PING = 1, 2, 3, 6
REFUSED = (
    'error forwarding port 80 to pod p, uid u: failed to execute portforward in network namespace "/var/run/netns/n": failed '
    'to connect to localhost:80 inside namespace "n", IPv4: dial tcp4 127.0.0.1:80: connect: connection refused IPv6 dial '
    "tcp6 [::1]:80: connect: connection refused "
)


class Ports:
    """`loopback` says which port of this machine stands for a port of the pods; nothing listens on others.

    `as_containerd`: the connection is closed a second after either side has ended, and no end is handed on.
    `ends_first`: the runtime ends the data before the kubelet says why. After a refusal the kubelet resets what has not ended.
    `split`: bytes of a message. `tunnels`: whether the API server knows the protocol. `pings`: it asks for a sign of life.
    """

    def __init__(self) -> None:
        self.loopback: dict[int, int] = {}
        self.as_containerd = False
        self.ends_first = False
        self.split = 32 * 1024
        self.tunnels = True
        self.pings = 0
        self.pongs = 0
        self.sockets: list[web.WebSocketResponse] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=(PROTOCOL,) if self.tunnels else ("v4.channel.k8s.io",))
        await socket.prepare(request)
        self.sockets.append(socket)
        await _Forward(self, socket).run()
        return socket


class _Forward:
    def __init__(self, ports: Ports, socket: web.WebSocketResponse) -> None:
        self._ports = ports
        self._socket = socket
        self._inflate = zlib.decompressobj()
        self._rest = b""
        self._streams: dict[str, int] = {}
        self._port = 0
        self._from_caller: asyncio.Queue[bytes] = asyncio.Queue(4)
        self._working: asyncio.Task[None] | None = None

    async def run(self) -> None:
        try:
            async for message in self._socket:
                assert message.type is WSMsgType.BINARY
                self._rest += message.data
                for frame in self._frames():
                    await self._take(*frame)
        finally:
            if self._working is not None:
                self._working.cancel()
                await asyncio.gather(self._working, return_exceptions=True)

    def _frames(self) -> Iterator[tuple[int, int, bytes]]:
        while len(self._rest) >= 8:
            first, second = struct.unpack(">II", self._rest[:8])
            length = second & 0xFFFFFF
            if len(self._rest) < 8 + length:
                return
            body, self._rest = self._rest[8 : 8 + length], self._rest[8 + length :]
            yield first, second >> 24, body

    async def _take(self, first: int, flags: int, body: bytes) -> None:
        if first & 0x80000000:
            assert first >> 16 == 0x8003
            if first & 0xFFFF == SYN_STREAM:
                (stream,) = struct.unpack(">I", body[:4])
                headers = self._headers(body[10:])
                self._streams[headers["streamtype"]] = stream
                self._port = int(headers["port"])
                assert headers["requestid"] == "0"
                await self._send(struct.pack(">III", 0x80030000 | SYN_REPLY, 4, stream))
                if len(self._streams) == 2:
                    self._working = asyncio.create_task(self._work())
            elif first & 0xFFFF == PING:
                self._ports.pongs += 1
            return
        if first == self._streams.get("data"):
            if body:
                await self._from_caller.put(body)
            if flags & 1:
                await self._from_caller.put(b"")

    def _headers(self, packed: bytes) -> dict[str, str]:
        block = self._inflate.decompress(packed)
        words, at = [], 4
        for _ in range(2 * struct.unpack(">I", block[:4])[0]):
            (length,) = struct.unpack(">I", block[at : at + 4])
            words.append(block[at + 4 : at + 4 + length].decode())
            at += 4 + length
        assert all(name == name.lower() for name in words[::2])
        return dict(zip(words[::2], words[1::2], strict=True))

    async def _work(self) -> None:
        for number in range(self._ports.pings):
            await self._send(struct.pack(">III", 0x80030000 | PING, 4, 2 * number + 2))
        complaint = ""
        try:
            await self._forward(self._ports.loopback[self._port])
        except (KeyError, ConnectionRefusedError):
            complaint = REFUSED
        except OSError as error:
            complaint = f"error forwarding port: {error}"
        with contextlib.suppress(OSError):
            if self._ports.ends_first:
                await self._data("data", b"", fin=True)
            if complaint:
                await self._data("error", complaint.encode())
                if not self._ports.ends_first:
                    await self._send(struct.pack(">IIII", 0x80030000 | RST_STREAM, 8, self._streams["data"], 5))
                await self._send(struct.pack(">IIII", 0x80030000 | RST_STREAM, 8, self._streams["error"], 5))
                return
            await self._data("error", b"", fin=True)
            if not self._ports.ends_first:
                await self._data("data", b"", fin=True)

    async def _forward(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65536)

        async def take() -> None:
            while data := await self._from_caller.get():
                writer.write(data)
                await writer.drain()
            if not self._ports.as_containerd:
                writer.write_eof()

        async def give() -> None:
            while data := await reader.read(32 * 1024):
                await self._data("data", data)
            if not self._ports.as_containerd:
                await self._data("data", b"", fin=True)

        tasks = [asyncio.create_task(take()), asyncio.create_task(give())]
        try:
            if self._ports.as_containerd:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait(tasks, timeout=1)
            else:
                await asyncio.gather(*tasks)
        finally:
            # First: the API server may end, and cancel this once more, while the tasks are awaited.
            writer.transport.abort()
            for one in tasks:
                one.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _data(self, stream: str, data: bytes, *, fin: bool = False) -> None:
        await self._send(struct.pack(">II", self._streams[stream], (1 << 24 if fin else 0) | len(data)) + data)

    async def _send(self, data: bytes) -> None:
        for begin in range(0, len(data), self._ports.split):
            await self._socket.send_bytes(data[begin : begin + self._ports.split])
