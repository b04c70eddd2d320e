"""What a former system made is taken over in place, and given back, by a real API server and its controllers."""

import asyncio
import copy
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_client import AsyncClient
from sandbox_server.adoption import Adoption, Wanted
from sandbox_server.domain.adoption import Entry, Outcome
from sandbox_server.domain.event import Cause, Kind
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.engines import kubernetes
from sandbox_server.settings import Defaults

from tests.kubernetes.ground import KubernetesGround, grant_access, grant_adoption, started
from tests.support import former_objects as former
from tests.support import homes
from tests.support.former_objects import NAME, OLDER
from tests.support.rig import Rig
from tests.support.waiting import PATIENCE

APPS, NETWORKING = "apis/apps/v1", "apis/networking.k8s.io/v1"
PLACES = {
    "PersistentVolumeClaim": ("persistentvolumeclaims", "api/v1"),
    "StatefulSet": ("statefulsets", APPS),
    "Service": ("services", "api/v1"),
    "Ingress": ("ingresses", NETWORKING),
    "Deployment": ("deployments", APPS),
}
POD = f"{NAME}-0"


class Move:
    """A sandbox of the former system that runs, and the service."""

    def __init__(self, ground: KubernetesGround, rig: Rig) -> None:
        self._ground = ground
        self.rig = rig

    async def prepare(self, file: str = "sandbox.yaml") -> None:
        """Makes what is in a file, and returns when a pod runs."""
        # The controller of the StatefulSet makes the claim.
        made = [one for one in former.objects(file) if one["kind"] != "PersistentVolumeClaim"]
        service = former.of_kind(made, "Service")["spec"]
        del service["clusterIP"], service["clusterIPs"]
        for one in made:
            one["metadata"]["namespace"] = self._ground.namespace
            resource, group = PLACES[one["kind"]]
            path = self._ground.path(resource, group=group)
            await asyncio.to_thread(self._ground.cluster.request, "POST", f"{path}?fieldManager=node-fetch", one)
        async with asyncio.timeout(60 * PATIENCE):
            while not [
                one for one in await self.pods() if (await self.get("pods", one))["status"].get("containerStatuses")
            ]:
                await asyncio.sleep(0.2)

    async def pods(self) -> list[str]:
        """The names of all pods."""
        return await asyncio.to_thread(self._ground.names, "pods")

    async def get(self, resource: str, name: str, group: str = "api/v1") -> dict[str, Any]:
        """An object; empty if there is none."""
        if name not in await asyncio.to_thread(self._ground.names, resource, group):
            return {}
        path = self._ground.path(resource, name, group)
        return dict(await asyncio.to_thread(self._ground.cluster.request, "GET", path))

    async def run(self, *, keeps_pods: bool = True, undo: bool = False) -> Entry:
        settings, namespace = self._ground.settings, self._ground.namespace
        found = await kubernetes.discover(settings.kubernetes, settings.pace, namespace, "", "", Defaults())
        wanted = Wanted("default", namespace, keeps_pods, False, Cause(Kind.MUTATION, "test"))
        adoption = Adoption(self.rig.store, self.rig.engine)
        (entry,) = await (adoption.give_back if undo else adoption.adopt)(wanted, found)
        return entry

    async def everything(self) -> dict[str, Any]:
        """Every object without what each write changes."""
        found: dict[str, Any] = {}
        for resource, group in (*PLACES.values(), ("pods", "api/v1")):
            for name in await asyncio.to_thread(self._ground.names, resource, group):
                one = copy.deepcopy(await self.get(resource, name, group))
                one.pop("status", None)
                for field in ("resourceVersion", "managedFields", "generation"):
                    one["metadata"].pop(field, None)
                found[f"{resource}/{name}"] = one
        return found


@pytest.fixture
async def empty(ground: KubernetesGround, tmp_path: Path) -> AsyncIterator[Move]:
    """The service, where pods of a former system may run: they are not as Pod Security "restricted" wants them."""
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
    kind = "application/merge-patch+json"
    path = f"/api/v1/namespaces/{ground.namespace}"
    await asyncio.to_thread(lambda: ground.cluster.request("PATCH", path, labels, kind=kind))
    await asyncio.to_thread(grant_adoption, ground.cluster, ground.namespace)
    async with started(Rig(ground, tmp_path)) as rig:
        yield Move(ground, rig)


@pytest.fixture
async def move(empty: Move) -> Move:
    """A StatefulSet of a former system."""
    await empty.prepare()
    return empty


