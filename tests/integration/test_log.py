"""What the log holds and how it is trimmed, on real SQLite and real PostgreSQL."""

import asyncio
import dataclasses
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from alembic import command
from sandbox_server import store
from sandbox_server.domain import errors, selector
from sandbox_server.domain.event import Cause, Event, Kind
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.store import connection, housekeeping, schema
from sqlmodel import SQLModel

from tests.support import samples
from tests.support.opened import Opened
from tests.support.variants import some

LARGE = ("x" * 32_768,) * 8
NAMES = tuple(f"VARIABLE_{number:04}" for number in range(1000))
DAY = timedelta(days=1)


@pytest.fixture
async def opened(database_url: str) -> AsyncIterator[Opened]:
    made = Opened(database_url)
    await made.store.open(made.committed.extend)
    yield made
    await made.store.close()


def run(url: str, *statements: sa.Executable | str) -> list[Any]:
    """Runs statements beside the store; returns the rows of the last."""
    engine = connection.connect(url, writes=True, busy_timeout=5)
    found: list[Any] = []
    with engine.begin() as raw:
        for one in statements:
            result = raw.execute(sa.text(one) if isinstance(one, str) else one)
            found = list(result.all()) if result.returns_rows else []
    engine.dispose()
    return found


def count(url: str, table: str) -> int:
    return int(run(url, f"SELECT count(*) FROM {table}")[0][0])


def log_bytes(url: str) -> int:
    """Bytes of all documents of the log."""
    tables = "SELECT document FROM status_event UNION ALL SELECT document FROM part"
    return int(run(url, f"SELECT sum(length(document)) FROM ({tables}) AS found")[0][0])


async def age(url: str, until: int) -> None:
    """Makes the entries up to a sequence, and all requests, two days old."""
    old = datetime.now(UTC) - 2 * DAY
    events, requests = (SQLModel.metadata.tables[name] for name in ("status_event", "request"))
    run(
        url,
        sa.update(events).where(events.c.sequence <= until).values(at=old),
        sa.update(requests).values(created_at=old),
    )


def yesterday() -> datetime:
    return datetime.now(UTC) - DAY


def terminated(last: Event, reason: Reason = Reason.DELETED) -> Event:
    status = samples.status(phase=Phase.TERMINATED, reason=reason)
    return samples.changed(last, status=status, desired=DesiredState.DELETED)


@pytest.mark.find(34)
@pytest.mark.slow
async def test_a_hundred_updates_of_a_large_sandbox_write_its_spec_and_names_once(opened: Opened) -> None:
    made = await opened.insert(samples.sandbox(spec=samples.spec(args=LARGE), env_names=NAMES), {})
    once = log_bytes(opened.url)
    assert 256 * 1024 < once < 300 * 1024
    for number in range(100):
        changed = samples.mutated(made, status=samples.status(message=f"update {number}"))
        made = await opened.store.write(lambda _, changed=changed: samples.write(changed, {"A": "1"}))
    assert log_bytes(opened.url) < once + 100 * 2048
    assert await opened.store.events(0, 500) == opened.committed
    assert await opened.store.read(lambda reader: reader.last(made.sandbox.key)) == made
    assert await opened.store.load() == (101, [made])


@pytest.mark.find(34)
async def test_each_entry_has_the_spec_and_the_names_of_its_time(opened: Opened) -> None:
    last = await opened.insert(samples.sandbox(env_names=("A",)))
    changes: list[dict[str, Any]] = [
        {},
        {"env_names": ("A", "B")},
        {"spec": samples.spec(image="registry.example/sandbox:2")},
        {"env_names": ()},
        {"env_names": ("A",), "spec": samples.spec()},
    ]
    for change in changes:
        last = await opened.update(samples.mutated(last, **change))
    await opened.update(terminated(last))
    await opened.insert(samples.sandbox(spec=samples.spec(args=("another",)), env_names=("C",)))
    assert await opened.store.events(0, 100) == opened.committed
    # The same in one transaction, where nothing is read back in between.
    written = await asyncio.gather(
        *(
            opened.store.write(
                lambda reader, names=(f"N{number}",): samples.write(
                    samples.mutated(reader.last(last.sandbox.key), env_names=names)  # type: ignore[arg-type]
                )
            )
            for number in range(3)
        )
    )
    assert await opened.store.events(0, 100) == opened.committed
    assert await opened.store.read(lambda reader: reader.last(last.sandbox.key)) == written[-1]


@pytest.mark.find(34)
async def test_a_change_of_the_status_writes_neither_the_environment_nor_the_spec_again(tmp_path: Path) -> None:
    opened = Opened(f"sqlite:///{tmp_path}/a.db")
    await opened.store.open(opened.committed.extend)
    made = await opened.insert(samples.sandbox(spec=samples.spec(args=LARGE)), {"A": "x" * 500_000})
    phases = (Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.ERROR)
    before = written()
    for phase in phases * 5:
        made = await opened.update(samples.mutated(made, status=samples.status(phase=phase)))
    assert written() - before < 20 * 100_000
    assert await opened.store.read(lambda reader: len(reader.env(made.sandbox.key)["A"])) == 500_000
    await opened.store.close()


