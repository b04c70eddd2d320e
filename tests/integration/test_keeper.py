"""The keeper over an engine that does what a test tells it: what it says of failures, and when it asks again."""

import asyncio
import collections
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2
from sandbox_client import AsyncClient
from sandbox_server import app, engines, store
from sandbox_server.domain.event import OBSERVED
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.snapshot import Contents, Scratch, Snapshot, SnapshotReason, State, Taken, VerificationState
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.blind import BlindEngine
from tests.support.opened import Opened
from tests.support.rig import faster
from tests.support.waiting import PATIENCE

WITHIN = 10 * PATIENCE
NOTHING = Taken(state=State.DELETED, reason=SnapshotReason.DELETED)
COPYING = Taken(state=State.CREATING, reason=SnapshotReason.COPYING)
READY = Taken(state=State.READY, reason=SnapshotReason.READY, used_bytes=5)
REFUSED = engines.Refused(Fault(Reason.ENGINE_REFUSED, "no snapshots today"))
UNREACHABLE = engines.Unreachable("no answer")


class Engine(BlindEngine):
    """Shows `shown` of every snapshot, or raises it; a `take` or a `discard` changes it to what comes of it, or raises that."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: Taken | Exception = NOTHING
        self.takes: Taken | Exception = COPYING
        self.discards: Taken | Exception = NOTHING
        self.scratches: Scratch | Exception = Scratch(is_there=False)
        self.asked: list[str] = []
        self.looked_at: collections.Counter[str] = collections.Counter()

    def _become(self, act: str, what: Taken | Exception) -> None:
        self.asked.append(act)
        if isinstance(what, Exception):
            raise what
        self.shown = what

    async def taken(self, snapshot: Snapshot) -> Taken:
        if isinstance(self.shown, Exception):
            raise self.shown
        return self.shown

    async def take(self, snapshot: Snapshot, sandbox: Sandbox) -> None:
        self._become("take", self.takes)

    async def discard(self, snapshot: Snapshot) -> None:
        self._become("discard", self.discards)

    async def scratch(self, snapshot: Snapshot) -> Scratch:
        self.looked_at[snapshot.id] += 1
        if isinstance(self.scratches, Exception):
            raise self.scratches
        return self.scratches

    async def verify(self, snapshot: Snapshot) -> None:
        self.asked.append("verify")

    async def clear(self, snapshot: Snapshot) -> None:
        self.asked.append("clear")


def changed(**changes: Any) -> Callable[[store.Reader], store.Write]:
    """Records what became of the sandbox."""

    def write(reader: store.Reader) -> store.Write:
        last = reader.last(Key("default", "a"))
        assert last is not None
        return store.Write(dataclasses.replace(last.sandbox, **changes), last.sequence, OBSERVED)

    return write


class World:
    def __init__(self, running: app.Service, engine: Engine, client: AsyncClient) -> None:
        self.running = running
        self.engine = engine
        self.client = client

    async def sandbox(self) -> pb.Sandbox:
        """Creates a sandbox, with a disk as if its engine had made it."""
        made = await self.client.create("demo", sandbox_id="a")
        await self.running.store.write(changed(volume_uid="disk"))
        return made

    async def stop(self, sandbox: pb.Sandbox) -> None:
        await self.client.stop(sandbox)
        await self.running.store.write(changed(status=samples.status(phase=Phase.STOPPED, reason=Reason.POD_GONE)))

    async def snapshot(self) -> snapshot_pb2.Snapshot:
        """Asks for a snapshot of a sandbox that has a disk."""
        return await self.client.create_snapshot(await self.sandbox(), outlives_sandbox=True)

    async def verifies(self, snapshot: snapshot_pb2.Snapshot, reason: str) -> None:
        """Waits until the verification of a snapshot is shown to have a reason."""
        wanted = snapshot_pb2.SnapshotReason.Value(f"SNAPSHOT_REASON_{reason}")
        async with asyncio.timeout(WITHIN):
            while (await self.client.get_snapshot(snapshot)).verification.reason != wanted:
                await asyncio.sleep(0.01)

    async def shows(self, snapshot: snapshot_pb2.Snapshot, state: str, reason: str) -> snapshot_pb2.Snapshot:
        """The snapshot once callers are shown this."""
        wanted = (
            snapshot_pb2.SnapshotState.Value(f"SNAPSHOT_STATE_{state}"),
            snapshot_pb2.SnapshotReason.Value(f"SNAPSHOT_REASON_{reason}"),
        )
        async with asyncio.timeout(WITHIN):
            while True:
                found = await self.client.get_snapshot(snapshot)
                if (found.state, found.reason) == wanted:
                    return found
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    pace = dataclasses.replace(faster(20), busy_after=0.2, resync=60)
    settings = Settings(listen="127.0.0.1:0", data_dir=tmp_path).model_copy(update={"base_pace": pace})
    engine: Any = Engine()
    async with app.service(settings, engine=engine) as running, AsyncClient(f"127.0.0.1:{running.port}") as client:
        yield World(running, engine, client)


@pytest.mark.slow
async def test_what_the_storage_shows_is_looked_at_until_it_is_there(world: World) -> None:
    made = await world.snapshot()
    await world.shows(made, "CREATING", "COPYING")
    world.engine.shown = READY
    assert (await world.shows(made, "READY", "READY")).used_bytes == 5
    assert world.engine.asked == ["take"]


@pytest.mark.parametrize("failure", [REFUSED, UNREACHABLE], ids=["refused", "unreachable"])
@pytest.mark.slow
async def test_a_take_that_cannot_be_done_is_said_once_it_lasts_and_tried_again(
    world: World, failure: Exception
) -> None:
    world.engine.takes = failure
    made = await world.snapshot()
    assert str(failure) in (await world.shows(made, "CREATING", "BUSY")).message
    world.engine.takes = READY
    await world.shows(made, "READY", "READY")
    assert set(world.engine.asked) == {"take"}


@pytest.mark.slow
async def test_a_storage_that_cannot_be_asked_changes_no_snapshot_that_is_there(world: World) -> None:
    world.engine.takes = READY
    made = await world.snapshot()
    await world.shows(made, "READY", "READY")
    # The log itself: what a replica has read of it may be older.
    sequence = await world.running.store.read(lambda reader: reader.snapshots.sequence())
    world.engine.shown = UNREACHABLE
    world.running.keeper.wake(Key("default", made.snapshot_id))
    async with asyncio.timeout(WITHIN):
        while world.running.keeper.outcomes["unreachable", ""] < 5:
            await asyncio.sleep(0.01)
    assert await world.running.store.read(lambda reader: reader.snapshots.sequence()) == sequence


async def test_a_snapshot_that_was_out_of_sight_is_ready_again_and_nothing_of_it_is_removed(world: World) -> None:
    world.engine.takes = READY
    made = await world.snapshot()
    await world.shows(made, "READY", "READY")
    for shown, state, reason in ((NOTHING, "FAILED", "LOST"), (READY, "READY", "READY")):
        world.engine.shown = shown
        world.running.keeper.wake(Key("default", made.snapshot_id))
        await world.shows(made, state, reason)
    assert world.engine.asked == ["take"]


@pytest.mark.parametrize(("starts", "state", "reason"), [(True, "FAILED", "NOT_STOPPED"), (False, "READY", "READY")])
@pytest.mark.slow
async def test_a_start_that_no_holder_saw_is_noticed_before_a_stopped_disk_counts_as_copied(
    world: World, starts: bool, state: str, reason: str
) -> None:
    sandbox = await world.sandbox()
    await world.stop(sandbox)
    world.engine.shown = UNREACHABLE
    made = await world.client.create_snapshot(sandbox, stopped=True)
    if starts:
        await world.client.start(sandbox)
        await world.stop(sandbox)
    # As another replica that takes the namespace now.
    world.running.keeper._memories.clear()
    world.engine.shown = READY
    await world.shows(made, state, reason)


@pytest.mark.slow
async def test_a_removal_that_cannot_be_done_is_said_once_it_lasts_and_tried_again(world: World) -> None:
    world.engine.takes = READY
    made = await world.snapshot()
    await world.shows(made, "READY", "READY")
    world.engine.discards = REFUSED
    await world.client.delete_snapshot(made)
    await world.shows(made, "DELETING", "BUSY")
    world.engine.discards = NOTHING
    await world.shows(made, "DELETED", "DELETED")


@pytest.mark.slow
async def test_a_removal_goes_on_until_there_is_nothing(world: World) -> None:
    world.engine.takes = READY
    made = await world.snapshot()
    await world.shows(made, "READY", "READY")
    world.engine.discards = READY
    await world.client.delete_snapshot(made)
    async with asyncio.timeout(WITHIN):
        while world.engine.asked.count("discard") < 3:
            await asyncio.sleep(0.01)
    assert (await world.client.get_snapshot(made)).state == snapshot_pb2.SNAPSHOT_STATE_DELETING
    world.engine.discards = NOTHING
    await world.shows(made, "DELETED", "DELETED")


@pytest.mark.slow
async def test_a_failed_copy_leaves_nothing_in_the_storage(world: World) -> None:
    world.engine.takes = Taken(state=State.FAILED, reason=SnapshotReason.NO_SPACE, message="full")
    made = await world.snapshot()
    assert (await world.shows(made, "FAILED", "NO_SPACE")).message == "full"
    async with asyncio.timeout(WITHIN):
        while world.engine.shown != NOTHING:
            await asyncio.sleep(0.01)
    assert world.engine.asked == ["take", "discard"]


@pytest.fixture
async def other(world: World, tmp_path: Path) -> AsyncIterator[store.Store]:
    """The store as another replica has it: what it commits, the service has to read."""
    opened = Opened(f"sqlite:///{tmp_path}/sandbox.db", store.Cipher.from_file(tmp_path / "encryption.key"))
    await opened.store.open(opened.committed.extend)
    yield opened.store
    await opened.store.close()


@pytest.mark.slow
async def test_a_sandbox_that_this_replica_has_not_read_yet_has_not_ended(
    world: World, other: store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = asyncio.Event()
    log = world.running.store.events

    async def events(after: int, limit: int) -> Any:
        await read.wait()
        return await log(after, limit)

    monkeypatch.setattr(world.running.feed.store, "events", events)
    await other.write(lambda _: samples.new(samples.sandbox("a", volume_uid="disk")))
    made = await world.client.create_snapshot("a")
    async with asyncio.timeout(WITHIN):
        while world.running.keeper.outcomes["stale", ""] < 2:
            await asyncio.sleep(0.01)
    assert (await world.client.get_snapshot(made)).reason == snapshot_pb2.SNAPSHOT_REASON_ACCEPTED
    read.set()
    await world.shows(made, "CREATING", "COPYING")
    assert world.engine.asked == ["take"]


@pytest.mark.slow
async def test_a_log_of_sandboxes_that_grows_all_the_time_keeps_no_removal_up(
    world: World, other: store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.engine.takes = READY
    made = await world.snapshot()
    await world.shows(made, "READY", "READY")
    read = world.running.store.read

    async def grown(*asked: Any) -> Any:
        if store.Lane.RECONCILER in asked:
            await other.write(changed(status=samples.status(message=uuid.uuid4().hex)))
        return await read(*asked)

    monkeypatch.setattr(world.running.keeper._store, "read", grown)
    await world.client.delete_snapshot(made)
    await world.shows(made, "DELETED", "DELETED")


@pytest.mark.slow
async def test_nothing_is_removed_before_all_sandboxes_are_known_that_may_need_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.engine.takes = READY
    made = await world.snapshot()
    await world.shows(made, "READY", "READY")
    announced: list[int] = []
    with monkeypatch.context() as behind:
        # Another replica has committed what this one has not read yet.
        behind.setattr(store.Reader, "sequence", lambda _: 10**6)
        behind.setattr(world.running.feed, "announce", announced.append)
        await world.client.delete_snapshot(made)
        async with asyncio.timeout(WITHIN):
            while world.running.keeper.outcomes["stale", ""] < 3:
                await asyncio.sleep(0.01)
        assert "discard" not in world.engine.asked
        assert set(announced) == {10**6}
    await world.shows(made, "DELETED", "DELETED")


@pytest.mark.slow
async def test_a_verification_that_cannot_be_gone_on_with_is_said_once_that_lasts_and_goes_on(world: World) -> None:
    world.engine.takes = READY
    made = await world.snapshot()
    await world.shows(made, "READY", "READY")
    world.engine.scratches = UNREACHABLE
    await world.client.verify_snapshot(made)
    await world.verifies(made, "BUSY")
    world.engine.scratches = Scratch(is_there=False)
    await world.verifies(made, "RESTORING")
    contents = Contents(files=1, folders=0, links=0, others=0, bytes=2, sha256="a" * 64)
    world.engine.scratches = Scratch(is_there=True, state=VerificationState.PASSED, contents=contents)
    # Its result is there, and its scratch is asked to go until it has gone.
    await world.verifies(made, "CLEARING")
    async with asyncio.timeout(WITHIN):
        while world.engine.asked.count("clear") < 2:
            await asyncio.sleep(0.01)
    world.engine.scratches = Scratch(is_there=False)
    await world.verifies(made, "VERIFIED")
    assert world.running.keeper.verifying == 0


@pytest.mark.slow
async def test_a_verification_that_waits_for_its_turn_is_not_looked_at_until_that_comes(world: World) -> None:
    world.engine.takes = READY
    sandbox = await world.sandbox()
    first, second = [await world.client.create_snapshot(sandbox, outlives_sandbox=True) for _ in range(2)]
    for made in (first, second):
        await world.shows(made, "READY", "READY")
    world.engine.scratches = Scratch(
        is_there=True, state=VerificationState.RUNNING, reason=SnapshotReason.COUNTING, message="counts"
    )
    await world.client.verify_snapshot(first)
    await world.verifies(first, "COUNTING")
    await world.client.verify_snapshot(second)
    async with asyncio.timeout(WITHIN):
        while "its turn" not in (await world.client.get_snapshot(second)).verification.message:
            await asyncio.sleep(0.01)
    worked, looked = world.running.keeper.outcomes["done", ""], world.engine.looked_at[first.snapshot_id]
    async with asyncio.timeout(WITHIN):
        while world.engine.looked_at[first.snapshot_id] < looked + 10:
            await asyncio.sleep(0.01)
    # One look at each asks the engine once; what waits is only worked when all are.
    assert world.running.keeper.outcomes["done", ""] - worked < 15
    assert world.engine.looked_at[second.snapshot_id] == 0
    world.engine.scratches = Scratch(is_there=False, state=VerificationState.FAILED, reason=SnapshotReason.LOST)
    for made in (first, second):
        await world.verifies(made, "LOST")
