"""A former holder of a namespace that resumes changes nothing, whichever write it was about, on the real control plane.

Once with two engines in one process, where the write is held on its way; and with a process that is stopped (SIGSTOP)
between the question whether it holds the namespace and the sending.
"""

import asyncio
import base64
import contextlib
import pickle
import signal
import sys
import urllib.error
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes import client, manifests

from tests.kubernetes.ground import KubernetesGround
from tests.support import fencing
from tests.support.fencing import Act
from tests.support.preconditions import Preconditions
from tests.support.rig import A, Rig
from tests.support.waiting import PATIENCE

GROUPS = {
    "statefulsets": "apis/apps/v1",
    "services": "api/v1",
    "ingresses": "apis/networking.k8s.io/v1",
    "secrets": "api/v1",
    "persistentvolumeclaims": "api/v1",
}


class Cluster:
    """What there is of sandboxes in the namespace."""

    def __init__(self, ground: KubernetesGround) -> None:
        self.ground = ground
        self.starts: set[tuple[str, str]] = set()
        """The generation of a pod, and the A that a start of its container would have had at some time."""

    async def look(self) -> fencing.Objects:
        found: fencing.Objects = {}
        for resource, group in GROUPS.items():
            path = self.ground.path(resource, group=group)
            listed = await asyncio.to_thread(self.ground.cluster.request, "GET", path)
            for one in listed["items"]:
                found[f"{path[1:]}/{one['metadata']['name']}"] = fencing.of_interest(one)
        return found

    async def until_as(self, before: fencing.Objects) -> None:
        """Waits until there is what there was before, and looks whether it stays so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(fencing.WITHIN * PATIENCE):
                while await self.look() != before:
                    await asyncio.sleep(0.2)
        await asyncio.sleep(2)
        assert fencing.difference(before, await self.look()) == {}

    async def note_starts(self) -> None:
        """Reads the environment of each pod again and again, as a kubelet does when it starts the container."""
        while True:
            with contextlib.suppress(urllib.error.HTTPError):
                await asyncio.to_thread(self._note_starts)
            await asyncio.sleep(0.03)

    def _note_starts(self) -> None:
        for pod in self.ground.cluster.request("GET", self.ground.path("pods"))["items"]:
            (source,) = pod["spec"]["containers"][0]["envFrom"]
            secret = self.ground.cluster.request("GET", self.ground.path("secrets", source["secretRef"]["name"]))
            value = base64.b64decode(secret["data"]["A"]).decode()
            self.starts.add((pod["metadata"]["annotations"][manifests.GENERATION], value))

    async def replace_pod(self) -> None:
        """Deletes the pod, and waits until the next one is ready."""
        uid = await asyncio.to_thread(self._ready_pod)
        await asyncio.to_thread(self.ground.cluster.request, "DELETE", self.ground.path("pods", f"{A}-0"))
        async with asyncio.timeout(fencing.WITHIN * PATIENCE):
            while await asyncio.to_thread(self._ready_pod) in ("", uid):
                await asyncio.sleep(0.1)

    def _ready_pod(self) -> str:
        """The uid of the pod; empty while it is not ready."""
        for pod in self.ground.cluster.request("GET", self.ground.path("pods"))["items"]:
            conditions = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions", [])}
            return str(pod["metadata"]["uid"]) if conditions.get("Ready") == "True" else ""
        return ""


@pytest.fixture
def cluster_of(ground: KubernetesGround) -> Cluster:
    return Cluster(ground)


async def test_api_server_refuses_writes_to_what_is_not_as_they_say(ground: KubernetesGround) -> None:
    """As the scripted one does, on which most tests rely."""
    made = client.Client(ground.settings.kubernetes, Pace())
    await made.open()
    try:
        await Preconditions(made, ground.namespace).check()
    finally:
        await made.close()


@pytest.mark.fault(11)
@pytest.mark.parametrize("act", Act)
async def test_late_write_of_a_former_holder_changes_nothing(rig: Rig, cluster_of: Cluster, act: Act) -> None:
    some = [case for case in fencing.cases() if case.act is act]
    async with fencing.handover(rig, cluster_of.look) as made:
        answers = await made.run(some, quiet=2)
    assert answers.keys() == set(some)
    for case, answer in answers.items():
        print(f"{answer} {case}")


HOLDER = """
import asyncio, os, pickle, signal, sys
from sandbox_server.domain.pace import Pace
from sandbox_server.engines import NotHeld
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import KubernetesEngine

settings, sandbox, nth = pickle.load(open(sys.argv[1], "rb"))
holds, count, check = True, 0, Fence.check

