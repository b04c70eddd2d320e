"""Schedules of snapshots through the real gRPC server, with a clock that the test sets and an engine that copies at once."""

import asyncio
import base64
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import schedule_pb2, snapshot_pb2
from sandbox_client import AsyncClient, errors
from sandbox_server import app, store
from sandbox_server.domain.event import OBSERVED
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Key, Sandbox, VolumeStatus
from sandbox_server.domain.schedule import MissedReason
from sandbox_server.domain.snapshot import Snapshot, SnapshotReason, State, Taken
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.blind import BlindEngine
from tests.support.rig import faster
from tests.support.variants import BOTH_DATABASES
from tests.support.waiting import PATIENCE

WITHIN = 10 * PATIENCE
READY = Taken(state=State.READY, reason=SnapshotReason.READY)
NOTHING = Taken(state=State.DELETED, reason=SnapshotReason.DELETED)
FAILED = Taken(state=State.FAILED, reason=SnapshotReason.NO_SPACE, message="the disk is full")
COPYING = Taken(state=State.CREATING, reason=SnapshotReason.COPYING)
DAY = timedelta(days=1)
DISK = VolumeStatus("home-a", "1Gi", bound=True)


class Clock:
    """Tells the time that a test sets, beginning with the real one."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def to(self, moment: datetime) -> datetime:
        """Sets the clock a moment later than a slot, as it is when the service looks."""
        self.now = moment + timedelta(seconds=1)
        return moment

    def slot(self, hour: int = 2, days: int = 0) -> datetime:
        """The next time that it is this hour, and days later."""
        found = self.now.replace(hour=hour, minute=0, second=0, microsecond=0)
        return (found if found > self.now else found + DAY) + days * DAY


class Engine(BlindEngine):
    """Snapshots become what `becomes` says, and are removed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.becomes = READY
        self.shown: dict[str, Taken] = {}
        self.missing = ""

    async def snapshots_missing(self, namespace: str) -> str:
        return self.missing

    async def taken(self, snapshot: Snapshot) -> Taken:
        return self.shown.get(snapshot.uid, NOTHING)

    async def take(self, snapshot: Snapshot, sandbox: Sandbox) -> None:
        self.shown[snapshot.uid] = self.becomes

    async def discard(self, snapshot: Snapshot) -> None:
        self.shown.pop(snapshot.uid, None)


