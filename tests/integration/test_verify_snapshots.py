"""Verifications of snapshots over the local engine: what is counted, what fails, and that nothing of a scratch is left."""

import asyncio
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2
from sandbox_client import AsyncClient, FailedPrecondition, VerificationFailed
from sandbox_server import app
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.local import counting
from sandbox_server.settings import Settings

from tests.support.rig import faster
from tests.support.waiting import PATIENCE

WITHIN = 20 * PATIENCE
Verification = snapshot_pb2.Verification
RUNNING = snapshot_pb2.VERIFICATION_STATE_RUNNING


class World:
    """A service with the local engine, and a snapshot of a sandbox with two files. Its clock is `ahead` of the real one."""

    service: app.Service
    client: AsyncClient

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    async def sandbox(self) -> Path:
        """The home of a sandbox that runs, with a file, a folder and a link."""
        spec = pb.SandboxSpec(image="any", command=["sleep", "1000"])
        made = await self.client.create("demo", sandbox_id="a", spec=spec)
        await self.client.wait_until(made, "RUNNING")
        (home,) = self.folder.glob("**/volume/home")
        (home / "inner").mkdir()
        (home / "inner" / "file").write_text("before")
        (home / "link").symlink_to("inner/file")
        return home

    async def snapshot(self) -> snapshot_pb2.Snapshot:
        return await self.client.wait_for_snapshot(await self.client.create_snapshot("a"), timeout=WITHIN)

    async def verified(self, snapshot: snapshot_pb2.Snapshot) -> Verification:
        """What comes of a verification, whether or not it has passed."""
        try:
            begun = await self.client.verify_snapshot(snapshot)
            return (await self.client.wait_for_verification(begun, timeout=WITHIN)).verification
        except VerificationFailed as failed:
            return failed.snapshot.verification

    async def reaches(self, snapshot: snapshot_pb2.Snapshot, reason: str) -> Verification:
        """The verification of a snapshot once it has a reason."""
        wanted = snapshot_pb2.SnapshotReason.Value(f"SNAPSHOT_REASON_{reason}")
        async with asyncio.timeout(WITHIN):
            while (found := (await self.client.get_snapshot(snapshot)).verification).reason != wanted:
                await asyncio.sleep(0.01)
        return found

    @property
    def copy(self) -> Path:
        """The home in the copy that the only snapshot consists of."""
        (found,) = self.folder.glob("snapshots/*/*/volume/home")
        return found

    @property
    def scratches(self) -> list[Path]:
        return list(self.folder.glob("verifications/*/*"))


def reason(verification: Verification) -> str:
    return snapshot_pb2.SnapshotReason.Name(verification.reason).removeprefix("SNAPSHOT_REASON_")


@pytest.fixture
def pace() -> Pace:
    return dataclasses.replace(faster(20), verify_most=WITHIN)


