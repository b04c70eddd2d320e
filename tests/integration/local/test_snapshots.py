"""The snapshots of the local engine, and disks that are made from them: taken, restored, cloned, cut off and discarded."""

import asyncio
import contextlib
import dataclasses
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.domain.sandbox import Key, Origin, Sandbox
from sandbox_server.domain.snapshot import Snapshot, SnapshotReason, State, Taken
from sandbox_server.engines.local.engine import LocalEngine

from tests.support import samples
from tests.support.local import LocalGround
from tests.support.slow_copies import SlowCopies
from tests.support.waiting import PATIENCE

A, B = "disk-a", "disk-b"


class World:
    """A local engine, whose sandboxes have disks and no process."""

    def __init__(self, folder: Path, pace: Pace) -> None:
        self.ground = LocalGround(folder, isolate=False)
        self._pace = pace
        self.changed: list[Key] = []
        self.epoch = 1

    async def open(self, *live: Sandbox) -> None:
        self.engine = LocalEngine(self.ground.settings.local, self.ground.settings.data_dir, self._pace)
        await self.engine.open(live, self.changed.append, lambda _: self.epoch)

    async def restart(self, *live: Sandbox) -> None:
        await self.engine.close()
        await self.open(*live)

    async def disk(self, name: str) -> Sandbox:
        """A stopped sandbox with a disk that has a file."""
        made = samples.sandbox(name, uid=f"uid-{name}")
        await self.engine.apply(made, {}, 1)
        await self.engine.apply(made, {}, 0)
        (self.home(name) / "file").write_text(name)
        volume = self.engine.observe(made).volume
        assert volume is not None
        return dataclasses.replace(made, desired=DesiredState.STOPPED, volume_uid=volume.uid)

    def home(self, name: str) -> Path:
        return self.ground.home(name)

    def snapshots(self) -> list[Path]:
        """The folders of snapshots."""
        return list((self.ground.settings.data_dir / "snapshots").glob("*/*"))

    async def taken(self, snapshot: Snapshot) -> Taken:
        """What is shown of a snapshot once it is not being copied any more."""
        async with asyncio.timeout(10 * PATIENCE):
            while (found := await self.engine.taken(snapshot)).reason is SnapshotReason.COPYING:
                await asyncio.sleep(0.01)
        return found

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10 * PATIENCE):
            while not holds():
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path, pace: Pace) -> AsyncIterator[World]:
    made = World(tmp_path, pace)
    await made.open()
    try:
        yield made
    finally:
        await made.engine.close()
        made.ground.end()


def snapshot_of(sandbox: Sandbox, **changes: str) -> Snapshot:
    named = {"sandbox_id": sandbox.id, "sandbox_uid": sandbox.uid, "volume_uid": sandbox.volume_uid, "uid": "snap-1"}
    return samples.snapshot(namespace=sandbox.namespace, **(named | changes))


def restored(origin: Origin, name: str = B) -> Sandbox:
    return samples.sandbox(name, uid=f"uid-{name}", origin=origin)


