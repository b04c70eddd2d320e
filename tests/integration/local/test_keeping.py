"""Snapshots, restores and clones over the local engine: the contract, and what becomes of the files."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2
from sandbox_client import AsyncClient
from sandbox_server.domain.phase import Phase, Reason

from tests.contract.snapshots import *  # noqa: F403 - the tests themselves
from tests.support.local import LocalRig
from tests.support.slow_copies import SlowCopies
from tests.support.waiting import PATIENCE

A, B, C = "keep-a", "keep-b", "keep-c"
WITHIN = 20 * PATIENCE
LARGE = 3_000_000
SCRIPT = "exec sleep MARK"

# It is the same with and without bubblewrap.
pytestmark = pytest.mark.parametrize("isolation", ["plain"])


@pytest.fixture
async def client(rig: LocalRig) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"127.0.0.1:{rig.port}", timeout=WITHIN) as made:
        yield made


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowCopies:
    return SlowCopies(monkeypatch)


async def with_file(rig: LocalRig, name: str = A, text: str = "before") -> None:
    await rig.create(name, spec=rig.ground.script(SCRIPT))
    await rig.settled(name, Phase.RUNNING)
    (rig.ground.home(name) / "file").write_text(text)


async def state(client: AsyncClient, snapshot: snapshot_pb2.Snapshot, *names: str) -> snapshot_pb2.Snapshot:
    """The snapshot once it is in one of these states."""
    wanted = [snapshot_pb2.SnapshotState.Value(f"SNAPSHOT_STATE_{name}") for name in names]
    async with asyncio.timeout(WITHIN):
        while (found := await client.get_snapshot(snapshot)).state not in wanted:
            await asyncio.sleep(0.02)
    return found


def reason(snapshot: snapshot_pb2.Snapshot) -> str:
    return snapshot_pb2.SnapshotReason.Name(snapshot.reason).removeprefix("SNAPSHOT_REASON_")


def folders(rig: LocalRig) -> list[Path]:
    return list((rig.ground.settings.data_dir / "snapshots").glob("*/*"))


def sleeping(rig: LocalRig) -> pb.SandboxSpec:
    return pb.SandboxSpec(image="any", command=rig.ground.script(SCRIPT).command)


@pytest.mark.slow
async def test_a_snapshot_is_taken_restored_and_removed(rig: LocalRig, client: AsyncClient) -> None:
    await with_file(rig)
    taken = await state(client, await client.create_snapshot(A), "READY")
    assert (reason(taken), taken.HasField("ready_time")) == ("READY", True)
    assert taken.used_bytes > 0
    (rig.ground.home(A) / "file").write_text("after")
    await client.create("another", sandbox_id=B, snapshot_id=taken.snapshot_id, spec=sleeping(rig), env={"N": "1"})
    restored = await rig.settled(B, Phase.RUNNING)
    assert (rig.ground.home(B) / "file").read_text() == "before"
    assert (rig.ground.home(A) / "file").read_text() == "after"
    assert Reason.VOLUME_RESTORING in [one.status.reason for one in rig.history if one.id == B]
    assert {one.status.phase for one in rig.history if one.id == B} <= {Phase.CREATING, Phase.STARTING, Phase.RUNNING}
    await client.delete_snapshot(taken)
    assert reason(await state(client, taken, "DELETED")) == "DELETED"
    assert folders(rig) == []
    await rig.restart()
    assert (await rig.settled(B, Phase.RUNNING)).volume_uid == restored.volume_uid
    assert (rig.ground.home(B) / "file").read_text() == "before"
    rig.check_history()


@pytest.mark.slow
async def test_a_clone_has_the_disk_of_its_source(rig: LocalRig, client: AsyncClient) -> None:
    await with_file(rig)
    await client.clone(A, clone_id=B)
    await rig.settled(B, Phase.RUNNING)
    assert (rig.ground.home(B) / "file").read_text() == "before"
    assert folders(rig) == []
    assert rig.observe(await rig.get(A)).pod is not None


@pytest.mark.slow
async def test_a_sandbox_that_is_started_meanwhile_has_no_snapshot_of_its_stopped_disk(
    rig: LocalRig, client: AsyncClient, slow: SlowCopies
) -> None:
    await with_file(rig)
    (rig.ground.home(A) / "large").write_bytes(b"x" * LARGE)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    made = await client.create_snapshot(A, stopped=True)
    await rig.there(lambda: bool(folders(rig)))
    await rig.begin(A, Phase.RUNNING)
    await rig.begin(A, Phase.STOPPED)
    slow.goes_on.set()
    failed = await state(client, made, "FAILED", "READY")
    assert reason(failed) == "NOT_STOPPED"
    await rig.there(lambda: not folders(rig))


@pytest.mark.slow
async def test_a_snapshot_that_outlives_its_sandbox_has_its_files(rig: LocalRig, client: AsyncClient) -> None:
    await with_file(rig)
    goes = await state(client, await client.create_snapshot(A), "READY")
    stays = await state(client, await client.create_snapshot(A, outlives_sandbox=True), "READY")
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    await state(client, goes, "DELETED")
    assert (await client.get_snapshot(stays)).state == snapshot_pb2.SNAPSHOT_STATE_READY
    await client.create("again", sandbox_id=B, snapshot_id=stays.snapshot_id, spec=sleeping(rig))
    await rig.settled(B, Phase.RUNNING)
    assert (rig.ground.home(B) / "file").read_text() == "before"


@pytest.mark.slow
async def test_a_snapshot_that_somebody_removed_is_said_to_be_lost(rig: LocalRig, client: AsyncClient) -> None:
    await with_file(rig)
    made = await state(client, await client.create_snapshot(A), "READY")
    (folder,) = folders(rig)
    folder.rename(rig.ground.settings.data_dir / "aside")
    await rig.restart()
    async with AsyncClient(f"127.0.0.1:{rig.port}") as again:
        assert reason(await state(again, made, "FAILED")) == "LOST"


@pytest.mark.fault(104)
@pytest.mark.slow
async def test_a_snapshot_is_kept_until_the_disk_is_made_from_it(
    rig: LocalRig, client: AsyncClient, slow: SlowCopies
) -> None:
    await with_file(rig)
    (rig.ground.home(A) / "large").write_bytes(os.urandom(LARGE))
    slow.goes_on.set()
    made = await state(client, await client.create_snapshot(A), "READY")
    slow.goes_on.clear()
    await client.create("another", sandbox_id=B, snapshot_id=made.snapshot_id, spec=sleeping(rig))
    await client.delete_snapshot(made)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    async with asyncio.timeout(WITHIN):
        while B not in (await state(client, made, "DELETING")).message:
            await asyncio.sleep(0.02)
    slow.goes_on.set()
    await rig.settled(B, Phase.RUNNING)
    assert (rig.ground.home(B) / "large").stat().st_size == LARGE
    await state(client, made, "DELETED")
    assert folders(rig) == []


@pytest.mark.fault(105)
@pytest.mark.slow
async def test_a_restart_begins_copies_anew(rig: LocalRig, client: AsyncClient, slow: SlowCopies) -> None:
    await with_file(rig)
    (rig.ground.home(A) / "large").write_bytes(os.urandom(LARGE))
    made = await client.create_snapshot(A)
    await client.clone(A, clone_id=B)
    await rig.there(lambda: (rig.ground.folder(B) / "new").exists())
    await rig.restart()
    slow.goes_on.set()
    async with AsyncClient(f"127.0.0.1:{rig.port}", timeout=WITHIN) as again:
        await state(again, made, "READY")
        await rig.settled(B, Phase.RUNNING)
    assert (rig.ground.home(B) / "large").read_bytes() == (rig.ground.home(A) / "large").read_bytes()


@pytest.mark.slow
async def test_a_sandbox_is_stopped_while_its_disk_is_made_and_starts_with_it(
    rig: LocalRig, client: AsyncClient, slow: SlowCopies
) -> None:
    await with_file(rig)
    (rig.ground.home(A) / "large").write_bytes(os.urandom(LARGE))
    await client.clone(A, clone_id=B)
    await rig.there(lambda: (rig.ground.folder(B) / "new").exists())
    await rig.begin(B, Phase.STOPPED)
    assert not (await rig.settled(B, Phase.STOPPED)).filled_generation
    slow.goes_on.set()
    await rig.begin(B, Phase.RUNNING)
    await rig.settled(B, Phase.RUNNING)
    assert (rig.ground.home(B) / "large").stat().st_size == LARGE
    rig.check_history()
