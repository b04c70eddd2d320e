"""How the disk of a sandbox grows by the real external-resizer, and what its status says where it cannot."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox

from tests.kubernetes.csi.ground import CsiGround, csi_rig
from tests.kubernetes.csi.sidecars import FIXED, Sidecars
from tests.kubernetes.ground import KubernetesGround, started
from tests.support.rig import A, Rig

TOO_LARGE = "8Ti"
"""More than the storage has."""


@pytest.fixture
async def rig(csi: Sidecars, ground: KubernetesGround, tmp_path: Path) -> AsyncIterator[Rig]:
    """The service, whose sandboxes have disks of CSI."""
    async with started(await csi_rig(ground, tmp_path)) as running:
        yield running


async def grow(rig: Rig, size: str) -> None:
    before = await rig.get(A)
    await rig.update(A, storage=dataclasses.replace(before.spec.storage, size=size))


def sized(sandbox: Sandbox) -> Condition:
    return next(one for one in sandbox.status.conditions if one.type is ConditionType.VOLUME_SIZED)


async def has(rig: Rig, size: str) -> None:
    """Waits until the disk has a size, and says so."""

    def holds(one: Sandbox) -> bool:
        return sized(one).status and one.status.volume is not None and one.status.volume.size == size

    await rig.until(A, holds)


async def test_a_disk_grows_by_the_storage_and_by_the_node_under_the_pod_that_runs(rig: Rig) -> None:
    await rig.create(A)
    before = rig.observe(await rig.settled(A, Phase.RUNNING)).pod
    await grow(rig, "2Gi")
    await has(rig, "2Gi")
    after = rig.observe(await rig.settled(A, Phase.RUNNING)).pod
    assert before is not None and after is not None
    assert before.uid == after.uid


async def test_a_size_that_the_storage_cannot_make_is_said_and_can_be_taken_back(rig: Rig) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await grow(rig, TOO_LARGE)
    refused = await rig.until(A, lambda one: sized(one).reason is Reason.EXPANSION_INFEASIBLE)
    assert "the volume cannot have" in sized(refused).message
    assert refused.status.phase is Phase.RUNNING
    await grow(rig, "2Gi")
    await has(rig, "2Gi")


async def test_a_class_that_does_not_let_disks_grow_is_said(rig: Rig) -> None:
    assert isinstance(rig.ground, CsiGround)
    await rig.create(A, spec=rig.ground.spec(FIXED))
    await rig.settled(A, Phase.RUNNING)
    await grow(rig, "2Gi")
    refused = await rig.until(A, lambda one: sized(one).reason is Reason.CLASS_NOT_EXPANDABLE)
    assert refused.status.phase is Phase.RUNNING
