"""The control plane fails and comes back: mutations are accepted meanwhile, and everything converges after."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason

from tests.kubernetes.cluster import API, Cluster, back
from tests.kubernetes.ground import KubernetesGround, started
from tests.support.rig import Rig
from tests.support.waiting import PATIENCE

A, B = "outage-a", "outage-b"
AFTER = 90.0
"""Seconds for the cluster to go on after an outage: its controllers back off for up to half a minute."""
TINY = ("--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=1")
"""One write at a time; another one meanwhile is answered 429."""


@contextlib.asynccontextmanager
async def tiny(cluster: Cluster) -> AsyncIterator[None]:
    """While this lasts the API server takes on one write at a time."""
    cluster.kill(API)
    await back(cluster, *TINY)
    try:
        yield
    finally:
        cluster.kill(API)
        await back(cluster)


@pytest.mark.fault(14)
async def test_14_etcd_stopped_and_back(rig: Rig, ground: KubernetesGround) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    ground.cluster.kill("etcd")
    try:
        await rig.begin(A, Phase.STOPPED)
        await rig.create(B)
        await asyncio.sleep(5)
        assert (await rig.get(A)).status.phase is Phase.STOPPING
    finally:
        ground.cluster.run("etcd")
    await asyncio.to_thread(ground.cluster.wait)
    await rig.settled(A, Phase.STOPPED, AFTER)
    await rig.settled(B, Phase.RUNNING, AFTER)
    rig.check_history()


@pytest.mark.fault(14)
async def test_14_etcd_that_hangs_and_goes_on(rig: Rig, ground: KubernetesGround) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    ground.cluster.pause("etcd")
    try:
        await rig.begin(A, Phase.STOPPED)
        await asyncio.sleep(3)
    finally:
        ground.cluster.resume("etcd")
    await rig.settled(A, Phase.STOPPED)
    rig.check_history()


@pytest.mark.fault(15)
async def test_15_an_api_server_that_has_too_much_to_do_is_given_time(ground: KubernetesGround, tmp_path: Path) -> None:
    # Its API server asks for a second, which the service at its own pace does not report.
    async with started(Rig(ground, tmp_path, pace=Pace())) as rig:
        await overload(rig, ground)


async def overload(rig: Rig, ground: KubernetesGround) -> None:
    names = [f"busy-{number}" for number in range(24)]
    async with tiny(ground.cluster):
        await asyncio.gather(*(rig.create(name) for name in names))
        async with asyncio.timeout(60 * PATIENCE):
            while not calls(ground, names, 429):
                await asyncio.sleep(0.05)
        made = [await rig.get(name) for name in names]
        # On a busy machine it may be refused for so long already that the service has to say so.
        lasting = timedelta(seconds=Pace.busy_after)
        soon = [one.status for one in made if one.status.transition_time - one.create_time < lasting]
        assert Phase.ERROR not in {one.phase for one in soon}
        for name in names[:8]:
            await rig.settled(name, Phase.RUNNING)
    for name in names:
        await rig.settled(name, Phase.RUNNING)
    throttled = calls(ground, names, 429)
    writes = calls(ground, names)
    for sandbox, refused in throttled:
        later = [at - refused for name, at in writes if name == sandbox and at > refused]
        assert min(later) > 0.95, f"{sandbox} came back before the second that it was told"
    # Five writes make a sandbox; what interrupts them, a refusal or the restart, costs these five again.
    assert len(writes) <= 5 * (2 * len(names) + len(throttled))
    rig.check_history()


def calls(ground: KubernetesGround, names: list[str], code: int = 0) -> list[tuple[str, float]]:
    """(sandbox, seconds) of every write for one of these sandboxes; only those answered with `code` if that is given."""

    def seconds(call: dict[str, Any]) -> float:
        return datetime.fromisoformat(call["requestReceivedTimestamp"]).timestamp()

    return [
        (name, seconds(call))
        for call in ground.cluster.audited(ground.namespace)
        for name in names
        if call["verb"] == "patch"
        and (call["objectRef"]["name"] + "-").startswith(f"{name}-")
        and code in (0, call["responseStatus"]["code"])
    ]


@pytest.mark.fault(18)
async def test_18_the_api_server_killed_for_a_while_and_back(rig: Rig, ground: KubernetesGround) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    ground.cluster.kill(API)
    try:
        async with asyncio.timeout(20 * PATIENCE):
            while not rig.stale:
                await asyncio.sleep(0.05)
        assert (await rig.get(A)).status.phase is Phase.RUNNING
        await rig.begin(A, Phase.STOPPED)
        await rig.create(B, {"A": "1"})
        await rig.env(B, A="2")
        await asyncio.sleep(11)
    finally:
        await back(ground.cluster)
    # The cluster's own parties back off for long: begun anew, they leave only the service's way back to be waited for.
    for name in ("kube-controller-manager", "kube-scheduler"):
        ground.cluster.kill(name)
        ground.cluster.run(name)
    await rig.settled(A, Phase.STOPPED)
    await rig.settled(B, Phase.RUNNING)
    assert not rig.stale
    rig.check_history()


@pytest.mark.fault(18)
async def test_rights_that_a_restarted_api_server_does_not_know_yet_show_in_no_status(
    ground: KubernetesGround, tmp_path: Path
) -> None:
    # On a busy machine the API server may stall between its start and its roles: for longer than a refusal has to last to count.
    async with started(Rig(ground, tmp_path, pace=Pace(busy_after=60))) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        ground.cluster.kill(API)
        ground.cluster.run(API)
        await rig.env(A, AFTER="the restart")
        await rig.settled(A, Phase.RUNNING, AFTER)
        assert Reason.CLUSTER_FORBIDDEN not in {one.status.reason for one in rig.history}, rig.history


@pytest.mark.fault(19)
async def test_19_versions_gone_with_a_restart_are_listed_anew_and_each_change_told_once(
    rig: Rig, ground: KubernetesGround
) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    before = lists(ground)
    ground.cluster.pause("kube-controller-manager")
    try:
        # Versions pass that the service is not told of; a restarted API server knows none from before.
        path = ground.path("configmaps")
        await asyncio.to_thread(ground.cluster.request, "POST", path, {"metadata": {"name": "passes"}})
        ground.cluster.kill(API)
        await back(ground.cluster)
    finally:
        ground.cluster.resume("kube-controller-manager")
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    assert before == dict.fromkeys(("statefulsets", "pods", "persistentvolumeclaims", "services", "ingresses"), 1)
    # Each informer comes back in its own time.
    async with asyncio.timeout(10 * PATIENCE):
        while any(count < 2 for count in lists(ground).values()):
            await asyncio.sleep(0.05)
    assert lists(ground) == dict.fromkeys(before, 2)
    rig.check_history()
    told = [one.status for one in rig.history]
    assert all(earlier != later for earlier, later in itertools.pairwise(told))


def lists(ground: KubernetesGround) -> dict[str, int]:
    """How often the service has listed each resource. Events are not among them: the API server keeps their versions."""
    found = [one for one in ground.cluster.audited(ground.namespace) if one["verb"] == "list"]
    done = [one["objectRef"]["resource"] for one in found if one["responseStatus"]["code"] == 200]
    return {one: done.count(one) for one in done if one != "events"}


@pytest.mark.fault(20)
async def test_20_an_api_server_that_falls_silent_is_noticed(ground: KubernetesGround, tmp_path: Path) -> None:
    ground.settings = ground.settings.model_copy(update={"cluster_timeout": 2.0, "cluster_silence": 3.0})
    async with started(Rig(ground, tmp_path)) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        ground.cluster.pause(API)
        try:
            async with asyncio.timeout(12 * PATIENCE):
                while not rig.stale:
                    await asyncio.sleep(0.05)
            await rig.begin(A, Phase.STOPPED)
        finally:
            ground.cluster.resume(API)
        await rig.settled(A, Phase.STOPPED)
        assert not rig.stale
        rig.check_history()
