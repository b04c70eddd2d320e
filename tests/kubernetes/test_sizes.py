"""The largest specs that are accepted run: their StatefulSets, revisions, pods and Secrets fit etcd."""

from pathlib import Path

import pytest
from sandbox_server.domain import check
from sandbox_server.domain.phase import Phase

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.ground import KubernetesGround, started
from tests.kubernetes.node import Node
from tests.support import samples
from tests.support.rig import Rig

FILLS = {"angle": "<", "separator": "\u2028", "dollar": "$", "quote": '"', "control": "\x1b", "emoji": "\U0001f600"}


def filled(one: str, total: int, size: int, most: int) -> tuple[str, ...]:
    """Words of at most `size` bytes that count `total` bytes as they are written, or as many as there may be."""
    left, each = total // check._json_size(one), size // len(one.encode())
    return tuple(one * min(each, left - begun) for begun in range(0, left, each))[:most]


@pytest.mark.fault(70)
@pytest.mark.find(26)
async def test_the_largest_accepted_specs_run(cluster: Cluster, node: Node, tmp_path: Path) -> None:
    ground = KubernetesGround(cluster, node, tmp_path)
    async with started(Rig(ground, tmp_path)) as rig:
        env = {f"NAME_{n}": "\u2028" * 5400 for n in range(32)}
        for name, one in FILLS.items():
            spec = samples.spec(
                command=filled(one, check.WORDS_TOTAL_MOST, 4096, 64),
                args=filled(one, check.WORDS_TOTAL_MOST, 32 * 1024, 256),
                annotations={"words.example/large": "<" * (16 * 1024 - 32)},
                labels={f"l{n}": "x" * 63 for n in range(64)},
            )
            await rig.create(f"large-{name}", env, spec=spec)
        for name, one in FILLS.items():
            await rig.settled(f"large-{name}", Phase.RUNNING, within=120)
            pod = cluster.request("GET", ground.path("pods", f"large-{name}-0"))
            words = (*pod["spec"]["containers"][0]["command"], *pod["spec"]["containers"][0]["args"])
            assert set("".join(words)) == set(one)
        await rig.env("large-angle", OTHER="1")
        await rig.settled("large-angle", Phase.RUNNING, within=120)
