"""Ports of sandboxes on this machine, by both Python clients and `sandboxctl port-forward`, against the live service."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from sandbox_client import AsyncClient, Client, ServiceError

from tests.support.programs import Program
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

NAME = "ports-1"
# Answers after the caller has ended, with what the caller sent.
ECHO = """
import os, socket
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    one, _ = listener.accept()
    data = b""
    while part := one.recv(65536):
        data += part
    one.sendall(data[::-1])
    one.close()
"""


@pytest.fixture(scope="module")
def port(service: Service) -> Iterator[int]:
    """The port of a sandbox in which a server listens."""
    python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    with service.client() as client:
        made = client.create("ports", sandbox_id=NAME, command=[python, "-c", ECHO])
        status = client.wait_until(made, "RUNNING", timeout=30 * PATIENCE)
        port = int(status.public_url.rpartition(":")[2].rstrip("/"))
        assert client.run(NAME, ["/bin/sh", "-c", "true"]).exit_code == 0
        yield port
        client.delete(NAME)


def asked(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30 * PATIENCE) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


@pytest.mark.slow
def test_each_side_of_a_connection_ends_by_itself(client: Client, port: int) -> None:
    data = os.urandom(1 << 20)
    failures: list[ServiceError] = []
    with client.forward(NAME, port, failed=failures.append) as forward:
        eventually(lambda: asked(forward.port, b"ping") == b"gnip", within=20)
        failures.clear()
        assert asked(forward.port, data) == data[::-1]
        assert asked(forward.port, b"") == b""
    assert failures == []
    with pytest.raises(OSError, match="refused"):
        asked(forward.port, b"late")


@pytest.mark.slow
async def test_async_connections_are_carried_at_once(service: Service, client: Client, port: int) -> None:
    with client.forward(NAME, port) as waiting:
        await asyncio.to_thread(eventually, lambda: asked(waiting.port, b"ping") == b"gnip", 20)
    async with AsyncClient(service.address) as far, far.forward(NAME, port) as forward:
        answers = await asyncio.gather(*(asyncio.to_thread(asked, forward.port, b"%d!" % one) for one in range(10, 15)))
    assert answers == [b"!01", b"!11", b"!21", b"!31", b"!41"]


def test_why_a_connection_has_ended_is_told(client: Client, port: int) -> None:
    failures: list[ServiceError] = []
    with client.forward(NAME, 1, failed=failures.append) as forward:
        assert asked(forward.port, b"") == b""
        eventually(lambda: bool(failures))
    assert failures[0].reason == "PORT_REFUSED"


def test_sandboxctl_forwards_until_ctrl_c(service: Service, client: Client, port: int) -> None:
    env = {**os.environ, "SANDBOX_SERVER": service.address}
    pipe = subprocess.PIPE
    words = ("port-forward", NAME, f":{port}", ":1")
    with Program("sandboxctl", *words, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        lines = [process.stdout.readline() for _ in range(2)]
        assert [line.split()[2] for line in lines] == [f"{NAME}:{port}", f"{NAME}:1"]
        local, refused = (int(line.split()[0].rpartition(":")[2]) for line in lines)
        eventually(lambda: asked(local, b"ping") == b"gnip", within=20)
        assert asked(refused, b"") == b""
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30 * PATIENCE) == 130
        said = process.stderr.read()
    assert "nothing listens" in said or "port" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("words", [("0",), ("x:80",), ("80:99999",), ()])
def test_what_is_no_port_is_refused(service: Service, port: int, words: tuple[str, ...]) -> None:
    env = {**os.environ, "SANDBOX_SERVER": service.address}
    with Program("sandboxctl", "port-forward", NAME, *words, env=env, stderr=subprocess.PIPE) as process:
        assert process.wait(timeout=30 * PATIENCE) == 2
