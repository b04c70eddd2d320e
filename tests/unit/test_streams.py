"""The WebSocket of `pods/exec`, against a scripted server that speaks one of the two protocols."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import client, streams
from sandbox_server.settings import Settings

from tests.support.ports import free_port

PROGRAM = ("/bin/sh", "-c", "read -r line\necho $line")
Talk = Callable[[web.WebSocketResponse], Awaitable[None]]


class ApiServer:
    """Answers every exec with `talk`, or with `status`. `asked` are the paths, queries and headers."""

    def __init__(self) -> None:
        self.protocols = streams.PROTOCOLS
        self.talk: Talk = echo
        self.status = 0
        self.asked: list[tuple[str, list[tuple[str, str]], str]] = []
        self.heard: list[bytes] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        query = sorted(request.query.items())
        self.asked.append((request.path, query, request.headers.get("Authorization", "")))
        if self.status:
            return web.json_response(
                {"kind": "Status", "message": "not allowed", "code": self.status}, status=self.status
            )
        socket = web.WebSocketResponse(protocols=self.protocols)
        await socket.prepare(request)
        await self.talk(socket)
        async for message in socket:
            self.heard.append(message.data)
        return socket


async def echo(socket: web.WebSocketResponse) -> None:
    message = await socket.receive()
    assert message.type is WSMsgType.BINARY
    assert message.data[:1] == b"\0"
    await socket.send_bytes(b"\2dropped")
    await socket.send_bytes(b"\1")
    await socket.send_bytes(b"\1<" + message.data[1:])
    await socket.send_bytes(b"\1>")
    await socket.send_bytes(b'\3{"status":"Success"}')


async def ready(_: web.Request) -> web.Response:
    return web.Response(text="ok")


@pytest.fixture
async def server() -> AsyncIterator[tuple[ApiServer, int]]:
    made = ApiServer()
    application = web.Application()
    application.router.add_get("/readyz", ready)
    application.router.add_get("/{path:.*}", made.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield made, port
    await runner.cleanup()


@pytest.fixture
async def api(server: tuple[ApiServer, int], tmp_path: Path) -> AsyncIterator[client.Client]:
    named = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server[1]}"}}
    config: dict[str, Any] = {
        "clusters": [named],
        "users": [{"name": "me", "user": {"token": "secret"}}],
        "contexts": [{"name": "it", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "it",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    made = client.Client(Settings(kubeconfig=tmp_path / "kubeconfig").kubernetes, Pace())
    await made.open()
    yield made
    await made.close()


def entered(api: client.Client) -> Any:
    return streams.enter(api, "tenant", "a-0", "sandbox", PROGRAM)


async def everything(stream: streams.Stream) -> bytes:
    read = b""
    while part := await stream.read(4):
        read += part
    return read


@pytest.mark.parametrize("protocol", streams.PROTOCOLS)
async def test_input_and_output_are_those_of_the_program(
    server: tuple[ApiServer, int], api: client.Client, protocol: str
) -> None:
    scripted, _ = server
    scripted.protocols = (protocol,)
    async with entered(api) as stream:
        await stream.write(b"\xffsaid\n")
        assert await everything(stream) == b"<\xffsaid\n>"
        assert await stream.read(4) == b""
    ((path, query, authorization),) = scripted.asked
    assert path == "/api/v1/namespaces/tenant/pods/a-0/exec"
    assert [value for name, value in query if name == "command"] == sorted(PROGRAM)
    assert dict(query).keys() == {"container", "stdin", "stdout", "stderr", "command"}
    assert authorization == "Bearer secret"
    # With v4 the input ends with the connection.
    assert scripted.heard == ([b"\xff\0"] if protocol == "v5.channel.k8s.io" else [])


async def test_much_input_is_sent_in_messages_that_a_kubelet_takes(
    server: tuple[ApiServer, int], api: client.Client
) -> None:
    scripted, _ = server
    data = bytes(range(256)) * 1024

    async def silent(_socket: web.WebSocketResponse) -> None:
        pass

    scripted.talk = silent
    async with entered(api) as stream:
        await stream.write(data)
    *frames, end = scripted.heard
    assert b"".join(frame[1:] for frame in frames) == data
    assert {frame[:1] for frame in frames} == {b"\0"}
    assert max(map(len, frames)) <= 32 * 1024 + 1
    assert end == b"\xff\0"


async def test_cut_connection_ends_the_output_and_refuses_input(
    server: tuple[ApiServer, int], api: client.Client
) -> None:
    scripted, _ = server

    async def cut(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(b"\1half")
        await socket.close()

    scripted.talk = cut
    async with entered(api) as stream:
        assert await everything(stream) == b"half"
        with pytest.raises(engines.Unreachable):
            await stream.write(b"more")


@pytest.mark.parametrize(
    ("status", "raised"), [(403, engines.Refused), (404, client.Missing), (500, engines.Busy), (400, engines.Refused)]
)
async def test_refused_upgrade_is_a_failure_of_the_call(
    server: tuple[ApiServer, int], api: client.Client, status: int, raised: type[Exception]
) -> None:
    server[0].status = status
    with pytest.raises(raised):
        async with entered(api):
            pass


async def test_api_server_that_is_away_is_unreachable(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{free_port()}"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "it",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    made = client.Client(Settings(kubeconfig=tmp_path / "kubeconfig").kubernetes, Pace())
    await made.open()
    try:
        with pytest.raises(client.Away):
            async with entered(made):
                pass
    finally:
        await made.close()
