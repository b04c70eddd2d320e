"""The contract of snapshots through the real gRPC server, over an engine that takes none: they stay as they were asked for."""

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox.v1 import snapshot_pb2, snapshot_pb2_grpc
from sandbox_client import AsyncClient, errors
from sandbox_server import app, engines, store
from sandbox_server.domain.event import OBSERVED
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Key, VolumeStatus
from sandbox_server.domain.snapshot import SnapshotReason, State
from sandbox_server.settings import Settings

from tests.support.blind import BlindEngine
from tests.support.waiting import PATIENCE

WITHIN = 10 * PATIENCE


class Engine(BlindEngine):
    """Says of snapshots what a test tells it."""

    missing: str | Exception = ""

    async def snapshots_missing(self, namespace: str) -> str:
        if isinstance(self.missing, Exception):
            raise self.missing
        return self.missing


class Rig:
    """A service without a keeper, which this plays."""

    def __init__(self, running: app.Service, engine: Engine, client: AsyncClient) -> None:
        self.running = running
        self.engine = engine
        self.client = client

    async def sandbox(self, sandbox_id: str = "a", disk: bool = True, **options: Any) -> pb.Sandbox:
        """Creates a sandbox, with a disk as if its engine had made it."""
        made = await self.client.create("demo", sandbox_id=sandbox_id, **options)
        if disk:
            volume = VolumeStatus(name="a", size="7Gi", bound=True)
            await self.change(made, volume_uid=f"disk-{sandbox_id}", status={"volume": volume})
        return made

    async def change(self, sandbox: pb.Sandbox, status: dict[str, Any], **changes: Any) -> None:
        """Records what became of a sandbox."""

        def write(reader: store.Reader) -> store.Write:
            last = reader.last(Key(sandbox.namespace, sandbox.sandbox_id))
            assert last is not None
            value = dataclasses.replace(last.sandbox, status=dataclasses.replace(last.sandbox.status, **status))
            return store.Write(dataclasses.replace(value, **changes), last.sequence, OBSERVED)

        await self.running.store.write(write)

    async def become(self, snapshot: snapshot_pb2.Snapshot, state: State) -> None:
        """Records what became of a snapshot."""
        log = self.running.snapshots
        last = await log.last(Key(snapshot.namespace, snapshot.snapshot_id))
        assert last is not None
        changed = dataclasses.replace(last.snapshot, state=state, reason=SnapshotReason(state.value))
        await log.save(changed, last.sequence, 1)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    settings = Settings(
        listen="127.0.0.1:0", data_dir=tmp_path, heartbeat=0.2, snapshots_per_tenant=3, namespaces="default,second"
    )
    engine: Any = Engine()
    async with app.service(settings, engine=engine) as running, AsyncClient(f"127.0.0.1:{running.port}") as client:
        yield Rig(running, engine, client)


@pytest.fixture
async def stub(rig: Rig) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.running.port}") as channel:
        yield snapshot_pb2_grpc.SnapshotServiceStub(channel)


def ids(found: Iterable[Any]) -> list[str]:
    return [one.snapshot_id for one in found]


@pytest.mark.slow
async def test_snapshot_is_recorded_of_the_disk_as_it_is(rig: Rig) -> None:
    sandbox = await rig.sandbox()
    made = await rig.client.create_snapshot(sandbox, outlives_sandbox=True, labels={"why": "before"})
    assert made.snapshot_id.startswith("a-snapshot-")
    assert (made.sandbox_id, made.sandbox_uid, made.project, made.size) == ("a", sandbox.uid, "demo", "7Gi")
    assert (made.state, made.reason) == (snapshot_pb2.SNAPSHOT_STATE_CREATING, snapshot_pb2.SNAPSHOT_REASON_ACCEPTED)
    assert (made.remedy, made.outlives_sandbox, dict(made.labels)) == (pb.REMEDY_WAIT, True, {"why": "before"})
    assert made.consistency == snapshot_pb2.CONSISTENCY_CRASH
    assert not made.HasField("ready_time")
    assert await rig.client.get_snapshot(made) == made
    assert [one async for one in rig.client.snapshots()] == [made]