async def test_a_takeover_keeps_every_object_and_replaces_the_pod_once(move: Move) -> None:
    before = await move.everything()
    assert (await move.run()).outcome is Outcome.ADOPTED
    await move.rig.settled(NAME, Phase.RUNNING, 60)
    marked = await move.everything()
    assert {name: one["spec"] for name, one in marked.items()} == {name: one["spec"] for name, one in before.items()}
    await move.rig.env(NAME, MORE="1")
    await move.rig.settled(NAME, Phase.RUNNING, 60)
    after = await move.everything()
    pod = f"pods/{POD}"
    assert after.keys() == before.keys()
    for name, one in after.items():
        assert (one["metadata"]["uid"] == before[name]["metadata"]["uid"]) is (name != pod)
    workload = after[f"statefulsets/{NAME}"]["spec"]
    (container,) = workload["template"]["spec"]["containers"]
    assert [one["name"] for one in container.get("env", [])] == ["PORT"]
    assert "canary" not in str(workload)
    assert "imagePullPolicy" in container
    assert workload["selector"] == before[f"statefulsets/{NAME}"]["spec"]["selector"]
    for name in (name for name in after if name.startswith("ingresses")):
        assert after[name]["spec"] == before[name]["spec"]
    service = f"services/{NAME}-service"
    assert after[service]["spec"]["clusterIP"] == before[service]["spec"]["clusterIP"]
    assert workload["template"]["metadata"]["labels"].items() >= after[service]["spec"]["selector"].items()


async def test_what_was_adopted_is_given_back_as_it_was(move: Move) -> None:
    before = await move.everything()
    await move.run()
    await move.rig.settled(NAME, Phase.RUNNING, 60)
    assert (await move.run(undo=True)).outcome is Outcome.GIVEN_BACK
    ended = await move.rig.settled(NAME, Phase.TERMINATED, 60)
    assert ended.status.reason is Reason.GIVEN_BACK
    assert await move.everything() == before


async def test_a_takeover_at_once_settles(move: Move) -> None:
    await move.run(keeps_pods=False)
    await move.rig.settled(NAME, Phase.RUNNING, 60)
    assert (await move.run(undo=True)).outcome is Outcome.SKIPPED
    assert "canary" not in str((await move.get("statefulsets", NAME, APPS))["spec"])


@pytest.mark.processes
async def test_commands_find_the_same_files_before_and_after_the_takeover(move: Move, ground: KubernetesGround) -> None:
    await asyncio.to_thread(grant_access, ground.cluster, ground.namespace)
    await move.run()
    await move.rig.settled(NAME, Phase.RUNNING, 60)
    async with AsyncClient(f"127.0.0.1:{move.rig.port}", timeout=60 * PATIENCE) as client:
        await client.run(NAME, ["sh", "-c", "echo kept >note"])
        await move.rig.env(NAME, COLOUR="blue")
        await move.rig.settled(NAME, Phase.RUNNING, 60)
        found = await client.run(NAME, ["sh", "-c", "echo $COLOUR $DB_HOST $(cat note)"])
        assert found.stdout.decode() == "blue myproject-db-postgresql kept\n"
        await move.rig.begin(NAME, Phase.STOPPED)
        await move.rig.settled(NAME, Phase.STOPPED, 60)
        await move.rig.manager.start(move.rig.mutation(NAME), False)
        await move.rig.settled(NAME, Phase.RUNNING, 60)
        assert (await client.run(NAME, ["cat", "note"])).stdout == b"kept\n"
        await asyncio.to_thread(ground.cluster.request, "DELETE", ground.path("pods", POD))
        await move.rig.until(NAME, lambda one: one.status.phase is not Phase.RUNNING, 60)
        await move.rig.settled(NAME, Phase.RUNNING, 60)
        assert (await client.run(NAME, ["cat", "note"])).stdout == b"kept\n"


