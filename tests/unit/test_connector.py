"""Connections to an API server that closes while its answer is being read."""

import asyncio
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import uvloop
from sandbox_server.engines.kubernetes.connector import Connector

from tests.support.certificates import certificate

SIZE = 4 << 20
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def answer_and_close(listener: socket.socket, tls: ssl.SSLContext) -> None:
    """Answers one request, and closes the connection at once, which ends the answer."""
    with tls.wrap_socket(listener.accept()[0], server_side=True) as connection:
        while not connection.recv(65536).endswith(b"\r\n\r\n"):
            pass
        connection.sendall(HEAD + bytes(SIZE))


async def read_slowly(port: int, tls: ssl.SSLContext) -> int:
    """Returns how many bytes of the answer arrive at a caller who reads slower than they come."""
    size = 0
    async with (
        aiohttp.ClientSession(connector=Connector(ssl=tls)) as session,
        session.get(f"https://127.0.0.1:{port}/") as response,
    ):
        while part := await response.content.read(256 << 10):
            size += len(part)
            await asyncio.sleep(0.002)
    return size


def test_nothing_is_lost_of_what_came_before_the_end_of_a_connection(tmp_path: Path) -> None:
    paths = certificate(tmp_path, "server")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(*paths)
    trusted = ssl.create_default_context(cafile=paths[0])
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        for _ in range(5):
            answered = threads.submit(answer_and_close, listener, served)
            # The loop of the service: that of asyncio loses nothing.
            assert uvloop.run(read_slowly(listener.getsockname()[1], trusted)) == SIZE
            answered.result()