def stop(fence):
    global holds, count
    check(fence)
    count += 1
    if count == nth:
        os.kill(os.getpid(), signal.SIGSTOP)
        holds = False

async def main():
    engine = KubernetesEngine(settings, Pace(), "image")
    await engine.open([], lambda _: None, lambda _: int(holds))
    engine.follow([sandbox.namespace])
    while not engine.synced(sandbox.namespace):
        await asyncio.sleep(0.02)
    Fence.check = stop
    try:
        await engine.apply(sandbox, {"A": "former"}, 1)
    except Exception as error:
        print(type(error).__name__)
    finally:
        await engine.close()

asyncio.run(main())
"""
"""Applies a sandbox, and is stopped at its nth write."""


@asynccontextmanager
async def stopped_at(rig: Rig, sandbox: Sandbox, nth: int, folder: Path) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """A process that stands still at its nth write for a sandbox. Yields what has it go on, and returns how it ended."""
    settings = rig.ground.settings.model_copy(update=rig.settings)
    (folder / "act").write_bytes(pickle.dumps((settings.kubernetes, sandbox, nth)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(folder / "act"), stdout=asyncio.subprocess.PIPE
    )

    async def go_on() -> str:
        process.send_signal(signal.SIGCONT)
        output, _ = await process.communicate()
        return output.decode().strip()

    try:
        await fencing.until(lambda: stands_still(process.pid))
        yield go_on
    finally:
        if process.returncode is None:
            process.kill()


def stands_still(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    ("nth", "ends"),
    [(1, "Outdated"), (2, "NotHeld"), (5, "Outdated")],
    # A late Secret is made, and removed by who takes the namespace next.
    ids=["at the Service", "at the Secret", "at the StatefulSet"],
)
async def test_process_that_was_stopped_in_an_update_changes_nothing_when_it_goes_on(
    rig: Rig, cluster_of: Cluster, tmp_path: Path, nth: int, ends: str
) -> None:
    await rig.create(A, {"A": "first"})
    await rig.settled(A, Phase.RUNNING)
    await rig.suspend()
    changed = await rig.env(A, A="former")
    async with stopped_at(rig, changed, nth, tmp_path) as go_on:
        await rig.restart()
        await rig.env(A, A="first")
        await rig.settled(A, Phase.RUNNING)
        await asyncio.sleep(2)
        before = await cluster_of.look()
        assert await go_on() == ends
        await rig.restart()
        await cluster_of.until_as(before)


@pytest.mark.fault(11)
@pytest.mark.parametrize("nth", range(1, 6))
async def test_pod_that_starts_at_any_moment_of_an_update_has_the_environment_of_its_template(
    rig: Rig, cluster_of: Cluster, tmp_path: Path, nth: int
) -> None:
    """The former holder stands still before each write in turn. Pods are deleted meanwhile."""
    ground = cluster_of.ground
    await rig.create(A, {"A": "1"})
    await rig.settled(A, Phase.RUNNING)
    await rig.suspend()
    changed = await rig.env(A, A="2")
    noting = asyncio.create_task(cluster_of.note_starts())
    try:
        async with stopped_at(rig, changed, nth, tmp_path) as go_on:
            await cluster_of.replace_pod()
            await rig.restart()
            await rig.env(A, A="3")
            await rig.settled(A, Phase.RUNNING)
            print(await go_on())
            await cluster_of.replace_pod()
            await rig.settled(A, Phase.RUNNING)
        await rig.restart()
        await rig.settled(A, Phase.RUNNING)
        async with asyncio.timeout(fencing.WITHIN * PATIENCE):
            while ground.names("secrets") != [f"{A}-env-3"]:
                await asyncio.sleep(0.2)
    finally:
        noting.cancel()
    assert cluster_of.starts >= {("1", "1"), ("3", "3")}
    assert all(generation == value for generation, value in cluster_of.starts), cluster_of.starts


@pytest.mark.fault(11)
@pytest.mark.parametrize("nth", [2, 3, 6], ids=["at the claim", "at the Secret", "at the StatefulSet"])
async def test_process_that_was_stopped_in_a_create_leaves_nothing_of_a_deleted_sandbox(
    rig: Rig, cluster_of: Cluster, tmp_path: Path, nth: int
) -> None:
    await rig.suspend()
    made = await rig.create(A, {"A": "first"})
    async with stopped_at(rig, made, nth, tmp_path) as go_on:
        await rig.restart()
        await rig.delete(A)
        await rig.settled(A, Phase.TERMINATED)
        await go_on()
        async with asyncio.timeout(fencing.WITHIN * PATIENCE):
            while await cluster_of.look():
                await asyncio.sleep(0.2)
    again = await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    assert (await rig.get(A)).uid == again.uid