@pytest.mark.slow
async def test_a_request_takes_effect_once_whatever_became_of_the_snapshot(rig: Rig) -> None:
    sandbox = await rig.sandbox()
    request_id = str(uuid.uuid4())
    made = await rig.client.create_snapshot(sandbox, request_id=request_id)
    await rig.become(made, State.READY)
    rig.engine.missing = "no more snapshots here"
    again = await rig.client.create_snapshot(sandbox, request_id=request_id.upper())
    assert (again.uid, again.state) == (made.uid, snapshot_pb2.SNAPSHOT_STATE_READY)
    for call in (
        rig.client.create_snapshot(sandbox, request_id=request_id, labels={"a": "b"}),
        rig.client.delete_snapshot(made, request_id=request_id),
        rig.client.stop(sandbox, request_id=request_id),
    ):
        with pytest.raises(errors.InvalidArgument) as refused:
            await call
        assert refused.value.reason == "REQUEST_ID_REUSED"
    gone = await rig.client.delete_snapshot(made)
    assert gone.state == snapshot_pb2.SNAPSHOT_STATE_DELETING
    assert await rig.client.delete_snapshot(made) == gone


@pytest.mark.slow
async def test_what_cannot_be_is_refused_at_once(rig: Rig) -> None:
    bare = await rig.sandbox("bare", disk=False)
    sandbox = await rig.sandbox()

    async def refused(sandbox: Any, **options: Any) -> str:
        with pytest.raises(errors.ServiceError) as caught:
            await rig.client.create_snapshot(sandbox, **options)
        return caught.value.reason

    assert await refused("nobody") == "SANDBOX_NOT_FOUND"
    assert await refused(bare) == "NO_DISK"
    assert await refused(sandbox, stopped=True) == "SANDBOX_NOT_STOPPED"
    stopped = await rig.client.stop(sandbox)
    assert await refused(sandbox, stopped=True) == "SANDBOX_NOT_STOPPED"
    await rig.change(stopped, status={"phase": Phase.STOPPED, "reason": Reason.POD_GONE})
    made = await rig.client.create_snapshot(sandbox, stopped=True, snapshot_id="nap")
    assert made.consistency == snapshot_pb2.CONSISTENCY_STOPPED
    assert await refused(sandbox, snapshot_id="nap") == "SNAPSHOT_EXISTS"
    rig.engine.missing = "the cluster has no snapshots: ask its operators"
    assert await refused(sandbox) == "SNAPSHOTS_UNSUPPORTED"
    rig.engine.missing = engines.Unreachable("silence")
    assert (await rig.client.create_snapshot(sandbox)).snapshot_id
    await rig.client.delete(sandbox)
    assert await refused(sandbox) == "SANDBOX_DELETED"


@pytest.mark.slow
async def test_a_tenant_has_as_many_snapshots_as_it_may(rig: Rig) -> None:
    sandbox = await rig.sandbox()
    first, *_ = [await rig.client.create_snapshot(sandbox) for _ in range(3)]
    with pytest.raises(errors.ServiceError) as refused:
        await rig.client.create_snapshot(sandbox)
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_SNAPSHOTS")
    assert refused.value.facts["limit"] == "3"
    await rig.client.delete_snapshot(first)
    await rig.become(first, State.DELETED)
    assert (await rig.client.create_snapshot(sandbox)).state == snapshot_pb2.SNAPSHOT_STATE_CREATING


@pytest.mark.slow
async def test_lists_select_and_page(rig: Rig) -> None:
    a, b = await rig.sandbox("a"), await rig.sandbox("b")
    first = await rig.client.create_snapshot(a, snapshot_id="x", labels={"tier": "web"})
    await rig.client.create_snapshot(b, snapshot_id="y")
    await rig.client.create_snapshot(a, snapshot_id="z")
    await rig.client.delete_snapshot(first)
    await rig.become(first, State.DELETED)

    async def listed(*arguments: Any, **options: Any) -> list[str]:
        return [one.snapshot_id async for one in rig.client.snapshots(*arguments, **options)]

    assert await listed() == ["y", "z"]
    assert await listed("a") == ["z"]
    assert await listed("a", states=["deleted", "CREATING"]) == ["x", "z"]
    assert await listed(label_selector="tier=web", states=["DELETED"]) == ["x"]
    assert await listed(project="other") == await listed(namespace="second") == await listed(tenant="other") == []
    page = await rig.client.snapshots_page(page_size=1)
    assert (ids(page.snapshots), page.sequence) == (["y"], 5)
    following = await rig.client.snapshots_page(page_size=1, page_token=page.next_page_token)
    assert (ids(following.snapshots), following.next_page_token) == (["z"], "")


