"""The contract of calls about files on the path that the content takes in a cluster: API server, kubelet, a real process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from sandbox_server.domain.phase import Phase

from tests.contract.files import *  # noqa: F403 - the tests themselves
from tests.contract.files import A
from tests.kubernetes.ground import KubernetesGround, grant_access
from tests.support.filing import Filer
from tests.support.rig import Rig

pytestmark = pytest.mark.processes


@pytest.fixture
async def filer(rig: Rig, ground: KubernetesGround) -> AsyncIterator[Filer]:
    await asyncio.to_thread(grant_access, ground.cluster, ground.namespace)
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING, 60)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        yield await Filer(channel, A).reached()


@pytest.fixture
async def home(filer: Filer, ground: KubernetesGround) -> Path:
    pod = await asyncio.to_thread(ground.cluster.request, "GET", ground.path("pods", f"{A}-0"))
    return await ground.node.home(pod)


@pytest.fixture
def inside() -> bytes:
    return b"/home/agent/"
