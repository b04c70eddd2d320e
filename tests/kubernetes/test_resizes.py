"""How a sandbox gets other CPU and memory on the real API server, from a node that gives what it has."""

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Condition, Sandbox

from tests.kubernetes.ground import KubernetesGround, grant_resize, started
from tests.support.rig import A, Rig

OTHER = "suite-other"


@pytest.fixture
async def rig(ground: KubernetesGround, tmp_path: Path) -> AsyncIterator[Rig]:
    """The service with the right to resize pods, on a node of four cores, with a sandbox that runs."""
    await asyncio.to_thread(grant_resize, ground.cluster, ground.namespace)
    ground.node.allocations.capacity["cpu"] = 4000
    async with started(Rig(ground, tmp_path)) as made:
        await made.create(A)
        await made.settled(A, Phase.RUNNING)
        yield made


async def resize(rig: Rig, sandbox_id: str = A, **amounts: str) -> None:
    before = await rig.get(sandbox_id)
    await rig.update(sandbox_id, resources=dataclasses.replace(before.spec.resources, **amounts))


def applied(sandbox: Sandbox) -> Condition:
    return next(one for one in sandbox.status.conditions if one.type is ConditionType.RESOURCES_APPLIED)


async def until(rig: Rig, reason: Reason) -> Condition:
    """What the sandbox says of its resources once it runs at its generation, and that is the reason."""

    def holds(one: Sandbox) -> bool:
        status = one.status
        current = status.phase is Phase.RUNNING and status.observed_generation == one.generation
        return current and applied(one).reason is reason

    return applied(await rig.until(A, holds))


def pod(ground: KubernetesGround) -> Any:
    return ground.cluster.request("GET", ground.path("pods", f"{A}-0"))


async def test_a_pod_that_runs_is_given_other_resources_and_goes_on(rig: Rig, ground: KubernetesGround) -> None:
    before = pod(ground)
    await resize(rig, cpu_request="2", cpu_limit="2500m", memory_limit="2Gi")
    assert (await until(rig, Reason.READY)).status
    after = pod(ground)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    (own,) = after["status"]["containerStatuses"]
    assert own["resources"] == {
        "requests": {"cpu": "2", "memory": "256Mi"},
        "limits": {"cpu": "2500m", "memory": "2Gi"},
    }
    assert own["restartCount"] == 0


async def test_what_the_node_has_not_is_said_and_what_others_have_is_waited_for(
    rig: Rig, ground: KubernetesGround
) -> None:
    before = pod(ground)
    await resize(rig, cpu_request="5", cpu_limit="5")
    infeasible = await until(rig, Reason.RESIZE_INFEASIBLE)
    assert (infeasible.status, infeasible.message) == (
        False,
        "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000",
    )
    await rig.create(OTHER)
    await rig.settled(OTHER, Phase.RUNNING)
    await resize(rig, OTHER, cpu_request="3", cpu_limit="3")
    await rig.settled(OTHER, Phase.RUNNING)
    await resize(rig, cpu_request="2", cpu_limit="2")
    deferred = await until(rig, Reason.RESIZE_DEFERRED)
    # A pod of the test before this one may not be gone from the node yet.
    assert re.search("cpu, requested: 2000, used: 3[0-9]00, capacity: 4000", deferred.message)
    await rig.delete(OTHER)
    assert (await until(rig, Reason.READY)).status
    assert pod(ground)["metadata"]["uid"] == before["metadata"]["uid"]


async def test_without_the_right_a_sandbox_restarts_with_what_it_is_given(
    ground: KubernetesGround, tmp_path: Path
) -> None:
    async with started(Rig(ground, tmp_path)) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        before = pod(ground)
        await resize(rig, cpu_limit="2")
        assert (await until(rig, Reason.READY)).status
        after = pod(ground)
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "2"