def written() -> int:
    """Bytes that this process has written to files."""
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])


@pytest.mark.find(34)
async def test_entries_in_memory_share_their_spec(opened: Opened) -> None:
    made = await opened.insert(samples.sandbox(spec=samples.spec(args=LARGE)))
    for _ in range(5):
        made = await opened.update(samples.mutated(made))
    opened.committed.clear()
    gc.collect()
    found = await opened.store.events(0, 100) + (await opened.store.load())[1]
    assert len(found) == 7
    assert len({id(one.sandbox.spec) for one in found}) == 1


def first_release(url: str, *events: Event) -> None:
    """Makes a database of the first release with the entries of its log; the last of each sandbox is in its row."""
    engine = connection.connect(url, writes=True, busy_timeout=5)
    with engine.begin() as raw:
        command.upgrade(schema.config(raw), "first")
        for event in events:
            one = event.sandbox
            document = msgspec.json.encode(one).decode()
            raw.execute(
                sa.text(
                    "INSERT INTO status_event (sequence, namespace, sandbox_id, tenant, document) VALUES (:s, :n, :i, :t, :d)"
                ),
                {"s": event.sequence, "n": one.namespace, "i": one.id, "t": one.tenant, "d": document},
            )
            raw.execute(sa.text("DELETE FROM sandbox WHERE id = :i"), {"i": one.id})
            values = {"namespace": one.namespace, "id": one.id, "uid": one.uid, "host": one.host, "tenant": one.tenant}
            values |= {"project": one.spec.project, "k8s_deployment_name": one.id, "desired": one.desired.name}
            values |= {"phase": one.status.phase.name}
            numbers = {"generation": one.generation, "sequence": event.sequence}
            env = store.Cipher([b"k" * 32]).encrypt({"A": "1"}, one.uid)
            names = [*values, *numbers, "env"]
            raw.execute(
                sa.text(f"INSERT INTO sandbox ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"),
                {**values, **numbers, "env": env},
            )
        raw.execute(sa.text("UPDATE watch_log SET last_sequence = :s"), {"s": events[-1].sequence})
    engine.dispose()


@pytest.mark.find(34)
@pytest.mark.slow
async def test_a_database_of_the_first_release_is_read_and_changed_after_its_migration(empty_database_url: str) -> None:
    labelled = samples.spec(args=LARGE, labels={"a": "1"})
    # No release stored causes then: the reason shows that it was a mutation.
    accepted = Cause(Kind.MUTATION, "default")
    first = samples.event(samples.sandbox("a", spec=labelled, env_names=("A",)), 1, accepted)
    other = samples.event(samples.sandbox("b"), 2, accepted)
    second = dataclasses.replace(samples.mutated(first), sequence=3)
    ended = terminated(samples.event(samples.sandbox("c", spec=labelled), 4))
    first_release(empty_database_url, first, other, second, ended)
    with pytest.raises(store.SchemaMismatch, match="sandbox-server migrate"):
        schema.check(empty_database_url)
    store.migrate(empty_database_url)
    opened = Opened(empty_database_url)
    await opened.store.open(opened.committed.extend)
    assert await opened.store.events(0, 100) == [first, other, second, ended]
    assert (
        await opened.store.read(lambda reader: [reader.env(one.sandbox.key) for one in (first, ended)])
        == [{"A": "1"}] * 2
    )
    sequence, live = await opened.store.load()
    assert (sequence, sorted(one.sandbox.id for one in live)) == (4, ["a", "b"])
    selection = store.Search(
        "default", frozenset({"default"}), frozenset(Phase), labels=selector.parse("labels", "a in (1,2)")
    )
    assert await opened.store.read(lambda reader: [*reader.search(selection, None)]) == [second, ended]
    third = await opened.update(samples.mutated(second))
    fourth = await opened.update(samples.mutated(third))
    assert await opened.store.events(0, 100) == [first, other, second, ended, third, fourth]
    assert await opened.store.read(lambda reader: [*reader.search(selection, None)]) == [fourth, ended]
    assert count(empty_database_url, "part") == 2
    await age(empty_database_url, 6)
    await opened.store.trim(yesterday())
    assert sorted((await opened.store.load())[1], key=lambda one: one.sandbox.id) == [fourth, other]
    assert [count(empty_database_url, one) for one in ("status_event", "part", "environment")] == [2, 2, 2]
    await opened.store.close()


