"""A program in a container of a pod, over the WebSocket of `pods/exec`.

The first byte of a message is its channel. With `v5.channel.k8s.io` either side can end a channel by itself; an API server
before 1.30 knows only `v4.channel.k8s.io`, where the input ends with the connection.

A program goes on when its connection closes. One whose pod is gone may have a connection that stays silent: whoever waits
for it has to bound the wait.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec

from sandbox_server import engines
from sandbox_server.engines.kubernetes import client
from sandbox_server.engines.kubernetes.resources import Kind

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STATUS, _CLOSE = b"\0", b"\1", b"\3", b"\xff"
_FRAME_MOST = 32 * 1024
"""Bytes of a message: kubelets read them into a buffer of this size."""
_MESSAGES = (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT)


class Cause(msgspec.Struct):
    """A detail of a status, such as the exit code."""

    reason: str = ""
    message: str = ""


class Details(msgspec.Struct):
    """The details of a status."""

    causes: list[Cause] = []


class End(msgspec.Struct):
    """How a program ended, as its status says it: empty for a connection that was cut."""

    message: str = ""
    details: Details = msgspec.field(default_factory=Details)

    @property
    def exit_code(self) -> int:
        """The exit code of the program, or 0 if none is said."""
        codes = (one.message for one in self.details.causes if one.reason == "ExitCode")
        return next((int(code) for code in codes if code.isdecimal()), 0)


class Stream:
    """See `engines.Entered`. `end` is how the program ended, once there is nothing more to read."""

    def __init__(self, socket: "aiohttp.ClientWebSocketResponse[Any]") -> None:
        self._socket = socket
        self._rest = b""
        self._ended = False
        self.end = End()

    async def write(self, data: engines.Buffer) -> None:
        """Sends messages, and waits while the connection takes no more."""
        for begin in range(0, len(data), _FRAME_MOST):
            try:
                await self._socket.send_bytes(_STDIN + data[begin : begin + _FRAME_MOST])
            except (aiohttp.ClientError, OSError) as error:
                raise engines.Unreachable(f"exec: {str(error) or type(error).__name__}") from error

    async def read(self, most: int) -> bytes:
        """Returns what has arrived, and waits until something has."""
        while not self._rest and not self._ended:
            message = await self._socket.receive()
            if message.type not in _MESSAGES:
                self._ended = True
                break
            data = message.data.encode() if isinstance(message.data, str) else message.data
            if data[:1] == _STDOUT:
                self._rest = data[1:]
            elif data[:1] == _STATUS:
                # Nothing of the output follows.
                self._ended = True
                self.end = _end(data[1:])
        read, self._rest = self._rest[:most], self._rest[most:]
        return read

    async def close(self) -> None:
        """Ends the input of the program, where the protocol can."""
        if self._socket.protocol == PROTOCOLS[0]:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await self._socket.send_bytes(_CLOSE + _STDIN)


def _end(status: bytes) -> End:
    try:
        return msgspec.json.decode(status, type=End)
    except msgspec.DecodeError:
        return End(status.decode(errors="replace"))


@contextlib.asynccontextmanager
async def enter(
    api: client.Client, namespace: str, pod: str, container: str, program: Sequence[str]
) -> AsyncIterator[Stream]:
    """Runs a program in a container until the context ends.

    Raises `engines.Refused` and `engines.Unreachable`, also where there is no such pod.
    """
    path = f"{client.path(Kind.POD, namespace, pod)}/exec"
    # What the program writes to stderr is for nobody.
    parameters = [("container", container), ("stdin", "true"), ("stdout", "true"), ("stderr", "false")]
    parameters += [("command", word) for word in program]
    async with api.upgraded(path, parameters, PROTOCOLS) as socket:
        stream = Stream(socket)
        try:
            yield stream
        finally:
            await stream.close()