class World:
    """A service that can be stopped and started again."""

    def __init__(self, url: str, folder: Path) -> None:
        self.clock = Clock()
        self.engine = Engine()
        self._url = url
        self._folder = folder
        self._opened = AsyncExitStack()
        self.running: app.Service
        self.client: AsyncClient

    async def start(self, **options: Any) -> None:
        settings = Settings(
            listen="127.0.0.1:0",
            data_dir=self._folder,
            database_url=SecretStr(self._url),
            encryption_keys=SecretStr(base64.b64encode(b"k" * 32).decode()),
            snapshots_per_tenant=20,
            **options,
        ).model_copy(update={"base_pace": faster(20)})
        engine: Any = self.engine
        self.running = await self._opened.enter_async_context(app.service(settings, engine=engine, now=self.clock))
        self.client = await self._opened.enter_async_context(AsyncClient(f"127.0.0.1:{self.running.port}"))

    async def stop(self) -> None:
        await self._opened.aclose()
        self._opened = AsyncExitStack()

    async def sandbox(self, sandbox_id: str = "a", disk: bool = True, **options: Any) -> pb.Sandbox:
        """Creates a sandbox, with a disk as if its engine had made it."""
        made = await self.client.create("demo", sandbox_id=sandbox_id, **options)
        if disk:
            await self.change(sandbox_id, volume_uid=f"disk-{sandbox_id}")
        return made

    async def change(self, sandbox_id: str, **changes: Any) -> None:
        """Records what became of a sandbox."""

        def write(reader: store.Reader) -> store.Write:
            last = reader.last(Key("default", sandbox_id))
            assert last is not None
            return store.Write(dataclasses.replace(last.sandbox, **changes), last.sequence, OBSERVED)

        await self.running.store.write(write)

    async def enrolled(self, count: int = 1) -> None:
        """Returns once so many sandboxes are known to be covered."""
        await self.until(lambda reader: len(reader.schedules.all_covered(["default"])) == count)

    async def until(self, holds: Callable[[store.Reader], bool]) -> None:
        async with asyncio.timeout(WITHIN):
            while not await self.running.store.read(holds):
                await asyncio.sleep(0.01)

    async def ready(self, *ids: str) -> list[snapshot_pb2.Snapshot]:
        """The snapshots that there are, once these and no others are, and all are READY."""
        found: list[snapshot_pb2.Snapshot] = []
        try:
            async with asyncio.timeout(WITHIN):
                while sorted(ids) != [one.snapshot_id for one in found] or {one.state for one in found} - {
                    snapshot_pb2.SNAPSHOT_STATE_READY
                }:
                    found = [one async for one in self.client.snapshots()]
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError([(one.snapshot_id, one.state) for one in found]) from None
        return found

    async def missed(self, count: int, schedule_id: str = "nightly") -> schedule_pb2.SnapshotSchedule:
        """The schedule once so many slots were missed."""
        found = await self.client.get_schedule(schedule_id)
        try:
            async with asyncio.timeout(WITHIN):
                while found.missed != count:
                    await asyncio.sleep(0.01)
                    found = await self.client.get_schedule(schedule_id)
        except TimeoutError:
            raise AssertionError(found) from None
        return found

    async def worked(self, **outcomes: int) -> None:
        """Returns once so many slots have been worked with each outcome, and no others. They are counted after they are stored."""
        async with asyncio.timeout(WITHIN):
            while self.running.runner.outcomes != outcomes:
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """Returns once two more rounds have been made."""
        for _ in range(2):
            known = self.running.runner.rounds
            async with asyncio.timeout(WITHIN):
                while self.running.runner.rounds <= known + 1:
                    self.running.runner.wake()
                    await asyncio.sleep(0.01)


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    made = World(database_url, tmp_path)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def named(sandbox_id: str, slot: datetime) -> str:
    return f"{sandbox_id}-{slot:%Y%m%dt%H%M}"


@BOTH_DATABASES
@pytest.mark.slow
async def test_each_slot_has_one_snapshot_and_the_newest_are_kept(world: World) -> None:
    await world.sandbox()
    made = await world.client.create_schedule("nightly", "daily 02:00", sandbox="a", keep=2)
    await world.enrolled()
    slots = [world.clock.slot(days=days) for days in range(4)]
    assert made.next_time.ToDatetime(UTC) == slots[0]
    for number, slot in enumerate(slots):
        world.clock.to(slot)
        kept = await world.ready(*(named("a", one) for one in slots[max(0, number - 1) : number + 1]))
        assert {(one.schedule_id, one.outlives_sandbox) for one in kept} == {("nightly", False)}
    found = await world.client.get_schedule(made)
    assert (found.last_time.ToDatetime(UTC), found.next_time.ToDatetime(UTC), found.missed) == (
        slots[3],
        slots[3] + DAY,
        0,
    )
    await world.worked(TAKEN=4)


@BOTH_DATABASES
@pytest.mark.slow
async def test_the_latest_missed_slot_is_made_up_and_those_before_it_are_said(world: World) -> None:
    await world.sandbox()
    await world.client.create_schedule("nightly", "daily 02:00", sandbox="a")
    await world.enrolled()
    first = world.clock.slot()
    await world.stop()
    world.clock.to(first + 3 * DAY)
    await world.start()
    await world.ready(named("a", first + 3 * DAY))
    found = await world.missed(3)
    assert found.last_missed.slot.ToDatetime(UTC) == first + 2 * DAY
    assert found.last_missed.reason == schedule_pb2.MISSED_REASON_NOT_RUN
    assert found.last_missed.sandbox_id == "a"
    await world.stop()
    await world.start()
    await world.settled()
    await world.ready(named("a", first + 3 * DAY))
    assert (await world.client.get_schedule("nightly")).missed == 3


