"""A cluster that is restored from a backup of etcd: every status is true again, and nothing freezes."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes.ground import KubernetesGround, started
from tests.kubernetes.truth import APPS
from tests.support.rig import Rig
from tests.support.waiting import PATIENCE

UPDATED, STOPPED, LATER = "restore-updated", "restore-stopped", "restore-later"
WITHIN = 30.0
"""Seconds after the API server is ready again: two back-offs of an informer, which are 10 each at most. They grow while the
API server is away, which takes longer on a busy machine, and the first answer after it is often a refusal."""


def generations(ground: KubernetesGround) -> dict[str, str]:
    """The generation of each ready pod, as the API server shows it."""

    def ready(pod: dict[str, Any]) -> bool:
        return any((one["type"], one["status"]) == ("Ready", "True") for one in pod["status"].get("conditions", []))

    pods = ground.cluster.request("GET", ground.path("pods"))["items"]
    generation = "sandbox.fullstackagent.io/generation"
    return {one["metadata"]["name"]: one["metadata"]["annotations"][generation] for one in pods if ready(one)}


async def soon(holds: Callable[[], bool], since: float) -> float:
    """Seconds from `since` until it holds."""
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < since + WITHIN * PATIENCE, "it did not come about in time"
        await asyncio.sleep(0.05)
    return time.monotonic() - since


@pytest.mark.fault(56)
@pytest.mark.find(4)
async def test_statuses_are_true_soon_after_etcd_was_restored(apart: KubernetesGround, tmp_path: Path) -> None:
    async with started(Rig(apart, tmp_path)) as rig:
        for name in (UPDATED, STOPPED):
            await rig.create(name)
            await rig.settled(name, Phase.RUNNING)
        copy = await asyncio.to_thread(apart.cluster.backup)
        await rig.env(UPDATED, AFTER="the copy")
        await rig.settled(UPDATED, Phase.RUNNING, 60)
        await rig.begin(STOPPED, Phase.STOPPED)
        await rig.settled(STOPPED, Phase.STOPPED, 60)
        await rig.create(LATER)
        await rig.settled(LATER, Phase.RUNNING, 60)
        await asyncio.to_thread(apart.cluster.restore, copy)
        since = time.monotonic()
        lost = await rig.until(LATER, lambda one: one.status.phase is Phase.ERROR, WITHIN)
        assert lost.status.reason is Reason.VOLUME_LOST
        print(f"the disk that was made after the copy is reported lost after {time.monotonic() - since:.1f} s")

        def stopped() -> bool:
            found = apart.cluster.request("GET", apart.path("statefulsets", STOPPED, APPS))
            return bool(found["spec"]["replicas"] == 0)

        print(f"the Stop after the copy is asked for again after {await soon(stopped, since):.1f} s")
        await soon(lambda: generations(apart) == {f"{UPDATED}-0": "2"}, since + WITHIN * PATIENCE)
        await rig.settled(UPDATED, Phase.RUNNING)
        await rig.settled(STOPPED, Phase.STOPPED)
        # Nothing is frozen: what comes next is observed as ever.
        await rig.manager.start(rig.mutation(LATER), True)
        await rig.begin(STOPPED, Phase.RUNNING)
        await rig.begin(UPDATED, Phase.STOPPED)
        await rig.settled(LATER, Phase.RUNNING)
        await rig.settled(STOPPED, Phase.RUNNING)
        await rig.settled(UPDATED, Phase.STOPPED)
        rig.check_history()