@pytest.mark.find(34)
async def test_parts_go_with_the_last_entry_that_has_them(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "PAGE", 2)
    ended = await opened.insert(samples.sandbox("ended"))
    await opened.update(terminated(ended))
    kept = await opened.insert(samples.sandbox("kept"))
    await opened.update(terminated(kept, Reason.VOLUME_KEPT))
    live = await opened.insert(samples.sandbox("live", env_names=("A",)))
    live = await opened.update(samples.mutated(live, env_names=("B",)))
    again = await opened.insert(samples.sandbox("again"))
    await opened.update(terminated(again))
    again = await opened.insert(samples.sandbox("again"))
    assert count(opened.url, "part") == 11
    await age(opened.url, 9)
    await opened.store.trim(yesterday())
    assert count(opened.url, "status_event") == 3
    assert count(opened.url, "part") == 6
    assert await opened.store.read(lambda reader: [reader.last(one.sandbox.key) for one in (live, again, ended)]) == [
        live,
        again,
        None,
    ]
    # What was kept as the last entry goes when it is not the last any more.
    live = await opened.update(samples.mutated(live, env_names=("C",)))
    assert count(opened.url, "status_event") == 3
    assert await opened.store.events(9, 10) == [live]
    await age(opened.url, 10)
    await opened.store.trim(yesterday())
    assert [count(opened.url, one) for one in ("status_event", "part", "environment")] == [3, 6, 3]


@pytest.mark.find(32)
@pytest.mark.parametrize("entries", some([0, 1, 4, 5, 9, 10, 11], 0, 3, 4))
async def test_a_trim_ends_where_the_old_entries_end(
    opened: Opened, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "PAGE", 5)
    busy = await opened.insert(samples.sandbox("busy"))
    for _ in range(10):
        busy = await opened.update(samples.mutated(busy))
    await age(opened.url, entries)
    await opened.store.trim(yesterday())
    assert [one.sequence for one in await opened.store.events(entries, 100)] == list(range(entries + 1, 12))
    if entries:
        with pytest.raises(errors.OutOfRange):
            await opened.store.events(entries - 1, 100)
    assert count(opened.url, "status_event") == max(11 - entries, 1)
    assert await opened.store.load() == (11, [busy])


@pytest.mark.find(32)
async def test_requests_are_forgotten_in_pages(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "PAGE", 3)
    made = await opened.insert(samples.sandbox())
    for number in range(7):
        await opened.store.write(lambda _: samples.write(made), store.Request("default", f"r{number}", b""))
    await age(opened.url, 0)
    await opened.store.write(lambda _: samples.write(made), store.Request("default", "new", b""))
    await opened.store.trim(yesterday())
    assert run(opened.url, "SELECT request_id FROM request") == [("new",)]


@pytest.mark.find(32)
@pytest.mark.slow
async def test_writes_go_between_the_pages_of_a_trim(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "PAGE", 5)
    made = await opened.insert(samples.sandbox())
    for _ in range(99):
        made = await opened.update(samples.mutated(made))
    await age(opened.url, 100)
    trim = asyncio.create_task(opened.store.trim(yesterday()))
    trimmed = []
    while not trim.done():
        made = await opened.update(samples.mutated(made))
        trimmed.append(run(opened.url, "SELECT trimmed_sequence FROM watch_log")[0][0])
    await trim
    assert len(set(trimmed)) >= 10
    assert await opened.store.load() == (made.sequence, [made])
    assert [one.sequence for one in await opened.store.events(100, 500)] == list(range(101, made.sequence + 1))


@pytest.mark.find(32)
def test_no_statement_of_a_trim_scans_a_table(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    schema.check(url)
    engine = connection.connect(url, writes=True, busy_timeout=1)
    plans: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def _explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith("EXPLAIN"):
            rows = cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans.extend(f"{detail} [{statement}]" for *_, detail in rows)

    with engine.begin() as raw:
        raw.execute(
            sa.text(
                "INSERT INTO status_event (sequence, namespace, sandbox_id, tenant, at, document) VALUES (1, '', '', '', '2020-01-01', '')"
            )
        )
        assert not housekeeping.trim_history(raw, yesterday())
        assert not housekeeping.trim_requests(raw, yesterday())
    engine.dispose()
    assert len(plans) > 8
    assert [one for one in plans if one.startswith("SCAN") and not one.startswith("SCAN watch_log")] == []


@pytest.mark.find(32)
async def test_environments_are_encrypted_again_in_pages(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "ENVIRONMENTS", 2)
    made = [await opened.insert(samples.sandbox(f"demo-{number}"), {"A": str(number)}) for number in range(5)]
    newer = Opened(opened.url, store.Cipher([b"n" * 32, b"k" * 32]))
    await newer.store.open(newer.committed.extend)
    await newer.insert(samples.sandbox("new"), {})
    assert await newer.store.reencrypt() == 5
    assert await newer.store.reencrypt() == 0
    for number, one in enumerate(made):
        assert await newer.store.read(lambda reader, one=one: reader.env(one.sandbox.key)) == {"A": str(number)}
    await newer.store.close()