@pytest.mark.slow
async def test_a_sandbox_that_no_holder_has_seen_has_its_slots_made_up(world: World) -> None:
    await world.client.create("demo", sandbox_id="other")
    await world.client.create_schedule("nightly", "daily 02:00", label_selector="tier=web")
    first = world.clock.slot()
    world.running.runner.steps.enrol = None  # type: ignore[assignment, method-assign]
    await world.sandbox(labels={"tier": "web"})
    await world.stop()
    world.clock.to(first + DAY)
    await world.start()
    await world.ready(named("a", first + DAY))
    await world.missed(1)


@pytest.mark.slow
async def test_a_sandbox_has_missed_nothing_from_before_it_was_covered(world: World) -> None:
    await world.client.create("demo", sandbox_id="old", labels={"tier": "web"})
    await world.change("old", volume_uid="disk-old")
    await world.client.create_schedule("nightly", "daily 02:00", label_selector="tier=web,!spare")
    await world.enrolled()
    slot = world.clock.to(world.clock.slot())
    await world.ready(named("old", slot))
    world.clock.to(slot + timedelta(hours=1))
    # The service goes by its own clock where it creates.
    await world.sandbox("new", labels={"tier": "web", "spare": "yes"})
    await world.change("new", create_time=world.clock.now, attempt_at=world.clock.now)
    await world.settled()
    await world.ready(named("old", slot))
    await world.client.update("new", labels={"tier": "web"})
    await world.change("new", attempt_at=world.clock.now)
    await world.enrolled(2)
    world.clock.to(slot + DAY)
    await world.ready(*(named(*one) for one in (("old", slot), ("old", slot + DAY), ("new", slot + DAY))))
    assert (await world.client.get_schedule("nightly")).missed == 0


@pytest.mark.slow
async def test_a_clock_that_goes_back_makes_no_slot_twice(world: World) -> None:
    await world.sandbox()
    await world.client.create_schedule("nightly", "daily 02:00", sandbox="a")
    await world.enrolled()
    slot = world.clock.slot()
    for moment in (slot, slot + DAY, slot, slot + DAY):
        world.clock.to(moment)
        await world.settled()
    await world.ready(named("a", slot), named("a", slot + DAY))
    world.clock.to(slot + 2 * DAY)
    await world.ready(*(named("a", slot + days * DAY) for days in range(3)))
    assert (await world.client.get_schedule("nightly")).missed == 0


@pytest.mark.slow
async def test_a_clock_that_was_ahead_once_stops_no_slots(world: World) -> None:
    await world.sandbox()
    await world.client.create_schedule("nightly", "daily 02:00", sandbox="a", keep=1)
    await world.enrolled()
    slot = world.clock.slot()
    world.clock.to(slot + 500 * DAY)
    await world.ready(named("a", slot + 500 * DAY))
    for moment in (slot, slot + DAY):
        world.clock.to(moment)
        await world.settled()
        await world.ready(named("a", moment))
        found = await world.client.get_schedule("nightly")
        assert found.last_time.ToDatetime(UTC) == moment


@pytest.mark.slow
async def test_a_snapshot_that_a_caller_deletes_is_not_taken_again(world: World) -> None:
    await world.sandbox()
    await world.client.create_schedule("nightly", "daily 02:00", sandbox="a")
    await world.enrolled()
    slot = world.clock.to(world.clock.slot())
    (made,) = await world.ready(named("a", slot))
    await world.client.wait_for_snapshot(await world.client.delete_snapshot(made), "DELETED", timeout=WITHIN)
    await world.settled()
    await world.ready()
    assert (await world.client.get_schedule("nightly")).missed == 0


