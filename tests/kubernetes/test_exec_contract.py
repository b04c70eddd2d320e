"""The contract of execs on the path that they take in a cluster: API server, kubelet, and a real process."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_server.domain.pace import Pace

from tests.contract.execs import *  # noqa: F403 - the tests themselves
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.containers import Containers
from tests.kubernetes.ground import KubernetesGround, grant_access, started
from tests.kubernetes.node import Node
from tests.support.rig import Rig
from tests.support.working import Worker

CANARY = "canary-that-no-log-may-have"


@pytest.fixture
async def node(cluster: Cluster) -> AsyncIterator[Node]:
    """With real processes."""
    async with Containers(cluster) as containers, Node(cluster, containers) as made:
        yield made


@pytest.fixture
async def rig(ground: KubernetesGround, tmp_path: Path, pace: Pace) -> AsyncIterator[Rig]:
    grant_access(ground.cluster, ground.namespace)
    ground.settings = ground.settings.model_copy(update={"share_process_namespace": False})
    async with started(Rig(ground, tmp_path, pace=pace)) as made:
        yield made


def execs(ground: KubernetesGround) -> list[dict[str, Any]]:
    """What the audit log has of the service's execs."""
    return [one for one in ground.cluster.audited(ground.namespace) if one["objectRef"].get("subresource") == "exec"]


async def test_no_log_has_a_command_its_environment_its_input_or_its_output(
    worker: Worker, ground: KubernetesGround, capsys: pytest.CaptureFixture[str]
) -> None:
    started = await worker.shell(
        f'read -r line; echo "{CANARY} $line $VALUE"; echo {CANARY} >&2', env={"VALUE": CANARY}, cwd="/tmp", stdin=True
    )
    typed = f"{CANARY}\n".encode()
    assert await worker.write(started, (0, typed), eof=True) == len(typed)
    printed = await worker.follow(started)
    assert printed.out.decode() == f"{CANARY} {CANARY} {CANARY}\n"
    assert printed.err.decode() == f"{CANARY}\n"
    await worker.run(f"exit 3 # {CANARY}")
    await worker.ids()
    calls = execs(ground)
    assert len(calls) >= 6
    assert {one["level"] for one in calls} == {"RequestResponse"}
    # The path, which has the whole command line, is the same for every exec.
    assert len({one["requestURI"] for one in calls}) == 1
    assert "command=" in calls[0]["requestURI"]
    assert CANARY not in ground.cluster.audit.read_text()
    logged = capsys.readouterr()
    assert "exec_started" in logged.out
    assert CANARY not in logged.out + logged.err
