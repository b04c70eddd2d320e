"""The contract of StreamLogs on the path that logs take in a cluster: a container's own log, its kubelet, the API server."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sandbox_server.domain.phase import Phase

from tests.contract.logs import *  # noqa: F403 - the tests themselves
from tests.kubernetes.containers import Containers
from tests.kubernetes.ground import KubernetesGround, grant_access
from tests.support import samples
from tests.support.rig import A, Rig
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.processes

PROGRAM = """
trap 'rm follows; exit 0' TERM
: >said
tail -c +1 -f said &
: >follows
while ! test -e crash; do sleep 0.02; done
rm crash follows; exit 3
"""


class RealTalker:
    """A sandbox that prints what is appended to the file `said` of its home."""

    def __init__(self, rig: Rig, ground: KubernetesGround, containers: Containers, home: Path) -> None:
        self.rig = rig
        self._ground = ground
        self._containers = containers
        self._home = home

    def _log(self) -> Path:
        """The file that the present container prints into."""
        folder = self._containers.logs(pod(self._ground))
        return max(folder.glob("*.log"), key=lambda one: int(one.stem))

    async def say(self, data: bytes) -> None:
        async with asyncio.timeout(20 * PATIENCE):
            # Made by each process once it has emptied the other file.
            while not (self._home / "follows").exists():
                await asyncio.sleep(0.01)
            log = await asyncio.to_thread(self._log)
            before = printed(log)
            with (self._home / "said").open("ab") as said:
                said.write(data)
            while printed(log) < before + len(data):
                await asyncio.sleep(0.01)

    async def crash(self) -> None:
        before = (await self.rig.get(A)).status.restart_count
        (self._home / "crash").touch()
        await self.rig.until(A, lambda one: one.status.restart_count > before)


def printed(log: Path) -> int:
    """How many bytes have been printed into a log of a container runtime: each entry has a time, a stream and a tag."""
    size = 0
    for line in log.read_bytes().split(b"\n")[:-1]:
        _, _, tag, data = line.split(b" ", 3)
        size += len(data) + (tag == b"F")
    return size


@pytest.fixture
async def talker(rig: Rig, ground: KubernetesGround, containers: Containers) -> RealTalker:
    await asyncio.to_thread(grant_access, ground.cluster, ground.namespace)
    await rig.create(A, spec=samples.spec(command=("/bin/sh", "-c", PROGRAM), grace_period_seconds=2))
    await rig.settled(A, Phase.RUNNING, 60)
    return RealTalker(rig, ground, containers, await ground.node.home(await asyncio.to_thread(pod, ground)))


def pod(ground: KubernetesGround) -> dict[str, Any]:
    return dict(ground.cluster.request("GET", ground.path("pods", f"{A}-0")))