@pytest.mark.slow
async def test_slots_without_a_snapshot_are_missed_with_the_reason(world: World) -> None:
    await world.sandbox(disk=False)
    await world.client.create_schedule("nightly", "daily 02:00", sandbox="a")
    await world.enrolled()

    async def missed(count: int, reason: MissedReason, words: str) -> None:
        world.clock.to(world.clock.slot())
        found = (await world.missed(count)).last_missed
        assert (MissedReason(found.reason), found.slot.ToDatetime(UTC)) == (
            reason,
            world.clock.now - timedelta(seconds=1),
        )
        assert words in found.message

    await missed(1, MissedReason.NO_DISK, "no disk yet")
    await world.change("a", volume_uid="disk-a")
    world.engine.missing = "the cluster has no snapshots: ask its operators"
    await missed(2, MissedReason.UNSUPPORTED, "ask its operators")
    world.engine.missing = ""
    await world.client.update_schedule("nightly", stopped=True)
    await missed(3, MissedReason.NOT_STOPPED, "stop it")
    await world.client.update_schedule("nightly", stopped=False)
    world.engine.becomes = FAILED
    await missed(4, MissedReason.FAILED, "the disk is full")
    for number in range(19):
        await world.client.create_snapshot("a", snapshot_id=f"by-hand-{number}")
    await missed(5, MissedReason.TOO_MANY_SNAPSHOTS, "delete some")
    await world.worked(NO_DISK=1, UNSUPPORTED=1, NOT_STOPPED=1, FAILED=1, TOO_MANY_SNAPSHOTS=1, TAKEN=1)


@pytest.mark.slow
async def test_a_slot_that_comes_while_the_snapshot_of_the_last_is_taken_is_missed(world: World) -> None:
    await world.sandbox()
    await world.client.create_schedule("nightly", "daily 02:00", sandbox="a")
    await world.enrolled()
    world.engine.becomes = COPYING
    first = world.clock.to(world.clock.slot())
    await world.until(lambda reader: reader.snapshots.last(Key("default", named("a", first))) is not None)
    world.clock.to(first + DAY)
    assert (await world.missed(1)).last_missed.reason == schedule_pb2.MISSED_REASON_BUSY
    world.engine.shown = dict.fromkeys(world.engine.shown, FAILED)
    last = (await world.missed(2)).last_missed
    assert (last.slot.ToDatetime(UTC), last.reason) == (first, schedule_pb2.MISSED_REASON_FAILED)
    world.engine.becomes = READY
    world.clock.to(first + 2 * DAY)
    await world.ready(named("a", first + 2 * DAY))
    assert (await world.client.get_schedule("nightly")).missed == 2


