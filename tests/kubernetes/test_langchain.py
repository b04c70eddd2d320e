"""LangChain's standard tests for sandboxes on the path of a cluster: API server, kubelet, and real processes."""

import asyncio
from pathlib import Path

from sandbox_server.domain.pace import Pace

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.containers import Containers
from tests.kubernetes.ground import KubernetesGround, grant_access, started
from tests.kubernetes.node import Node
from tests.support import langchain
from tests.support.rig import Rig


async def test_the_adapter_passes_every_standard_test(
    cluster: Cluster, ground: KubernetesGround, tmp_path: Path, pace: Pace
) -> None:
    grant_access(ground.cluster, ground.namespace)
    async with (
        Containers(cluster) as containers,
        Node(cluster, containers),
        started(Rig(ground, tmp_path, pace=pace)) as rig,
    ):
        await asyncio.to_thread(langchain.passes, f"127.0.0.1:{rig.port}", tmp_path)
