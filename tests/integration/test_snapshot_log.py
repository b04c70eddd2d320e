"""The log of snapshots on real SQLite and real PostgreSQL."""

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sandbox_server import feed, store
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import (
    Contents,
    Snapshot,
    SnapshotEvent,
    SnapshotReason,
    State,
    Verification,
    VerificationState,
)
from sandbox_server.store import connection, snapshot_documents

from tests.support import samples
from tests.support.opened import Opened
from tests.support.variants import BOTH_DATABASES

REQUEST = store.Request("default", "r1", b"payload")
NAPPED = Key("default", "nap")
DEMO = Key("default", "demo-1")


class Log:
    """A store with its log of snapshots, and the events that a listener heard."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.log = feed.Snapshots(opened.store, Pace())
        self.heard: list[SnapshotEvent] = []
        self.log.on_event(self.heard.append)

    async def save(
        self, snapshot: Snapshot, decided_on: int = 0, request: store.Request | None = None
    ) -> SnapshotEvent:
        return await self.log.write(lambda _: store.SnapshotWrite(snapshot, decided_on), request)

    async def events(self) -> list[SnapshotEvent]:
        """All events of the log."""
        await self.log.follow()
        return await self.log.events(0, 9)

    async def change(self, event: SnapshotEvent, **changes: Any) -> SnapshotEvent:
        return await self.save(dataclasses.replace(event.snapshot, **changes), event.sequence)


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Log]:
    opened = Opened(database_url)
    await opened.store.open(opened.committed.extend)
    made = Log(opened)
    await made.log.load()
    yield made
    made.log.close()
    await opened.store.close()


@BOTH_DATABASES
async def test_what_is_recorded_is_read_back_the_same_and_heard_in_order(log: Log) -> None:
    made = await log.save(
        samples.snapshot(labels={"a": "ü"}, start_generation=3, storage_class="fast", access_mode="ReadWriteMany")
    )
    ready = await log.change(made, state=State.READY, ready_time=samples.NOW, used_bytes=1 << 40)
    assert (made.sequence, ready.sequence) == (1, 2)
    assert await log.log.last(NAPPED) == ready
    assert await log.log.live() == await log.log.live(["default"]) == [ready]
    assert await log.log.live(["elsewhere"]) == []
    assert await log.events() == log.heard == [made, ready]


@BOTH_DATABASES
async def test_snapshots_leave_the_log_of_sandboxes_alone(log: Log) -> None:
    sandbox = await log.opened.insert(samples.sandbox())
    await log.save(samples.snapshot())
    changed = await log.opened.update(samples.changed(sandbox, status=samples.status(restart_count=1)))
    assert (changed.sequence, await log.opened.store.load()) == (2, (2, [changed]))
    assert [one.sequence for one in await log.events()] == [1]


@BOTH_DATABASES
async def test_a_write_that_was_decided_on_an_older_event_is_stale(log: Log) -> None:
    made = await log.save(samples.snapshot())
    await log.change(made, state=State.READY)
    with pytest.raises(store.Stale):
        await log.change(made, state=State.FAILED)
    with pytest.raises(store.Stale):
        await log.save(samples.snapshot(uid="another"))
    assert [one.snapshot.state for one in await log.events()] == [State.CREATING, State.READY]


@BOTH_DATABASES
async def test_what_changes_nothing_is_no_event(log: Log) -> None:
    made = await log.save(samples.snapshot())
    assert await log.save(made.snapshot, made.sequence) == made
    assert await log.events() == [made]


@BOTH_DATABASES
async def test_a_request_takes_effect_once_and_its_id_names_nothing_else(log: Log) -> None:
    made = await log.save(samples.snapshot(), request=REQUEST)
    ready = await log.change(made, state=State.READY)
    assert await log.save(samples.snapshot(uid="another"), request=REQUEST) == ready
    with pytest.raises(errors.Invalid, match="another payload"):
        await log.save(samples.snapshot("other"), request=store.Request("default", "r1", b"other"))
    with pytest.raises(errors.Invalid, match="another payload"):
        await log.opened.store.write(lambda _: samples.new(samples.sandbox()), store.Request("default", "r1", b"other"))
    gone = await log.change(ready, state=State.DELETED)
    following = await log.save(samples.snapshot(uid="second"))
    assert await log.save(samples.snapshot(), request=REQUEST) == made
    assert await log.log.live() == [following]
    assert gone.sequence < following.sequence


@BOTH_DATABASES
@pytest.mark.slow
async def test_a_mutation_reads_sandboxes_and_counts_snapshots(log: Log) -> None:
    sandbox = await log.opened.insert(samples.sandbox())
    seen: list[Any] = []

    def mutation(reader: store.Reader) -> store.SnapshotWrite:
        seen.append((reader.last(DEMO), reader.snapshots.count("default"), reader.snapshots.of_sandbox(DEMO)))
        return store.SnapshotWrite(samples.snapshot(), 0)

    made = await log.log.write(mutation)
    await log.change(made, state=State.READY)
    (ready,) = await log.opened.store.read(lambda reader: reader.snapshots.of_sandbox(DEMO))
    assert seen == [(sandbox, 0, [])]
    assert ready.snapshot.state is State.READY
    assert await log.opened.store.read(lambda reader: reader.snapshots.count("default")) == 1


@BOTH_DATABASES
async def test_trimming_removes_old_events_and_deleted_snapshots_and_says_so(log: Log) -> None:
    ready = await log.change(await log.save(samples.snapshot()), state=State.READY)
    await log.change(await log.save(samples.snapshot("gone", uid="gone")), state=State.DELETED)
    await log.opened.store.trim(datetime.now(UTC) + timedelta(hours=1))
    late = feed.Snapshots(log.opened.store, Pace())
    with pytest.raises(errors.OutOfRange) as refused:
        await late.events(3, 9)
    assert (refused.value.reason, refused.value.facts) == ("HISTORY_TRIMMED", {"first_kept_sequence": "5"})
    assert await log.log.events(4, 9) == []
    assert (await log.log.last(NAPPED), await log.log.last(Key("default", "gone"))) == (ready, None)
    heard: list[SnapshotEvent] = []
    late.on_event(heard.append)
    await late.follow()
    assert (heard, late.sequence) == ([ready], 4)


@BOTH_DATABASES
async def test_what_a_newer_release_has_stored_is_kept(log: Log) -> None:
    made = await log.save(samples.snapshot())
    newer = snapshot_documents.written(made.snapshot, None).replace(
        f'"version":{snapshot_documents.VERSION}', '"version":9,"more":{"a":1}'
    )
    engine = connection.connect(log.opened.url, writes=True, busy_timeout=1)
    with engine.begin() as raw:
        raw.execute(sa.text("UPDATE snapshot SET document = :newer"), {"newer": newer})
    engine.dispose()
    await log.change(made, state=State.FAILED, reason=SnapshotReason(99))
    engine = connection.connect(log.opened.url, writes=False, busy_timeout=1)
    with engine.connect() as raw:
        document = raw.execute(sa.text("SELECT document FROM snapshot")).scalar_one()
    engine.dispose()
    assert '"version":9,"more":{"a":1}' in document
    event = await log.log.last(NAPPED)
    assert event is not None
    assert event.snapshot.reason.value == 99


@BOTH_DATABASES
async def test_search_pages_in_the_order_of_the_keys(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_server.store.snapshot_reader.CHUNK", 2)
    for name in "bca":
        await log.save(samples.snapshot(name, uid=name, labels={"name": name}))
    await log.save(samples.snapshot("of-others", uid="o", tenant="others", namespace="others"))

    async def found(after: Key | None = None, **fields: Any) -> list[str]:
        selection = store.SnapshotSearch(**{"tenant": "default", "namespaces": None} | fields)
        return await log.opened.store.read(
            lambda reader: [one.snapshot.id for one in reader.snapshots.search(selection, after)]
        )

    assert await found() == ["a", "b", "c"]
    assert await found(Key("default", "a")) == ["b", "c"]
    assert await found(tenant="") == ["a", "b", "c", "of-others"]
    assert await found(namespaces=frozenset({"others"})) == []
    assert await found(states=frozenset({State.READY})) == []
    assert await found(sandbox_id="nobody") == await found(project="none") == []


@BOTH_DATABASES
async def test_a_verification_is_read_as_it_was_written(log: Log) -> None:
    contents = Contents(files=1, folders=2, links=3, others=4, bytes=5, sha256="a" * 64)
    verification = Verification(
        state=VerificationState.RUNNING,
        reason=SnapshotReason.CLEARING,
        message="being removed",
        start_time=samples.NOW,
        end_time=samples.NOW,
        result=VerificationState.FAILED,
        result_reason=SnapshotReason.MISMATCH,
        result_message="another",
        contents=contents,
    )
    made = await log.save(samples.snapshot())
    verified = await log.change(made, verification=verification, contents=contents)
    last = await log.log.last(verified.snapshot.key)
    assert last == verified
    assert last.snapshot.verification == verification
    assert (await log.events())[-1] == verified
