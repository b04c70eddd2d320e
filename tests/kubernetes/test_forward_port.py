"""The contract of ForwardPort on the path that a connection takes in a cluster: API server, kubelet, the network of a pod."""

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sandbox_server.domain.phase import Phase

from tests.contract.ports import *  # noqa: F403 - the tests themselves
from tests.contract.ports import until
from tests.kubernetes.ground import KubernetesGround, grant_access
from tests.support import samples
from tests.support.forwarding import Serve, serving
from tests.support.rig import A, Rig

pytestmark = pytest.mark.processes

PORT = 8000
# The image of a container is this machine.
INTERPRETER = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
# The server of a test is outside of the container, and shares no network with it: a socket in the home leads there.
RELAY = f"""
import asyncio, os, signal

async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()

async def accept(reader, writer):
    inner, outer = await asyncio.open_unix_connection("server")
    await asyncio.gather(copy(reader, outer), copy(inner, writer))
    outer.transport.abort()
    writer.close()

async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: os._exit(0))
    while True:
        while not os.path.exists("server"):
            await asyncio.sleep(0.01)
        server = await asyncio.start_server(accept, "127.0.0.1", {PORT})
        open("listens", "w").close()
        while os.path.exists("server"):
            await asyncio.sleep(0.01)
        server.close()
        os.unlink("listens")

asyncio.run(main())
"""


class RealPlace:
    port = PORT
    carries_ends = False

    def __init__(self, rig: Rig, home: Path) -> None:
        self.rig = rig
        self._home = home

    @asynccontextmanager
    async def listening(self, serve: Serve) -> AsyncIterator[None]:
        async with serving(serve, self._home / "server"):
            await until((self._home / "listens").exists)
            yield
            (self._home / "server").unlink()


@pytest.fixture
async def place(rig: Rig, ground: KubernetesGround) -> RealPlace:
    await asyncio.to_thread(grant_access, ground.cluster, ground.namespace)
    command = ("/bin/sh", "-c", f"exec {INTERPRETER} -I -c {shlex.quote(RELAY)}")
    await rig.create(A, spec=samples.spec(command=command, grace_period_seconds=2))
    await rig.settled(A, Phase.RUNNING, 60)
    pod = await asyncio.to_thread(ground.cluster.request, "GET", ground.path("pods", f"{A}-0"))
    return RealPlace(rig, await ground.node.home(pod))