class Full:
    """A disk that is full until it is `freed`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.freed = False
        self.asked = 0
        self._really = os.copy_file_range
        patch.setattr(os, "copy_file_range", self)

    def __call__(self, *arguments: int) -> int:
        self.asked += 1
        if self.freed:
            return self._really(*arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_snapshot_has_the_disk_as_it_was_and_goes_when_it_is_discarded(world: World) -> None:
    sandbox = await world.disk(A)
    snapshot = snapshot_of(sandbox)
    assert await world.engine.snapshots_missing(sandbox.namespace) == ""
    assert (await world.engine.taken(snapshot)).state is State.DELETED
    await world.engine.take(snapshot, sandbox)
    await world.engine.take(snapshot, sandbox)
    assert (await world.engine.taken(snapshot)).reason is SnapshotReason.COPYING
    taken = await world.taken(snapshot)
    assert (taken.state, taken.message) == (State.READY, "")
    assert taken.used_bytes > 0
    (world.home(A) / "file").write_text("changed")
    await world.engine.take(snapshot, sandbox)
    (folder,) = world.snapshots()
    assert (folder / "volume" / "home" / "file").read_text() == A
    assert folder.stat().st_mode & 0o777 == 0o700
    await world.restart(sandbox)
    assert await world.engine.taken(snapshot) == taken
    await world.engine.discard(snapshot)
    await world.engine.discard(snapshot)
    assert (await world.engine.taken(snapshot)).state is State.DELETED
    assert world.snapshots() == []


@pytest.mark.parametrize("lost", ["folder", "replaced"])
async def test_a_disk_that_is_gone_cannot_be_taken(world: World, lost: str) -> None:
    sandbox = await world.disk(A)
    snapshot = snapshot_of(sandbox, volume_uid="another" if lost == "replaced" else sandbox.volume_uid)
    if lost == "folder":
        world.home(A).parent.rename(world.home(A).parent.parent / "aside")
    await world.engine.take(snapshot, sandbox)
    assert (await world.taken(snapshot)).reason is SnapshotReason.DISK_GONE
    await world.engine.discard(snapshot)
    assert world.snapshots() == []


@pytest.mark.fault(103)
async def test_a_full_disk_fails_a_snapshot_until_it_is_discarded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await world.disk(A)
    full = Full(monkeypatch)
    snapshot = snapshot_of(sandbox)
    await world.engine.take(snapshot, sandbox)
    failed = await world.taken(snapshot)
    assert (failed.state, failed.reason) == (State.FAILED, SnapshotReason.NO_SPACE)
    assert "file: No space left on device" in failed.message
    await world.engine.take(snapshot, sandbox)
    assert (await world.taken(snapshot), full.asked) == (failed, 1)
    assert [list(one.iterdir()) for one in world.snapshots()] == [[]]
    await world.engine.discard(snapshot)
    assert world.snapshots() == []


async def test_a_service_that_stops_cuts_a_copy_off_and_the_next_makes_it_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await world.disk(A)
    copies = SlowCopies(monkeypatch)
    (world.home(A) / "large").write_bytes(b"x" * 2_000_000)
    snapshot = snapshot_of(sandbox)
    await world.engine.take(snapshot, sandbox)
    await world.until(lambda: bool(world.snapshots()) and (world.snapshots()[0] / "new").exists())
    await world.restart(sandbox)
    assert (await world.engine.taken(snapshot)).reason is SnapshotReason.ACCEPTED
    copies.goes_on.set()
    await world.engine.take(snapshot, sandbox)
    assert (await world.taken(snapshot)).state is State.READY
    (folder,) = world.snapshots()
    assert sorted(one.name for one in (folder / "volume" / "home").iterdir()) == ["file", "large"]
    assert [one.name for one in folder.iterdir()] == ["volume"]


async def test_a_snapshot_is_discarded_while_it_is_copied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = await world.disk(A)
    SlowCopies(monkeypatch)
    (world.home(A) / "large").write_bytes(b"x" * 2_000_000)
    snapshot = snapshot_of(sandbox)
    await world.engine.take(snapshot, sandbox)
    await world.engine.discard(snapshot)
    assert (await world.engine.taken(snapshot)).state is State.DELETED
    assert world.snapshots() == []


async def test_without_the_lease_nothing_is_taken_or_discarded(world: World) -> None:
    sandbox = await world.disk(A)
    world.epoch = 0
    with pytest.raises(engines.NotHeld):
        await world.engine.take(snapshot_of(sandbox), sandbox)
    with pytest.raises(engines.NotHeld):
        await world.engine.discard(snapshot_of(sandbox))
    world.epoch = 1


@pytest.mark.parametrize("cloned", [False, True], ids=["snapshot", "clone"])
async def test_a_disk_is_made_from_its_origin_and_nothing_runs_before(world: World, cloned: bool) -> None:
    source = await world.disk(A)
    if not cloned:
        await world.engine.take(snapshot_of(source), source)
        await world.taken(snapshot_of(source))
    made = restored(Origin("" if cloned else "snap-1", source.key, source.volume_uid))
    await world.engine.apply(made, {}, 1)
    shown = world.engine.observe(made)
    assert shown.workload is None
    assert shown.volume is not None
    assert (shown.volume.bound, shown.volume.uid, shown.volume.owner) == (False, "", made.uid)
    await world.until(lambda: made.key in world.changed)
    after = world.engine.observe(made)
    assert after.volume is not None
    assert after.volume.bound
    assert after.volume.uid not in ("", source.volume_uid, "snap-1")
    assert (world.home(B) / "file").read_text() == A
    await world.engine.apply(made, {}, 1)
    assert world.engine.observe(made).workload is not None
    (world.home(B) / "file").write_text(B)
    assert (world.home(A) / "file").read_text() == A
    await world.engine.apply(made, {}, 0)


@pytest.mark.parametrize("cloned", [False, True], ids=["snapshot", "clone"])
async def test_an_origin_that_is_gone_is_refused(world: World, cloned: bool) -> None:
    made = restored(Origin("" if cloned else "snap-1", Key("default", A), "gone"))
    await world.engine.apply(made, {}, 1)
    await world.until(lambda: made.key in world.changed)
    for _ in range(2):
        with pytest.raises(engines.Refused, match="gone") as raised:
            await world.engine.apply(made, {}, 1)
        assert raised.value.fault.reason is Reason.RESTORE_FAILED
    assert world.engine.observe(made).workload is None


@pytest.mark.fault(103)
async def test_a_restore_that_failed_is_tried_again_and_says_the_failure_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.disk(A)
    full = Full(monkeypatch)
    made = restored(Origin("", source.key, source.volume_uid))
    await world.engine.apply(made, {}, 1)
    await world.until(lambda: made.key in world.changed)
    # The first answer begins nothing: the reconciler waits longer and longer between its tries.
    with pytest.raises(engines.Refused, match=r"the data directory is full: .*No space left") as refused:
        await world.engine.apply(made, {}, 1)
    assert refused.value.fault.reason is Reason.VOLUME_PENDING
    assert full.asked == 1
    world.changed.clear()
    full.freed = True
    with pytest.raises(engines.Refused, match="No space left"):
        await world.engine.apply(made, {}, 1)
    await world.until(lambda: made.key in world.changed)
    await world.engine.apply(made, {}, 1)
    assert (world.home(B) / "file").read_text() == A
    await world.engine.apply(made, {}, 0)


async def test_a_sandbox_is_deleted_while_its_disk_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source = await world.disk(A)
    (world.home(A) / "large").write_bytes(b"x" * 2_000_000)
    SlowCopies(monkeypatch)
    made = restored(Origin("", source.key, source.volume_uid))
    await world.engine.apply(made, {}, 1)
    gone = dataclasses.replace(made, desired=DesiredState.DELETED)
    async with asyncio.timeout(10 * PATIENCE):
        while world.engine.observe(gone).workload is not None or world.ground.folder(B).exists():
            await world.engine.delete(gone)
            await asyncio.sleep(0.01)
    assert world.engine.observe(gone).volume is None


async def test_a_restore_that_was_cut_off_is_begun_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source = await world.disk(A)
    (world.home(A) / "large").write_bytes(b"x" * 2_000_000)
    copies = SlowCopies(monkeypatch)
    made = restored(Origin("", source.key, source.volume_uid))
    await world.engine.apply(made, {}, 1)
    await world.until((world.ground.folder(B) / "new").exists)
    await world.restart(source, made)
    copies.goes_on.set()
    observed = world.engine.observe(made)
    assert (observed.workload, observed.volume) == (None, None)
    with contextlib.suppress(engines.Refused):
        await world.engine.apply(made, {}, 1)
    await world.until(lambda: world.engine.observe(made).volume is not None and world.changed != [])
    await world.until(world.home(B).exists)
    assert (world.home(B) / "large").stat().st_size == 2_000_000
    assert [one.name for one in world.ground.folder(B).iterdir()] == ["volume"]