@pytest.mark.processes
async def test_a_deployment_is_moved_with_its_files_and_keeps_them(empty: Move, ground: KubernetesGround) -> None:
    move = empty
    await asyncio.to_thread(grant_access, ground.cluster, ground.namespace)
    await move.prepare("deployment.yaml")
    before = await move.everything()
    (pod,) = await move.pods()
    home = await ground.node.home(await move.get("pods", pod))
    await asyncio.to_thread(homes.fill, home)
    # In the user namespace of the containers of these tests there is one user.
    await asyncio.to_thread(os.chown, home / "run", 0, 0)
    assert (await move.run(keeps_pods=True)).outcome is Outcome.SKIPPED
    assert (await move.run(keeps_pods=False)).outcome is Outcome.ADOPTED
    async with AsyncClient(f"127.0.0.1:{move.rig.port}", timeout=60 * PATIENCE) as client:
        # A file that the user of the pod may not read is named.
        failed = await move.rig.until(OLDER, lambda one: one.status.phase is Phase.ERROR, 60)
        assert (failed.status.reason, "'closed'" in failed.status.message) == (Reason.HOME_NOT_MOVED, True)
        (home / "closed").chmod(0o400)
        files = homes.snapshot(home)
        # It is created and runs, with the same files.
        await move.rig.settled(OLDER, Phase.RUNNING, 60)
        disk = await ground.node.home(await move.get("pods", f"{OLDER}-0"))
        assert homes.snapshot(disk) == files
        await gone(move, "deployments", OLDER, APPS)
        await gone(move, "pods", pod)
        after = await move.everything()
        service = f"services/{OLDER}-service"
        assert after[service]["metadata"]["uid"] == before[service]["metadata"]["uid"]
        assert after[service]["spec"]["clusterIP"] == before[service]["spec"]["clusterIP"]
        for name in (name for name in before if name.startswith("ingresses")):
            assert after[name]["spec"] == before[name]["spec"]
        labels = (await move.get("pods", f"{OLDER}-0"))["metadata"]["labels"]
        assert after[service]["spec"]["selector"].items() <= labels.items()
        # A file can be written. It is there after a stop and a start, after the pod was deleted, and after a change of the
        # environment, which the process has.
        await client.run(OLDER, ["sh", "-c", "echo kept >note"])
        await move.rig.begin(OLDER, Phase.STOPPED)
        await move.rig.settled(OLDER, Phase.STOPPED, 60)
        await move.rig.manager.start(move.rig.mutation(OLDER), False)
        await move.rig.settled(OLDER, Phase.RUNNING, 60)
        assert (await client.run(OLDER, ["cat", "note"])).stdout == b"kept\n"
        await asyncio.to_thread(ground.cluster.request, "DELETE", ground.path("pods", f"{OLDER}-0"))
        await move.rig.until(OLDER, lambda one: one.status.phase is not Phase.RUNNING, 60)
        await move.rig.settled(OLDER, Phase.RUNNING, 60)
        assert (await client.run(OLDER, ["cat", "note"])).stdout == b"kept\n"
        await move.rig.env(OLDER, COLOUR="blue")
        await move.rig.settled(OLDER, Phase.RUNNING, 60)
        found = await client.run(OLDER, ["sh", "-c", "echo $COLOUR $A $(cat note)"])
        assert found.stdout == b"blue 1 kept\n"
        (disk / "note").unlink()
        after_all = homes.snapshot(disk)
        assert {name: after_all[name] for name in files if name != b"."} == {
            name: files[name] for name in files if name != b"."
        }
    # A delete removes everything.
    await move.rig.delete(OLDER)
    await move.rig.settled(OLDER, Phase.TERMINATED, 60)
    await gone(move, "persistentvolumeclaims", f"vn-homevn-agent-{OLDER}-0")
    await gone(move, "services", f"{OLDER}-service")


@pytest.mark.processes
async def test_a_deployment_is_given_back_while_its_sandbox_does_not_start(
    empty: Move, ground: KubernetesGround
) -> None:
    move = empty
    await asyncio.to_thread(grant_access, ground.cluster, ground.namespace)
    await move.prepare("deployment.yaml")
    before = await move.everything()
    ground.node.behave(ground.namespace, f"{OLDER}-0", "crash-loop")
    await move.run(keeps_pods=False)
    await move.rig.until(OLDER, lambda one: one.status.reason is Reason.CRASH_LOOP, 60)
    assert (await move.run(undo=True)).outcome is Outcome.GIVEN_BACK
    await move.rig.settled(OLDER, Phase.TERMINATED, 60)
    await gone(move, "pods", f"{OLDER}-0")
    await gone(move, "persistentvolumeclaims", f"vn-homevn-agent-{OLDER}-0")
    assert await move.everything() == before


async def gone(move: Move, resource: str, name: str, group: str = "api/v1") -> None:
    async with asyncio.timeout(60 * PATIENCE):
        while await move.get(resource, name, group):
            await asyncio.sleep(0.2)
