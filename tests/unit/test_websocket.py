"""The WebSocket of calls to pods, against a server that reads nothing."""

import asyncio

import aiohttp
import pytest
from aiohttp import web
from sandbox_server.engines.kubernetes import websocket


async def test_connection_ends_with_its_websocket_though_the_other_side_takes_nothing() -> None:
    ended = asyncio.Event()

    async def never(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await ended.wait()
        return socket

    app = web.Application()
    app.router.add_get("/", never)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    async with aiohttp.ClientSession(ws_response_class=websocket.WebSocket) as session:
        socket = await session.ws_connect(url, timeout=aiohttp.ClientWSTimeout(ws_close=0.05))
        connection = socket.get_extra_info("socket")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    await socket.send_bytes(bytes(65536))
        await socket.close()
        async with asyncio.timeout(30):
            while connection.fileno() != -1:
                await asyncio.sleep(0.01)
    ended.set()
    await runner.cleanup()