@pytest.mark.slow
async def test_watch_has_what_there_is_then_every_event_and_resumes_without_a_gap(rig: Rig, stub: Any) -> None:
    sandbox = await rig.sandbox()
    made = await rig.client.create_snapshot(sandbox, snapshot_id="x")
    call = stub.WatchSnapshots(snapshot_pb2.WatchSnapshotsRequest(), timeout=WITHIN)
    present, complete = await call.read(), await call.read()
    assert present.snapshot == made
    assert (complete.sequence, complete.complete.count, complete.complete.heartbeat_seconds) == (1, 1, 0.2)
    assert (await call.read()).WhichOneof("event") == "heartbeat"
    await rig.become(made, State.READY)
    while (event := await call.read()).WhichOneof("event") == "heartbeat":
        assert event.sequence == 1
    assert (event.sequence, event.snapshot.state) == (2, snapshot_pb2.SNAPSHOT_STATE_READY)
    call.cancel()
    await rig.client.delete_snapshot(made)
    await rig.become(made, State.DELETED)
    one = snapshot_pb2.WatchSnapshotsRequest(snapshot_id="x", after_sequence=1)
    resumed = [message async for message in stub.WatchSnapshots(one, timeout=WITHIN) if message.HasField("snapshot")]
    assert [(message.sequence, message.snapshot.state) for message in resumed] == [(2, 2), (3, 4), (4, 5)]
    after_the_end = snapshot_pb2.WatchSnapshotsRequest(snapshot_id="x", after_sequence=4)
    assert [message async for message in stub.WatchSnapshots(after_the_end, timeout=WITHIN)] == []
    quiet = stub.WatchSnapshots(snapshot_pb2.WatchSnapshotsRequest(after_sequence=4), timeout=WITHIN)
    assert (await quiet.read()).WhichOneof("event") == "heartbeat"
    quiet.cancel()


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"after_sequence": 9}, grpc.StatusCode.OUT_OF_RANGE),
        ({"snapshot_id": "nobody"}, grpc.StatusCode.NOT_FOUND),
        ({"snapshot_id": "x", "namespace": "of-others"}, grpc.StatusCode.NOT_FOUND),
    ],
)
@pytest.mark.slow
async def test_watch_that_cannot_be_is_refused(stub: Any, asked: dict[str, Any], code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.WatchSnapshots(snapshot_pb2.WatchSnapshotsRequest(**asked), timeout=WITHIN).read()
    assert refused.value.code() is code


@pytest.mark.slow
async def test_many_watches_see_what_they_select_and_no_more(rig: Rig, stub: Any) -> None:
    a, b = await rig.sandbox("a"), await rig.sandbox("b")

    began: list[dict[str, str]] = []

    async def first(**asked: str) -> str:
        request = snapshot_pb2.WatchSnapshotsRequest(**asked)
        call = stub.WatchSnapshots(request, timeout=WITHIN)
        assert (await call.read()).complete.count == 0
        began.append(asked)
        while (message := await call.read()).WhichOneof("event") == "heartbeat":
            pass
        call.cancel()
        return str(message.snapshot.snapshot_id)

    watches = [asyncio.create_task(first(sandbox_id=one)) for one in ("a", "b") for _ in range(5)]
    labelled = asyncio.create_task(first(label_selector="tier"))
    async with asyncio.timeout(WITHIN):
        while len(began) < len(watches) + 1:
            await asyncio.sleep(0.01)
    await rig.client.create_snapshot(a, snapshot_id="of-a")
    await rig.client.create_snapshot(b, snapshot_id="of-b", labels={"tier": "web"})
    assert await asyncio.gather(*watches) == ["of-a"] * 5 + ["of-b"] * 5
    assert await labelled == "of-b"


@pytest.mark.slow
async def test_sandbox_is_created_from_a_snapshot_that_is_ready(rig: Rig) -> None:
    snapshot = await rig.client.create_snapshot(await rig.sandbox(), snapshot_id="x")
    with pytest.raises(errors.FailedPrecondition) as early:
        await rig.client.create("other", snapshot_id="x")
    assert (early.value.reason, early.value.facts["state"]) == ("SNAPSHOT_NOT_READY", "SNAPSHOT_STATE_CREATING")
    await rig.become(snapshot, State.READY)
    made = await rig.client.create("other", snapshot_id="x", env={"A": "1"})
    assert (made.spec.storage.size, made.spec.project, list(made.env_names)) == ("7Gi", "other", ["A"])
    assert made.origin == pb.Origin(sandbox_id="a", namespace="default", snapshot_uid=snapshot.uid)
    assert (await rig.client.create("other", snapshot_id="x", storage="8Gi")).spec.storage.size == "8Gi"
    with pytest.raises(errors.InvalidArgument) as small:
        await rig.client.create("other", snapshot_id="x", storage="6Gi")
    assert list(small.value.fields) == ["spec.storage.size"]
    with pytest.raises(errors.InvalidArgument) as both:
        await rig.client.create("other", sandbox_id="a", snapshot_id="x", adopt_volume=True)
    assert list(both.value.fields) == ["adopt_volume"]
    for asked in ({"snapshot_id": "nobody"}, {"snapshot_id": "x", "namespace": "second"}):
        with pytest.raises(errors.NotFound) as unknown:
            await rig.client.create("other", **asked)  # type: ignore[arg-type]
        assert unknown.value.reason == "SNAPSHOT_NOT_FOUND"


async def test_clone_has_the_spec_and_environment_of_its_source_but_for_what_was_asked(rig: Rig) -> None:
    source = await rig.sandbox(env={"A": "1", "B": "2"}, labels={"tier": "web"}, storage="7Gi", command=["sleep", "9"])
    request_id = str(uuid.uuid4())
    options = {"project": "copy", "set": {"C": "3"}, "unset": ["B"], "request_id": request_id}
    made = await rig.client.clone(source, **options)  # type: ignore[arg-type]
    assert (await rig.client.clone(source, **options)).uid == made.uid  # type: ignore[arg-type]
    assert made.origin == pb.Origin(sandbox_id="a", namespace="default")
    assert (made.spec.project, list(made.spec.command), dict(made.spec.labels)) == (
        "copy",
        ["sleep", "9"],
        {"tier": "web"},
    )
    assert list(made.env_names) == ["A", "C"]
    assert await rig.running.store.read(lambda reader: reader.env(Key("default", made.sandbox_id))) == {
        "A": "1",
        "C": "3",
    }
    assert (made.desired_state, made.status.generation) == (pb.DESIRED_STATE_RUNNING, 1)
    named = await rig.client.clone(source, clone_id="b", replace=True, labels={"tier": "test"})
    assert (named.sandbox_id, list(named.env_names), dict(named.spec.labels)) == ("b", [], {"tier": "test"})
    with pytest.raises(errors.AlreadyExists):
        await rig.client.clone(source, clone_id="b")
    with pytest.raises(errors.FailedPrecondition) as bare:
        await rig.client.clone(made)
    assert bare.value.reason == "NO_DISK"
    rig.engine.missing = "nothing can be copied here: ask the operators"
    with pytest.raises(errors.FailedPrecondition) as unsupported:
        await rig.client.clone(source)
    assert unsupported.value.reason == "SNAPSHOTS_UNSUPPORTED"
    parts = {one.name: one for one in (await rig.client.capabilities()).parts}
    assert not parts[pb.PART_NAME_SNAPSHOTS].available
    assert parts[pb.PART_NAME_SNAPSHOTS].message == rig.engine.missing
