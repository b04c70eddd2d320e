"""The contract of snapshots of disks. An engine that takes them runs these tests against its own ground, through `rig`.

What is in a disk that is made from another is shown by the tests of each engine, which know where its files are.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2
from sandbox_client import AsyncClient
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.snapshot import Snapshot, State

from tests.support.rig import A, Rig
from tests.support.waiting import PATIENCE

B = "suite-b"
WITHIN = 30 * PATIENCE


@pytest.fixture
async def caller(rig: Rig) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"127.0.0.1:{rig.port}", timeout=WITHIN) as made:
        yield made


async def become(rig: Rig, made: snapshot_pb2.Snapshot, state: State) -> Snapshot:
    """The snapshot once it has a state. Fails with what it was last."""
    last = None
    try:
        async with asyncio.timeout(WITHIN):
            while last is None or last.snapshot.state is not state:
                await asyncio.sleep(0.02)
                last = await rig.snapshots.last(Key(made.namespace, made.snapshot_id))
    except TimeoutError:
        raise AssertionError(f"last seen: {last}") from None
    return last.snapshot


def spec(rig: Rig) -> pb.SandboxSpec:
    wanted = rig.ground.spec()
    return pb.SandboxSpec(image=wanted.image, command=wanted.command, args=wanted.args)


async def running(rig: Rig) -> Sandbox:
    await rig.create(A)
    return await rig.settled(A, Phase.RUNNING)


async def test_a_snapshot_is_taken_once_and_removed_once(rig: Rig, caller: AsyncClient) -> None:
    sandbox = await running(rig)
    assert await rig.engine.snapshots_missing(rig.ground.namespace) == ""
    snapshot = await become(rig, await caller.create_snapshot(A), State.READY)
    shown = await rig.engine.taken(snapshot)
    assert shown.state is State.READY
    await rig.engine.take(snapshot, sandbox)
    assert await rig.engine.taken(snapshot) == shown
    made = await caller.get_snapshot(snapshot.id)
    await rig.restart()
    assert await rig.engine.taken(snapshot) == shown
    async with AsyncClient(f"127.0.0.1:{rig.port}") as again:
        await again.delete_snapshot(made)
        await become(rig, made, State.DELETED)
    await rig.engine.discard(snapshot)
    assert (await rig.engine.taken(snapshot)).state is State.DELETED


async def test_a_restored_disk_is_waited_for_and_is_its_own(rig: Rig, caller: AsyncClient) -> None:
    source = await running(rig)
    made = await caller.create_snapshot(A)
    await become(rig, made, State.READY)
    await caller.create("another", sandbox_id=B, snapshot_id=made.snapshot_id, spec=spec(rig))
    await caller.delete_snapshot(made)
    restored = await rig.settled(B, Phase.RUNNING)
    assert restored.volume_uid not in ("", source.volume_uid)
    assert Reason.VOLUME_RESTORING in [one.status.reason for one in rig.history if one.id == B]
    await become(rig, made, State.DELETED)
    assert rig.observe(await rig.get(B)).pod is not None
    rig.check_history()


async def test_a_clone_is_waited_for_and_leaves_no_snapshot(rig: Rig, caller: AsyncClient) -> None:
    source = await running(rig)
    await caller.clone(A, clone_id=B)
    cloned = await rig.settled(B, Phase.RUNNING)
    assert cloned.volume_uid not in ("", source.volume_uid)
    assert [one async for one in caller.snapshots()] == []


async def test_a_snapshot_goes_with_its_sandbox_unless_it_outlives_it(rig: Rig, caller: AsyncClient) -> None:
    await running(rig)
    goes, stays = [await caller.create_snapshot(A, outlives_sandbox=outlives) for outlives in (False, True)]
    for one in (goes, stays):
        await become(rig, one, State.READY)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    await become(rig, goes, State.DELETED)
    kept = await become(rig, stays, State.READY)
    assert (await rig.engine.taken(kept)).state is State.READY
    await caller.create("again", sandbox_id=B, snapshot_id=stays.snapshot_id, spec=spec(rig))
    await rig.settled(B, Phase.RUNNING)
    await caller.delete_snapshot(stays)
    await become(rig, stays, State.DELETED)


async def test_a_snapshot_of_a_stopped_sandbox_is_of_one_that_did_not_run(rig: Rig, caller: AsyncClient) -> None:
    await running(rig)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    await become(rig, await caller.create_snapshot(A, stopped=True), State.READY)
    await rig.begin(A, Phase.RUNNING)
    await rig.settled(A, Phase.RUNNING)


async def test_the_disk_of_a_deleted_sandbox_goes_after_its_last_snapshot(rig: Rig, caller: AsyncClient) -> None:
    await running(rig)
    schedule = await caller.create_schedule("policy", before_delete=True, sandbox=A)
    reasons: list[Reason] = []
    rig.listeners.append(lambda one: reasons.append(one.status.reason))
    await caller.delete(A)
    await rig.until(A, lambda one: one.status.phase is Phase.TERMINATED, WITHIN)
    assert Reason.LAST_SNAPSHOT in reasons
    (made,) = [one async for one in caller.snapshots()]
    assert (made.state, made.schedule_id) == (snapshot_pb2.SNAPSHOT_STATE_READY, "policy")
    assert made.snapshot_id.startswith(f"{A}-deleted-")
    assert (made.outlives_sandbox, made.consistency) == (True, snapshot_pb2.CONSISTENCY_STOPPED)
    await caller.delete_schedule(schedule)
    await caller.create("again", sandbox_id=B, snapshot_id=made.snapshot_id, spec=spec(rig))
    await rig.settled(B, Phase.RUNNING)
    await caller.delete_snapshot(made)
    await become(rig, made, State.DELETED)
