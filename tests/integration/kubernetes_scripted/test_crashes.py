"""Rows 2 to 5: the service is killed at each of its writes in turn, and the next process finishes the work."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, errors

from tests.support.killer import Killer
from tests.support.scripted import CLAIMS, PODS, SECRETS, until, until_secret
from tests.support.scripted_api import ScriptedApi
from tests.support.service import Service

SETS = "apis/apps/v1/namespaces/default/statefulsets"
SNAPSHOTS = "apis/snapshot.storage.k8s.io/v1/namespaces/default/volumesnapshots"
WITHIN = 60.0
# Eight starts of the service each.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
async def service(api: ScriptedApi, make_service: Callable[..., Service], tmp_path: Path) -> Service:
    flags = ("--engine", "kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path)), "--namespaces", "default")
    return await asyncio.to_thread(make_service(*flags, "--default-image", "sandbox:1").start)


@pytest.mark.fault(2)
@pytest.mark.fault(3)
async def test_killed_with_each_object_of_a_create_it_makes_the_rest(api: ScriptedApi, service: Service) -> None:
    killer = Killer(api, service)
    async with AsyncClient(service.address, timeout=WITHIN) as client:
        for position in itertools.count():
            killer.arm(position)
            made = await client.create("crash", sandbox_id=f"crash-{position}", env={"A": "1"})
            status = await client.wait_until(made.sandbox_id, "RUNNING", timeout=WITHIN)
            assert status.generation == 1
            if not await killer.struck():
                break
            # What had been made was taken for its own: nothing of it is another.
            assert killer.stood.items() <= killer.uids().items()
    # Each of the six was the last one once, and once there was none.
    assert position == 7
    assert len(killer.uids()) == 8 * 6


@pytest.mark.fault(106)
async def test_killed_with_each_write_of_a_clone_it_makes_one_disk_of_one_snapshot(
    api: ScriptedApi, service: Service
) -> None:
    killer = Killer(api, service)
    async with AsyncClient(service.address, timeout=WITHIN) as client:
        source = (await client.create("crash", sandbox_id="source")).sandbox_id
        await client.wait_until(source, "RUNNING", timeout=WITHIN)
        (meant,) = [one["metadata"]["uid"] for one in api.objects[CLAIMS].values()]
        for position in itertools.count():
            killer.arm(position)
            name = (await client.clone(source, clone_id=f"clone-{position}")).sandbox_id
            await client.wait_until(name, "RUNNING", timeout=WITHIN)
            await until(lambda: not api.objects[SNAPSHOTS], WITHIN)
            claim = api.objects[CLAIMS][f"vn-homevn-agent-{name}-0"]
            assert api.disks.made_from[claim["metadata"]["uid"]] == meant
            if not await killer.struck():
                break
            stood = {where: uid for where, uid in killer.stood.items() if SNAPSHOTS not in where}
            assert stood.items() <= killer.uids().items()
    # The snapshot is made and removed around the claim, and the Service is written again whenever it is looked at.
    assert position >= 10
    assert len(killer.uids()) == (position + 2) * 6


@pytest.mark.fault(106)
async def test_killed_with_each_write_of_a_verification_it_counts_once_and_leaves_no_scratch(
    api: ScriptedApi, service: Service, tmp_path: Path
) -> None:
    killer = Killer(api, service)
    api.verifier.disk = tmp_path / "disk"
    (api.verifier.disk / "home").mkdir(parents=True)
    (api.verifier.disk / "home" / "file").write_text("kept")
    async with AsyncClient(service.address, timeout=WITHIN) as client:
        source = (await client.create("crash", sandbox_id="source")).sandbox_id
        await client.wait_until(source, "RUNNING", timeout=WITHIN)
        snapshot = await client.wait_for_snapshot(await client.create_snapshot(source), timeout=WITHIN)
        before = killer.uids()
        for position in itertools.count():
            killer.arm(position)
            await client.verify_snapshot(snapshot)
            found = (await client.wait_for_verification(snapshot, timeout=WITHIN)).verification
            assert (found.files, found.bytes, found.sha256) == (1, 4, found.expected_sha256)
            assert (killer.uids(), len(api.verifier.ran)) == (before, position + 1)
            if not await killer.struck():
                break
    # The claim and the pod are made and removed.
    assert position == 5


@pytest.mark.fault(5)
async def test_killed_with_each_object_of_an_env_update_it_rolls_out_once(api: ScriptedApi, service: Service) -> None:
    killer = Killer(api, service)
    async with AsyncClient(service.address, timeout=WITHIN) as client:
        name = (await client.create("crash", sandbox_id="crash", env={"A": "first"})).sandbox_id
        await client.wait_until(name, "RUNNING", timeout=WITHIN)
        before = {one for one in killer.uids().items() if SECRETS not in one[0]}
        said = {1: "first"}
        for position in itertools.count():
            rollouts = api.objects[SETS][name]["metadata"]["generation"]
            killer.arm(position)
            generation = (await client.update_env(name, set={"A": str(position)})).status.generation
            await client.wait_until(name, "RUNNING", generation=generation, timeout=WITHIN)
            assert api.objects[SETS][name]["metadata"]["generation"] == rollouts + 1
            said[generation] = str(position)
            await until_secret(api, f"{name}-env-{generation}")
            if not await killer.struck():
                break
    # All but the claim are written, and the former Secret is removed.
    assert position == 7
    assert {one for one in killer.uids().items() if SECRETS not in one[0]} == before
    assert api.starts == [(str(generation), {"A": value}) for generation, value in said.items()]


@pytest.mark.fault(5)
async def test_killed_with_each_write_of_an_expansion_it_asks_for_the_size_once(
    api: ScriptedApi, service: Service
) -> None:
    killer = Killer(api, service)
    async with AsyncClient(service.address, timeout=WITHIN) as client:
        name = (await client.create("crash", sandbox_id="crash", env={"A": "1"})).sandbox_id
        await client.wait_until(name, "RUNNING", timeout=WITHIN)
        before = killer.uids()
        for position in itertools.count():
            killer.arm(position)
            size = f"{position + 6}Gi"
            generation = (await client.update(name, storage=size)).sandbox.status.generation
            async with asyncio.timeout(WITHIN):
                status = await client.status(name)
                while (status.observed_generation, status.volume.size) != (generation, size):
                    await asyncio.sleep(0.02)
                    # The service may be killed between two calls.
                    with contextlib.suppress(errors.Unavailable):
                        status = await client.status(name)
            assert status.phase == pb.PHASE_RUNNING
            if not await killer.struck():
                break
    # The Service, the Secret, both Ingresses, the StatefulSet and the claim; the pod is the first one.
    assert position == 7
    assert (killer.uids(), len(api.starts)) == (before, 1)


@pytest.mark.fault(5)
async def test_killed_with_each_write_of_a_resize_it_gives_the_pod_that_runs_the_resources(
    api: ScriptedApi, service: Service
) -> None:
    killer = Killer(api, service)
    async with AsyncClient(service.address, timeout=WITHIN) as client:
        name = (await client.create("crash", sandbox_id="crash", env={"A": "1"})).sandbox_id
        await client.wait_until(name, "RUNNING", timeout=WITHIN)
        before = killer.uids()
        for position in itertools.count():
            killer.arm(position)
            limit = f"{position + 11}"
            answer = await client.update(name, resources={"cpu_limit": limit})
            assert answer.pending.paths == ["resources.cpu_limit"]
            async with asyncio.timeout(WITHIN):
                while not await applied(client, name, answer.sandbox.status.generation):
                    await asyncio.sleep(0.02)
            (container,) = api.objects[PODS][f"{name}-0"]["spec"]["containers"]
            assert container["resources"]["limits"]["cpu"] == limit
            if not await killer.struck():
                break
    assert position == 7
    assert (killer.uids(), len(api.starts)) == (before, 1)


async def applied(client: AsyncClient, name: str, generation: int) -> bool:
    """Whether the resources of a generation are said to hold. The service may be killed meanwhile."""
    try:
        status = await client.status(name)
    except errors.Unavailable:
        return False
    holds = {one.type for one in status.conditions if one.status == pb.CONDITION_STATUS_TRUE}
    return status.observed_generation == generation and pb.CONDITION_TYPE_RESOURCES_APPLIED in holds


@pytest.mark.fault(4)
async def test_killed_with_each_step_of_a_delete_it_leaves_nothing(api: ScriptedApi, service: Service) -> None:
    killer = Killer(api, service)
    async with AsyncClient(service.address, timeout=WITHIN) as client:
        for position in itertools.count():
            name = (await client.create("crash", sandbox_id=f"crash-{position}")).sandbox_id
            await client.wait_until(name, "RUNNING", timeout=WITHIN)
            killer.arm(position)
            await client.delete(name)
            await client.wait_until(name, "TERMINATED", timeout=WITHIN)
            assert killer.uids() == {}
            if not await killer.struck():
                break
    # It scales down, so that no pod is wanted, and deletes all six.
    assert position == 8
