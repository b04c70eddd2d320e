"""Row 25 to the letter: nothing starts on a fresh disk until a Start says `accept_data_loss`, whatever goes when."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox

from tests.kubernetes.cluster import ADMIN
from tests.kubernetes.ground import KubernetesGround
from tests.support.rig import Rig
from tests.support.waiting import PATIENCE

A = "disk-a"
POD = f"{A}-0"
CLAIM = f"vn-homevn-agent-{A}-0"
MERGE = "application/merge-patch+json"
APPS = "apis/apps/v1"
NOW = {"gracePeriodSeconds": 0}


class Disk:
    """A rig beside an administrator who sees which pods were ever given a node, and when claims went."""

    def __init__(self, rig: Rig, ground: KubernetesGround) -> None:
        self.rig = rig
        self.ground = ground
        self.scheduled: dict[str, int] = {}
        """The version at which each pod, by uid, first had a node."""
        self.gone: dict[str, int] = {}
        """The version at which each claim, by uid, was removed."""

    async def watch(self, resource: str) -> None:
        context = ssl.create_default_context(cafile=str(self.ground.cluster.ca))
        url = f"{self.ground.cluster.url}{self.ground.path(resource)}?watch=true&resourceVersion=0"
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), read_bufsize=2**20) as session,
            session.get(url, headers=headers, timeout=None) as stream,
        ):
            async for line in stream.content:
                event = json.loads(line)
                meta = event["object"]["metadata"]
                uid, version = meta["uid"], int(meta["resourceVersion"])
                if resource == "pods" and event["object"]["spec"].get("nodeName"):
                    self.scheduled.setdefault(uid, version)
                if resource == "persistentvolumeclaims" and event["type"] == "DELETED":
                    self.gone[uid] = version

    def nothing_started_since(self, before: Sandbox) -> None:
        assert before.volume_uid in self.gone
        assert all(version < self.gone[before.volume_uid] for version in self.scheduled.values())

    async def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        return await asyncio.to_thread(lambda: self.ground.cluster.request(method, path, body, kind=kind))

    async def remove(self, resource: str, name: str, body: Any = None) -> None:
        await self.request("DELETE", self.ground.path(resource, name), body)

    async def running(self) -> Sandbox:
        await self.rig.create(A)
        return await self.rig.settled(A, Phase.RUNNING)

    async def lost(self) -> Sandbox:
        """The sandbox once its loss is told and the engine has done what there is to do."""

        def holds(one: Sandbox) -> bool:
            return one.status.reason is Reason.VOLUME_LOST and self.rig.engine.observe(one).pod is None

        return await self.rig.until(A, holds)

    async def begin_anew(self, before: Sandbox) -> None:
        """What a Start with `accept_data_loss` leads to, and nothing else does."""
        await asyncio.sleep(1)
        self.nothing_started_since(before)
        await self.rig.manager.start(self.rig.mutation(A), True)
        after = await self.rig.settled(A, Phase.RUNNING)
        assert after.volume_uid != before.volume_uid
        assert self.ground.names("persistentvolumeclaims") == [CLAIM]
        claim = await self.request("GET", self.ground.path("persistentvolumeclaims", CLAIM))
        assert (claim["metadata"]["uid"], claim["status"]["phase"]) == (after.volume_uid, "Bound")


@pytest.fixture
async def disk(rig: Rig, ground: KubernetesGround) -> AsyncIterator[Disk]:
    made = Disk(rig, ground)
    watching = [asyncio.create_task(made.watch(one)) for one in ("pods", "persistentvolumeclaims")]
    yield made
    assert not any(one.done() for one in watching)
    for one in watching:
        one.cancel()
    await asyncio.gather(*watching, return_exceptions=True)


@pytest.mark.fault(25)
async def test_25_the_pod_goes_after_the_claim(disk: Disk) -> None:
    before = await disk.running()
    await disk.remove("persistentvolumeclaims", CLAIM)
    await disk.rig.until(A, lambda one: one.status.reason is Reason.VOLUME_TERMINATING)
    await disk.remove("pods", POD)
    await disk.lost()
    await disk.begin_anew(before)


@pytest.mark.fault(25)
@pytest.mark.parametrize("attempt", range(5))
async def test_25_the_pod_goes_at_once_with_the_claim(disk: Disk, attempt: int) -> None:
    before = await disk.running()
    await disk.remove("persistentvolumeclaims", CLAIM)
    await disk.remove("pods", POD, NOW)
    await disk.lost()
    await disk.begin_anew(before)


@pytest.mark.fault(25)
async def test_25_claim_and_pod_go_while_the_service_is_away(disk: Disk) -> None:
    before = await disk.running()
    await disk.rig.stop()
    await disk.remove("persistentvolumeclaims", CLAIM)
    await disk.remove("pods", POD, NOW)
    async with asyncio.timeout(20 * PATIENCE):
        while not any(one != before.volume_uid for one in await uids(disk, "persistentvolumeclaims")):
            await asyncio.sleep(0.05)
    await asyncio.sleep(2)
    disk.nothing_started_since(before)
    await disk.rig.start()
    await disk.lost()
    await disk.begin_anew(before)


@pytest.mark.fault(25)
async def test_25_a_lost_sandbox_is_deleted_without_a_trace(disk: Disk) -> None:
    before = await disk.running()
    await disk.remove("persistentvolumeclaims", CLAIM)
    await disk.remove("pods", POD, NOW)
    await disk.lost()
    await disk.rig.delete(A)
    await disk.rig.settled(A, Phase.TERMINATED)
    assert disk.ground.names("persistentvolumeclaims") == []
    disk.nothing_started_since(before)


async def test_what_somebody_scales_up_never_runs_beside_the_sandbox(disk: Disk) -> None:
    await disk.running()
    await disk.rig.stop()
    path = disk.ground.path("statefulsets", A, APPS)
    await disk.request("PATCH", path, {"spec": {"replicas": 3}}, MERGE)
    async with asyncio.timeout(20 * PATIENCE):
        while disk.ground.names("pods") != [POD, f"{A}-1", f"{A}-2"]:
            await asyncio.sleep(0.05)
    await asyncio.sleep(2)
    await disk.rig.start()
    async with asyncio.timeout(20 * PATIENCE):
        while disk.ground.names("pods") != [POD]:
            await asyncio.sleep(0.05)
    await disk.rig.settled(A, Phase.RUNNING)
    assert len(disk.scheduled) == 1


@pytest.mark.fault(68)
@pytest.mark.find(20)
@pytest.mark.parametrize("change", [{"replicas": 3}, {"replicas": 2, "ordinals": {"start": 4}}])
async def test_claims_that_somebodys_scaling_made_go_with_the_sandbox(disk: Disk, change: dict[str, Any]) -> None:
    await disk.running()
    await disk.rig.stop()
    await disk.request("PATCH", disk.ground.path("statefulsets", A, APPS), {"spec": change}, MERGE)
    others = [f"vn-homevn-agent-{A}-{ordinal}" for ordinal in ((1, 2) if "ordinals" not in change else (4, 5))]
    async with asyncio.timeout(20 * PATIENCE):
        while not {*others} <= {*disk.ground.names("persistentvolumeclaims")}:
            await asyncio.sleep(0.05)
    await disk.rig.start()
    await disk.rig.delete(A)
    await disk.rig.until(A, lambda one: one.status.phase is Phase.TERMINATED)
    assert disk.ground.names("persistentvolumeclaims") == []


async def uids(disk: Disk, resource: str) -> list[str]:
    listed = await disk.request("GET", disk.ground.path(resource))
    return [one["metadata"]["uid"] for one in listed["items"]]
