"""CSI as these tests have it: the double is a driver, and the real sidecars do with it what they do with others."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.csi.built import build
from tests.kubernetes.csi.driver import Driver
from tests.kubernetes.csi.sidecars import EXPANDABLE, FIXED, SNAPSHOT, SNAPSHOTS, Sidecars
from tests.kubernetes.ground import KubernetesGround
from tests.kubernetes.kubelet import CONTAINER
from tests.kubernetes.node import MERGE
from tests.support.waiting import PATIENCE

IMPLEMENTED = 56
"""Checks of csi-sanity that the double does not leave out."""


def test_the_double_passes_csi_sanity(tmp_path: Path) -> None:
    with Driver(tmp_path) as driver:
        places = [f"--csi.{one}dir={tmp_path / one}" for one in ("mount", "staging")]
        words = [build() / "csi-sanity", f"--csi.endpoint=unix://{driver.socket}", *places, "--ginkgo.no-color"]
        said = subprocess.run(words, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout[-4000:]
    assert f"SUCCESS! -- {IMPLEMENTED} Passed | 0 Failed" in said.stdout, said.stdout[-500:]
    assert (driver.disks.volumes, driver.disks.snapshots) == ({}, {})


class Claims:
    """Claims and snapshots of a namespace, as their owner sees them."""

    def __init__(self, csi: Sidecars, ground: KubernetesGround) -> None:
        self.csi = csi
        self.ground = ground

    async def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        return await asyncio.to_thread(lambda: self.ground.cluster.request(method, path, body, kind=kind))

    def path(self, name: str = "") -> str:
        return self.ground.path("persistentvolumeclaims", name)

    async def claim(self, name: str, size: str = "1Gi", kind: str = EXPANDABLE, snapshot: str = "") -> Any:
        """A claim, once it is bound."""
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": kind,
            "resources": {"requests": {"storage": size}},
        }
        if snapshot:
            spec["dataSource"] = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot}
        await self.request("POST", self.path(), {"metadata": {"name": name}, "spec": spec})
        return await self.until(self.path(name), lambda one: one["status"]["phase"] == "Bound")

    async def resize(self, name: str, size: str) -> None:
        await self.request("PATCH", self.path(name), {"spec": {"resources": {"requests": {"storage": size}}}}, MERGE)

    async def snapshot(self, name: str, claim: str) -> str:
        """The path of a new snapshot of a claim."""
        body = {
            "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshot",
            "metadata": {"name": name},
            "spec": {"volumeSnapshotClassName": SNAPSHOTS, "source": {"persistentVolumeClaimName": claim}},
        }
        group = SNAPSHOT.removeprefix("/")
        await self.request("POST", self.ground.path("volumesnapshots", group=group), body)
        return self.ground.path("volumesnapshots", name, group)

    async def disk(self, claim: Any) -> Path:
        volume = await self.request("GET", f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        return Path(volume["spec"]["csi"]["volumeAttributes"]["path"])

    async def pod(self, claim: str) -> None:
        """A pod on the node that uses a claim."""
        container = {"name": CONTAINER, "image": "simulated", "securityContext": RESTRICTED}
        volume = {"name": "home", "persistentVolumeClaim": {"claimName": claim}}
        body = {"metadata": {"name": "user"}, "spec": {"containers": [container], "volumes": [volume]}}
        await self.request("POST", self.ground.path("pods"), body)

    async def remove_pods(self) -> None:
        """Removes the pods at once, so that nothing uses a claim any more."""
        for name in self.ground.names("pods"):
            await self.request("DELETE", self.ground.path("pods", name), {"gracePeriodSeconds": 0})

    async def until(self, path: str, holds: Callable[[Any], bool]) -> Any:
        """An object once it shows this."""
        one: Any = None
        try:
            async with asyncio.timeout(20 * PATIENCE):
                while not holds(one := await self.request("GET", path)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"it does not come about: {one}") from None
        return one


RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture
async def claims(csi: Sidecars, ground: KubernetesGround) -> AsyncIterator[Claims]:
    made = Claims(csi, ground)
    yield made
    await made.remove_pods()


def state(claim: Any) -> str | None:
    return claim["status"].get("allocatedResourceStatuses", {}).get("storage")


async def test_a_claim_grows_on_the_device_and_then_on_the_node_that_uses_it(claims: Claims) -> None:
    await claims.claim("home")
    await claims.resize("home", "2Gi")
    waiting = await claims.until(claims.path("home"), lambda one: state(one) == "NodeResizePending")
    assert waiting["status"]["capacity"]["storage"] == "1Gi"
    assert "FileSystemResizePending" in [one["type"] for one in waiting["status"]["conditions"]]
    await claims.pod("home")
    grown = await claims.until(claims.path("home"), lambda one: one["status"]["capacity"]["storage"] == "2Gi")
    assert (state(grown), grown["status"].get("conditions", [])) == (None, [])


async def test_an_expansion_that_cannot_be_is_said_and_can_be_taken_back(claims: Claims) -> None:
    claims.csi.driver.grows_alone = True
    await claims.claim("home")
    # A driver that can do it again would do it at the next try, before it is taken back.
    await claims.resize("home", "8Ti")
    refused = await claims.until(claims.path("home"), lambda one: state(one) == "ControllerResizeInfeasible")
    assert "the volume cannot have" in str(refused["status"]["conditions"])
    await claims.resize("home", "2Gi")
    grown = await claims.until(claims.path("home"), lambda one: one["status"]["capacity"]["storage"] == "2Gi")
    assert state(grown) is None


async def test_a_claim_from_a_snapshot_has_its_files(claims: Claims) -> None:
    disk = await claims.disk(await claims.claim("home", kind=FIXED))
    (disk / "kept").write_text("before")
    ready = await claims.until(await claims.snapshot("first", "home"), lambda one: _status(one).get("readyToUse"))
    assert ready["status"]["restoreSize"] == "1Gi"
    (disk / "kept").write_text("after")
    copy = await claims.disk(await claims.claim("copy", snapshot="first"))
    assert (copy / "kept").read_text() == "before"


async def test_a_snapshot_that_fails_says_why_and_succeeds_later(claims: Claims) -> None:
    claims.csi.driver.tell("CreateSnapshot", "RESOURCE_EXHAUSTED", "no space for snapshots")
    await claims.claim("home")
    path = await claims.snapshot("first", "home")
    failed = await claims.until(path, lambda one: "error" in _status(one))
    assert "no space for snapshots" in failed["status"]["error"]["message"]
    claims.csi.driver.heal()
    await claims.until(path, lambda one: _status(one).get("readyToUse"))


def _status(one: Any) -> Any:
    return one.get("status", {})
