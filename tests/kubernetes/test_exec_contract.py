"""The contract of execs on the path that they take in a cluster: API server, kubelet, and a real process. And what only a
cluster has: an audit log, and ends of pods."""

import asyncio
import contextlib
import re
import time
import urllib.error
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.engines.kubernetes import entrance, rights

from tests.contract.execs import *  # noqa: F403 - the tests themselves
from tests.contract.execs import A
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.containers import Containers
from tests.kubernetes.ground import RBAC, KubernetesGround, grant_access, may, started
from tests.kubernetes.node import MERGE, Node
from tests.support.rig import Rig
from tests.support.scripted import until
from tests.support.waiting import PATIENCE, eventually
from tests.support.working import Printed, Worker, refusal

POD = f"{A}-0"
CANARY = "canary-that-no-log-may-have"


@pytest.fixture
async def node(cluster: Cluster) -> AsyncIterator[Node]:
    """With real processes."""
    async with Containers(cluster) as containers, Node(cluster, containers) as made:
        yield made


@pytest.fixture
async def rig(ground: KubernetesGround, tmp_path: Path, pace: Pace) -> AsyncIterator[Rig]:
    grant_access(ground.cluster, ground.namespace)
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
    # An exec is recorded when its connection has ended.
    await until(lambda: len(execs(ground)) >= 5)
    calls = execs(ground)
    assert {one["level"] for one in calls} == {"RequestResponse"}
    # The path, which has the whole command line, is the same for every exec.
    assert len({one["requestURI"] for one in calls}) == 1
    assert "command=" in calls[0]["requestURI"]
    assert CANARY not in ground.cluster.audit.read_text()
    logged = capsys.readouterr()
    assert "exec_started" in logged.out
    assert CANARY not in logged.out + logged.err


async def test_without_the_right_to_read_the_pod_nothing_is_sent_to_it(
    worker: Worker, ground: KubernetesGround
) -> None:
    (pods, *others) = (
        {"apiGroups": [""], "resources": [resource], "verbs": [*verbs]} for resource, verbs in rights.ACCESS.items()
    )
    assert pods["resources"] == ["pods"]
    path = f"{RBAC}/namespaces/{ground.namespace}/roles/sandbox-service-access"
    await asyncio.to_thread(ground.cluster.request, "PATCH", path, {"rules": others}, kind=MERGE)
    await asyncio.to_thread(eventually, lambda: not may(ground.cluster, ground.namespace, "get", "pods"))
    with pytest.raises(grpc.RpcError) as caught:
        await worker.shell("touch ran")
    # Until it has lasted, the refusal may be of an API server that has just started.
    while refusal(caught.value)[:2] == ("UNAVAILABLE", "SANDBOX_NOT_REACHED"):
        with pytest.raises(grpc.RpcError) as caught:
            await worker.shell("touch ran")
    assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "ACCESS_NOT_GRANTED")
    await asyncio.to_thread(ground.cluster.request, "PATCH", path, {"rules": [pods, *others]}, kind=MERGE)
    await asyncio.to_thread(eventually, lambda: may(ground.cluster, ground.namespace, "get", "pods"))
    assert (await worker.run("test -e ran; echo $?")).out == b"1\n"


@pytest.mark.fault(93)
async def test_image_without_a_shell_is_told_by_the_words_of_the_runtime(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The images of the simulated node have one.
    monkeypatch.setattr(entrance, "_SIGNALS", ("/bin/none", "-c", "echo"))
    monkeypatch.setattr(entrance, "_NO_SHELL", re.compile(entrance._NO_SHELL.pattern.replace("/bin/sh", "/bin/none")))
    with pytest.raises(grpc.RpcError) as caught:
        await worker.ids()
    assert refusal(caught.value)[:2] == ("FAILED_PRECONDITION", "EXEC_UNSUPPORTED")


async def delete(ground: KubernetesGround) -> None:
    await asyncio.to_thread(ground.cluster.request, "DELETE", ground.path("pods", POD))


async def evict(ground: KubernetesGround) -> None:
    ground.node.behave(ground.namespace, POD, "evicted")
    path = ground.path("pods", POD)
    with contextlib.suppress(urllib.error.HTTPError):
        while (await asyncio.to_thread(ground.cluster.request, "GET", path))["status"]["phase"] != "Failed":
            await asyncio.sleep(0.01)
    # The pod that replaces it is not evicted as well.
    ground.node.behave(ground.namespace, POD, "run")


async def end_the_container(ground: KubernetesGround) -> None:
    await ground.node.end_container(ground.namespace, POD)


async def lose_the_node(ground: KubernetesGround) -> None:
    ground.node.alive = False


@pytest.mark.fault(91)
@pytest.mark.parametrize(
    ("misfortune", "reason"),
    [
        (delete, pb.EXEC_EXIT_REASON_POD_REPLACED),
        (evict, pb.EXEC_EXIT_REASON_POD_REPLACED),
        (end_the_container, pb.EXEC_EXIT_REASON_POD_REPLACED),
        (lose_the_node, pb.EXEC_EXIT_REASON_NODE_LOST),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
async def test_exec_is_lost_within_a_second_of_its_pod_and_no_repeat_runs_it_again(
    worker: Worker, rig: Rig, ground: KubernetesGround, misfortune: Callable[[KubernetesGround], Any], reason: Any
) -> None:
    request_id = str(uuid.uuid4())
    script = "echo ran >>runs; trap '' TERM; echo up; while :; do sleep 0.1; done"
    started = await worker.shell(script, request_id=request_id)
    printed = Printed()
    following = asyncio.create_task(worker.follow(started, printed))
    waiting = asyncio.create_task(worker.wait(started))
    await until(lambda: printed.out == b"up\n")
    fell: list[float] = []
    rig.listeners.append(lambda one: fell.append(time.monotonic()) if one.status.phase is not Phase.RUNNING else None)
    await misfortune(ground)
    await asyncio.wait_for(following, 60 * PATIENCE)
    ended = time.monotonic()
    wanted = pb.ExecExited(reason=reason)
    assert printed.exited == wanted
    lost = await waiting
    assert (lost.state, lost.exited) == (pb.EXEC_STATE_LOST, wanted)
    assert not fell or ended - fell[0] < 1 * PATIENCE
    ground.node.alive = True
    await rig.settled(A, Phase.RUNNING, 60)
    again = await worker.shell(script, request_id=request_id)
    assert again.incarnation == started.incarnation
    # A node that comes back has run it all the time.
    came_back = misfortune is lose_the_node
    assert again.state == (pb.EXEC_STATE_RUNNING if came_back else pb.EXEC_STATE_LOST)
    assert (await worker.run("cat runs")).out == b"ran\n"