@pytest.fixture
async def world(tmp_path: Path, pace: Pace) -> AsyncIterator[World]:
    settings = Settings(
        listen="127.0.0.1:0", data_dir=tmp_path, local_isolation="none", verify_most=pace.verify_most, ready_for=0
    ).model_copy(update={"base_pace": pace})
    world = World(tmp_path)
    async with (
        app.service(settings, now=world.now) as world.service,
        AsyncClient(f"127.0.0.1:{world.service.port}", timeout=WITHIN) as world.client,
    ):
        yield world
        await world.client.delete("a")
        async with asyncio.timeout(WITHIN):
            while [one async for one in world.client.list()]:
                await asyncio.sleep(0.02)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has counting wait until it is let go on."""
    waits = [True]
    before = counting.contents

    def contents(top: int, work: Path, check: Callable[[], None]) -> counting.Contents:
        while waits:
            check()
            time.sleep(0.001)
        return before(top, work, check)

    monkeypatch.setattr(counting, "contents", contents)
    return waits.clear


@pytest.mark.slow
async def test_a_snapshot_is_restored_counted_and_recorded(world: World) -> None:
    await world.sandbox()
    made = await world.snapshot()
    assert not made.HasField("verification")
    found = await world.verified(made)
    assert (reason(found), found.state) == ("VERIFIED", snapshot_pb2.VERIFICATION_STATE_PASSED)
    assert (found.files, found.folders, found.links, found.others, found.bytes) == (1, 1, 1, 0, 6)
    assert found.sha256 == found.expected_sha256
    assert found.start_time.ToDatetime() <= found.end_time.ToDatetime()
    assert world.scratches == []
    # Another one begins anew, and finds the same.
    again = await world.verified(made)
    assert (again.sha256, again.start_time.ToDatetime() > found.end_time.ToDatetime()) == (found.sha256, True)


@pytest.mark.slow
async def test_what_has_changed_since_is_a_mismatch_that_says_both(world: World) -> None:
    await world.sandbox()
    made = await world.snapshot()
    first = await world.verified(made)
    with (world.copy / "inner" / "file").open("r+b") as file:
        file.write(b"B")
    found = await world.verified(made)
    assert (reason(found), found.state) == ("MISMATCH", snapshot_pb2.VERIFICATION_STATE_FAILED)
    assert found.expected_sha256 == first.sha256 != found.sha256
    assert first.sha256 in found.message and found.sha256 in found.message
    with (world.copy / "inner" / "file").open("r+b") as file:
        file.write(b"b")
    assert reason(await world.verified(made)) == "VERIFIED"


@pytest.mark.slow
async def test_a_verification_that_runs_goes_on_and_one_after_the_other(world: World, held: Callable[[], None]) -> None:
    await world.sandbox()
    first, second = await world.snapshot(), await world.snapshot()
    await world.client.verify_snapshot(first)
    await world.reaches(first, "COUNTING")
    again = await world.client.verify_snapshot(first)
    assert (reason(again.verification), again.verification.state) == ("COUNTING", RUNNING)
    await world.client.verify_snapshot(second)
    waits = await world.reaches(second, "ACCEPTED")
    assert not waits.HasField("start_time")
    assert len(world.scratches) == world.service.keeper.verifying == 1
    held()
    await world.client.wait_for_verification(first, timeout=WITHIN)
    await world.client.wait_for_verification(second, timeout=WITHIN)
    assert world.scratches == []


@pytest.mark.slow
async def test_a_snapshot_that_is_deleted_meanwhile_goes_after_its_scratch(
    world: World, held: Callable[[], None]
) -> None:
    await world.sandbox()
    made = await world.snapshot()
    await world.client.verify_snapshot(made)
    await world.reaches(made, "COUNTING")
    await world.client.delete_snapshot(made)
    gone = await world.client.wait_for_snapshot(made, "DELETED", timeout=WITHIN)
    assert (reason(gone.verification), gone.verification.state) == ("DELETING", snapshot_pb2.VERIFICATION_STATE_FAILED)
    assert world.scratches == []
    with pytest.raises(FailedPrecondition) as refused:
        await world.client.verify_snapshot(made)
    assert refused.value.reason == "SNAPSHOT_NOT_READY"


@pytest.mark.slow
async def test_a_file_that_cannot_be_read_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.sandbox()
    made = await world.snapshot()

    def unread(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(counting, "_hash", unread)
    found = await world.verified(made)
    assert (reason(found), found.sha256) == ("UNREADABLE", "")
    assert "'./inner/file' cannot be read: Permission denied" in found.message
    assert world.scratches == []


@pytest.mark.slow
async def test_a_copy_that_is_gone_fails(world: World) -> None:
    await world.sandbox()
    made = await world.snapshot()
    world.copy.rename(world.copy.parent / "elsewhere")
    found = await world.verified(made)
    assert reason(found) == "LOST"
    assert world.scratches == []


@pytest.mark.slow
async def test_what_takes_too_long_fails_and_says_what_it_got_to(world: World, held: Callable[[], None]) -> None:
    await world.sandbox()
    made = await world.snapshot()
    await world.client.verify_snapshot(made)
    await world.reaches(made, "COUNTING")
    world.ahead = timedelta(seconds=WITHIN)
    found = await world.verified(made)
    assert reason(found) == "VERIFICATION_DEADLINE"
    assert f"not done within {WITHIN:g} s; at last: its files are being counted" in found.message
    assert world.scratches == []
    assert found.files == 0


@pytest.mark.slow
async def test_names_of_any_bytes_are_counted(world: World) -> None:
    home = os.fsencode(await world.sandbox())
    for name in (b"line\nbreak", b"caf\xe9\xff", b"back\\slash", b"-dash"):
        Path(os.fsdecode(home + b"/" + name)).write_bytes(b"1")
    found = await world.verified(await world.snapshot())
    assert (reason(found), found.files) == ("VERIFIED", 5)


async def test_a_scratch_whose_snapshot_a_release_without_verifications_has_removed_goes_at_a_start(
    tmp_path: Path, pace: Pace
) -> None:
    left, kept = tmp_path / "verifications" / "default" / "gone", tmp_path / "verifications" / "default" / "there"
    for scratch in (left, kept):
        (scratch / "volume" / "home").mkdir(parents=True)
        (scratch / "volume" / "home" / "file").write_text("old")
    (tmp_path / "snapshots" / "default" / "there").mkdir(parents=True)
    settings = Settings(listen="127.0.0.1:0", data_dir=tmp_path, local_isolation="none")
    async with app.service(settings.model_copy(update={"base_pace": pace})), asyncio.timeout(WITHIN):
        while left.exists():
            await asyncio.sleep(0.01)
    assert (kept / "volume" / "home" / "file").exists()