@pytest.mark.slow
async def test_a_schedule_that_fails_keeps_no_other_from_its_slots(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sandbox()
    for name in ("broken", "nightly"):
        await world.client.create_schedule(name, "daily 02:00", sandbox="a")
    await world.enrolled(2)
    steps = world.running.runner.steps
    take = steps.take

    async def fails(key: Key, *rest: Any) -> bool:
        if key.id == "broken":
            raise RuntimeError("broken")
        return await take(key, *rest)

    monkeypatch.setattr(steps, "take", fails)
    slot = world.clock.to(world.clock.slot())
    (made,) = await world.ready(named("a", slot))
    assert made.schedule_id == "nightly"


@pytest.mark.slow
async def test_a_slot_waits_for_room_where_older_snapshots_go(world: World) -> None:
    for name in ("a", "b"):
        await world.sandbox(name, labels={"tier": "web"})
    await world.client.create_schedule("nightly", "daily 02:00", label_selector="tier=web", keep=1)
    await world.enrolled(2)
    slot = world.clock.to(world.clock.slot())
    await world.ready(named("a", slot), named("b", slot))
    by_hand = [f"by-hand-{number}" for number in range(17)]
    for name in by_hand:
        await world.client.create_snapshot("a", snapshot_id=name)
    # There is room for one more, and there are two to be taken.
    world.engine.becomes = COPYING
    world.clock.to(slot + DAY)
    await world.until(lambda reader: reader.snapshots.count("default") == 20)
    await world.settled()
    world.engine.becomes = READY
    world.engine.shown = dict.fromkeys(world.engine.shown, READY)
    await world.ready(named("a", slot + DAY), named("b", slot + DAY), *by_hand)
    assert (await world.client.get_schedule("nightly")).missed == 0


@pytest.mark.slow
async def test_a_slot_that_no_room_comes_for_is_missed_before_the_next(world: World) -> None:
    for name in ("a", "b"):
        await world.sandbox(name, labels={"tier": "web"})
    await world.client.create_schedule("nightly", "daily 02:00", label_selector="tier=web")
    await world.enrolled(2)
    for number in range(19):
        await world.client.create_snapshot("a", snapshot_id=f"by-hand-{number}")
    world.engine.becomes = COPYING
    slot = world.clock.to(world.clock.slot())
    await world.until(lambda reader: reader.snapshots.count("default") == 20)
    await world.settled()
    assert (await world.client.get_schedule("nightly")).missed == 0
    world.clock.to(slot + 23 * DAY / 24)
    await world.settled()
    found = (await world.missed(1)).last_missed
    assert MissedReason(found.reason) is MissedReason.TOO_MANY_SNAPSHOTS
    assert found.slot.ToDatetime(UTC) == slot


@pytest.mark.slow
async def test_failed_snapshots_go_when_a_newer_one_is_ready_and_the_oldest_only_then(world: World) -> None:
    await world.sandbox()
    await world.client.create_schedule("nightly", "daily 02:00", sandbox="a", keep=1)
    await world.enrolled()
    first = world.clock.to(world.clock.slot())
    await world.ready(named("a", first))
    world.engine.becomes = FAILED
    world.clock.to(first + DAY)
    await world.missed(1)
    assert [one.snapshot_id async for one in world.client.snapshots()] == [named("a", first), named("a", first + DAY)]
    world.engine.becomes = READY
    world.clock.to(first + 2 * DAY)
    await world.ready(named("a", first + 2 * DAY))


@pytest.mark.slow
async def test_two_schedules_and_long_ids_have_names_of_their_own(world: World) -> None:
    long = "a" + 51 * "b"
    for one in (long, long[:-1] + "c"):
        await world.sandbox(one, labels={"all": "yes"})
    for name in ("nightly", "again"):
        await world.client.create_schedule(name, "daily 02:00", label_selector="all")
    await world.enrolled(4)
    slot = world.clock.to(world.clock.slot())
    async with asyncio.timeout(WITHIN):
        while len(found := [one async for one in world.client.snapshots()]) < 4:
            await asyncio.sleep(0.01)
    assert {(one.sandbox_id, one.schedule_id) for one in found} == {
        (one, name) for one in (long, long[:-1] + "c") for name in ("nightly", "again")
    }
    assert sum(one.snapshot_id.endswith(f"-{slot:%Y%m%dt%H%M}") for one in found) == 1
    assert {len(one.snapshot_id) for one in found} == {52}


async def test_what_is_asked_of_schedules_is_answered(world: World) -> None:
    client = world.client
    with pytest.raises(errors.NotFound) as unknown:
        await client.create_schedule("nightly", "daily 02:00", sandbox="a")
    assert unknown.value.reason == "SANDBOX_NOT_FOUND"
    await world.sandbox()
    request_id = str(uuid.uuid4())
    made = await client.create_schedule("nightly", " Daily  02:00", sandbox="a", request_id=request_id)
    assert (made.when, made.keep, made.sandbox_id, made.tenant) == ("daily 02:00", 7, "a", "default")
    assert await client.create_schedule("nightly", " Daily  02:00", sandbox="a", request_id=request_id.upper()) == made
    with pytest.raises(errors.AlreadyExists) as taken:
        await client.create_schedule("nightly", "daily 02:00", sandbox="a")
    assert taken.value.reason == "SCHEDULE_EXISTS"
    changed = await client.update_schedule(made, keep=3, label_selector="a=b")
    assert (changed.when, changed.keep, changed.sandbox_id, changed.label_selector) == ("daily 02:00", 3, "", "a=b")
    assert await client.update_schedule(made) == changed
    with pytest.raises(errors.InvalidArgument) as nothing:
        await client.update_schedule(made, when="")
    assert list(nothing.value.fields) == ["when"]
    await client.create_schedule("other", before_delete=True, sandbox="a")
    assert [one.schedule_id async for one in client.schedules()] == ["nightly", "other"]
    page = await client.schedules_page(page_size=1)
    assert [one.schedule_id for one in (await client.schedules_page(page_token=page.next_page_token)).schedules] == [
        "other"
    ]
    request_id = str(uuid.uuid4())
    for _ in range(2):
        await client.delete_schedule(made, request_id=request_id)
    for call in (client.get_schedule(made), client.delete_schedule(made), client.update_schedule(made, keep=3)):
        with pytest.raises(errors.NotFound) as gone:
            await call
        assert gone.value.reason == "SCHEDULE_NOT_FOUND"
    assert [one.schedule_id async for one in client.schedules()] == ["other"]


@pytest.mark.slow
async def test_snapshots_of_a_schedule_stay_when_it_goes(world: World) -> None:
    await world.sandbox()
    await world.client.create_schedule("nightly", "daily 02:00", sandbox="a", outlives_sandbox=True)
    await world.enrolled()
    slot = world.clock.to(world.clock.slot())
    (made,) = await world.ready(named("a", slot))
    assert made.outlives_sandbox
    await world.client.delete_schedule("nightly")
    world.clock.to(slot + DAY)
    await world.settled()
    await world.ready(named("a", slot))
    await world.client.create_snapshot("a", snapshot_id="by-hand")
    assert [one.snapshot_id async for one in world.client.snapshots(schedule_id="nightly")] == [made.snapshot_id]
    await world.client.delete_snapshot("by-hand")
    again = await world.client.create_schedule("nightly", "daily 02:00", sandbox="a", keep=1)
    await world.enrolled()
    world.clock.to(slot + 2 * DAY)
    await world.ready(named("a", slot), named("a", slot + 2 * DAY))
    assert again.missed == 0


class Leaving:
    """A deleted sandbox in which nothing runs any more, as its reconciler would have it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def ended(self, volume: VolumeStatus | None = DISK) -> None:
        status = samples.status(phase=Phase.TERMINATING, reason=Reason.LAST_SNAPSHOT, volume=volume)
        await self._world.change("a", status=status, applied_generation=9)

    async def says(self, words: str) -> None:
        """Returns once this is said of what its deletion waits for."""

        def holds(reader: store.Reader) -> bool:
            last = reader.last(Key("default", "a"))
            assert last is not None
            assert last.sandbox.last_snapshot is not None
            return words in last.sandbox.last_snapshot.message

        await self._world.until(holds)

    async def released(self) -> None:
        def holds(reader: store.Reader) -> bool:
            last = reader.last(Key("default", "a"))
            assert last is not None
            return last.sandbox.last_snapshot is None and last.sandbox.applied_generation == 0

        await self._world.until(holds)


@pytest.fixture
async def leaving(world: World) -> Leaving:
    """It is deleted with a schedule that has before_delete, and still runs."""
    sandbox = await world.sandbox(labels={"tier": "web"})
    await world.client.create_schedule("policy", before_delete=True, label_selector="tier=web")
    await world.client.delete(sandbox)
    return Leaving(world)


@BOTH_DATABASES
@pytest.mark.slow
async def test_a_deletion_waits_for_one_snapshot_that_stays(world: World, leaving: Leaving) -> None:
    await leaving.says("once nothing runs")
    await world.settled()
    await world.ready()
    world.engine.becomes = COPYING
    await leaving.ended()
    await leaving.says("is taken before the disk goes")
    await world.stop()
    world.engine.becomes = READY
    world.engine.shown = dict.fromkeys(world.engine.shown, READY)
    await world.start()
    await leaving.released()
    (made,) = [one async for one in world.client.snapshots()]
    assert (made.schedule_id, made.outlives_sandbox) == ("policy", True)
    assert made.snapshot_id == f"a-deleted-{world.clock.now:%Y%m%dt%H%M}"
    assert (await world.client.get_schedule("policy")).missed == 0


@pytest.mark.slow
async def test_a_snapshot_that_fails_keeps_the_disk_and_is_taken_again(world: World, leaving: Leaving) -> None:
    world.engine.becomes = FAILED
    await leaving.ended()
    await leaving.says("NO_SPACE: the disk is full. It is tried again. To delete the sandbox without a snapshot, set")
    failed = {one.uid async for one in world.client.snapshots()}
    world.engine.becomes = READY
    await world.settled()
    await leaving.says("the disk is full")
    world.clock.now += timedelta(seconds=61)
    await leaving.released()
    (made,) = [one async for one in world.client.snapshots()]
    assert made.uid not in failed


@pytest.mark.slow
async def test_a_snapshot_that_the_storage_tries_again_says_what_keeps_it_and_the_way_out(
    world: World, leaving: Leaving
) -> None:
    world.engine.becomes = Taken(state=State.CREATING, reason=SnapshotReason.NO_SPACE, message="no room")
    await leaving.ended()
    await leaving.says(
        "NO_SPACE: no room. It is tried again. To delete the sandbox without a snapshot, set before_delete"
    )
    world.engine.shown = dict.fromkeys(world.engine.shown, READY)
    await leaving.released()


@pytest.mark.parametrize("volume", [None, dataclasses.replace(DISK, bound=False)])
async def test_a_deletion_goes_on_without_a_disk(world: World, leaving: Leaving, volume: VolumeStatus | None) -> None:
    await leaving.ended(volume)
    await leaving.released()
    await world.ready()


async def test_a_deletion_goes_on_where_the_disk_goes_while_its_snapshot_is_taken(
    world: World, leaving: Leaving
) -> None:
    world.engine.becomes = Taken(state=State.FAILED, reason=SnapshotReason.DISK_GONE, message="no claim")
    await leaving.ended()
    await leaving.released()


@pytest.mark.slow
async def test_a_snapshot_that_is_refused_keeps_the_disk_until_it_may_be_taken(world: World, leaving: Leaving) -> None:
    world.engine.missing = "the cluster has no snapshots: ask its operators"
    await leaving.ended()
    await leaving.says("ask its operators. It is tried again")
    world.engine.missing = ""
    await leaving.released()
    assert len([one async for one in world.client.snapshots()]) == 1


@pytest.mark.slow
async def test_the_last_snapshot_is_taken_of_a_tenant_that_may_have_no_more(world: World, leaving: Leaving) -> None:
    await world.sandbox("other")
    for number in range(20):
        await world.client.create_snapshot("other", snapshot_id=f"by-hand-{number}")
    await leaving.ended()
    await leaving.released()
    assert len([one async for one in world.client.snapshots()]) == 21


@pytest.mark.parametrize("way", ["switched off", "deleted"])
async def test_a_deletion_goes_on_without_the_schedule(world: World, leaving: Leaving, way: str) -> None:
    world.engine.becomes = FAILED
    await leaving.ended()
    await leaving.says("the disk is full")
    if way == "deleted":
        await world.client.delete_schedule("policy")
    else:
        await world.client.update_schedule("policy", when="daily 02:00", before_delete=False)
    await leaving.released()


async def test_a_sandbox_that_no_schedule_covers_or_that_has_no_disk_is_deleted_at_once(world: World) -> None:
    await world.client.create("demo", sandbox_id="bare", labels={"tier": "web"})
    await world.sandbox("other")
    await world.client.create_schedule("policy", before_delete=True, label_selector="tier=web")
    for name in ("bare", "other"):
        await world.client.delete(name)
        last = await world.running.store.read(lambda reader, name=name: reader.last(Key("default", name)))  # type: ignore[misc]
        assert last is not None
        assert last.sandbox.last_snapshot is None
