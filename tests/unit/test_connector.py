"""Connections to an API server that closes while its answer is being read."""

import asyncio
import contextlib
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from sandbox_server.engines.kubernetes.connector import Connector

from tests.support.certificates import LOOPBACK, certificate
from tests.support.waiting import PATIENCE

SIZE = 4 << 20
DNS = x509.DNSName("server.example")
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Loopback(AbstractResolver):
    """Finds every name on this machine."""

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


def answer_and_close(listener: socket.socket, tls: ssl.SSLContext) -> None:
    """Answers one request, and closes the connection at once, which ends the answer."""
    with tls.wrap_socket(listener.accept()[0], server_side=True) as connection:
        while not connection.recv(65536).endswith(b"\r\n\r\n"):
            pass
        connection.sendall(HEAD + bytes(SIZE))


async def read_slowly(port: int, tls: ssl.SSLContext, host: str) -> int:
    """Returns how many bytes of the answer arrive at a caller who reads slower than they come."""
    size = 0
    async with (
        aiohttp.ClientSession(connector=Connector(ssl=tls, resolver=Loopback())) as session,
        session.get(f"https://{host}:{port}/") as response,
    ):
        while part := await response.content.read(256 << 10):
            size += len(part)
            await asyncio.sleep(0.002)
    return size


@pytest.mark.fault(107)
@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", LOOPBACK), ("server.example", DNS), ("server.example.", DNS)])
def test_nothing_is_lost_of_what_came_before_the_end_of_a_connection(
    tmp_path: Path, host: str, name: x509.GeneralName
) -> None:
    paths = certificate(tmp_path, "server", served=name)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*paths)
    trusted = ssl.create_default_context(cafile=paths[0])
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        listener.settimeout(10 * PATIENCE)
        for _ in range(5):
            answered = threads.submit(answer_and_close, listener, serving)
            # The loop of the service: that of asyncio loses nothing.
            assert uvloop.run(read_slowly(listener.getsockname()[1], trusted, host)) == SIZE
            answered.result()


@pytest.mark.fault(18)
def test_a_connection_that_is_closed_before_tls_begins_is_a_failure_to_connect() -> None:
    def close_each(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    async def fail(session: aiohttp.ClientSession, url: str) -> None:
        with pytest.raises((aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)):
            await asyncio.wait_for(session.get(url), 20 * PATIENCE)

    async def all_fail(port: int) -> None:
        problems: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
        async with aiohttp.ClientSession(connector=Connector(limit=0)) as session:
            for _ in range(20):
                await asyncio.gather(*(fail(session, f"https://127.0.0.1:{port}/") for _ in range(20)))
        assert problems == []

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        threads.submit(close_each, listener)
        try:
            uvloop.run(all_fail(listener.getsockname()[1]))
        finally:
            listener.shutdown(socket.SHUT_RDWR)
