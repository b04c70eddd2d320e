"""The store on real SQLite and real PostgreSQL: the same tests on both."""

import asyncio
import base64
import contextlib
import errno
import hashlib
import os
import socket
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sandbox_server import store
from sandbox_server.domain import errors
from sandbox_server.domain.event import OBSERVED, Cause, Event, Kind
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Key
from sandbox_server.store import connection, documents, schema
from sqlmodel import SQLModel

from tests.support import relay, samples
from tests.support.opened import KEY, Opened
from tests.support.variants import BOTH_DATABASES
from tests.support.waiting import PATIENCE

REQUEST = store.Request("default", "r1", b"payload")


def create(_reader: store.Reader) -> store.Write:
    return samples.new(samples.sandbox())


@pytest.fixture
async def opened(database_url: str) -> AsyncIterator[Opened]:
    made = Opened(database_url)
    await made.store.open(made.committed.extend)
    yield made
    await made.store.close()


@BOTH_DATABASES
async def test_what_is_inserted_is_read_back_the_same(opened: Opened) -> None:
    spec = samples.spec(labels={"a": "b"}, command=("x", "y"), annotations={"c": "d\n"})
    made = await opened.insert(samples.sandbox(spec=spec, env_names=("A",)), {"A": "ü\U0001f600"})
    assert await opened.store.read(lambda reader: reader.last(made.sandbox.key)) == made
    assert await opened.store.read(lambda reader: reader.env(made.sandbox.key)) == {"A": "ü\U0001f600"}
    assert await opened.store.load() == (1, [made])
    assert opened.committed == [made]


@BOTH_DATABASES
async def test_a_spec_that_was_committed_is_not_read_again_and_one_that_was_not_is_not_remembered(
    opened: Opened,
) -> None:
    made = await opened.insert(samples.sandbox())
    read = await opened.store.read(lambda reader: reader.last(made.sandbox.key))
    assert read is not None
    assert read.sandbox.spec is made.sandbox.spec
    refused = samples.sandbox("demo-2", host=made.sandbox.host)
    with pytest.raises(store.Stale):
        await opened.insert(refused)
    assert refused.uid not in {uid for uid, _ in documents._SPECS}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_connections_that_have_ended_while_they_were_idle_are_made_again_unnoticed(opened: Opened) -> None:
    await opened.insert(samples.sandbox("demo-1"))
    await opened.store.load()
    url = opened.url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(url, autocommit=True) as admin:
        others = "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE datname = current_database()"
        assert set(admin.execute(f"{others} AND pid <> pg_backend_pid()").fetchall()) == {(True,)}
    made = await opened.insert(samples.sandbox("demo-2"))
    sequence, events = await opened.store.load()
    assert (sequence, events[-1]) == (2, made)


@BOTH_DATABASES
async def test_environment_of_an_event_is_read_until_there_is_a_newer_event(opened: Opened) -> None:
    made = await opened.insert(samples.sandbox(), {"A": "1"})
    assert await opened.store.read(lambda reader: reader.env_of(made)) == {"A": "1"}
    changed = await opened.update(samples.changed(made, status=samples.status(restart_count=1)))
    assert await opened.store.read(lambda reader: reader.env_of(made)) is None
    assert await opened.store.read(lambda reader: reader.env_of(changed)) == {"A": "1"}


@BOTH_DATABASES
async def test_cause_of_an_event_is_stored_with_it(opened: Opened) -> None:
    cause = Cause(Kind.MUTATION, "default", "r1")
    made = await opened.store.write(lambda _: store.Write(samples.sandbox(), 0, cause, {}), REQUEST)
    seen = await opened.update(samples.changed(made, status=samples.status(restart_count=1)))
    assert [one.cause for one in await opened.store.events(0, 2)] == [cause, OBSERVED]
    assert await opened.store.load() == (2, [seen])


@BOTH_DATABASES
async def test_the_column_that_old_queries_read_holds_the_stateful_set_name(opened: Opened) -> None:
    await opened.insert(samples.sandbox("demo-7"))
    engine = connection.connect(opened.url, writes=False, busy_timeout=1)
    with engine.connect() as raw:
        assert raw.execute(sa.text("SELECT k8s_deployment_name FROM sandbox")).scalar() == "demo-7"
    engine.dispose()


@BOTH_DATABASES
async def test_a_taken_id_is_refused_and_a_terminated_one_is_replaced(opened: Opened) -> None:
    first = await opened.insert(samples.sandbox())
    with pytest.raises(store.Stale):
        await opened.insert(samples.sandbox())
    gone = samples.changed(first, status=samples.status(phase=Phase.TERMINATED, reason=Reason.DELETED))
    await opened.update(gone)
    second = await opened.insert(samples.sandbox(), {"B": "2"})
    assert second.sandbox.uid != first.sandbox.uid
    assert (await opened.store.load())[1] == [second]


@BOTH_DATABASES
async def test_former_sandbox_of_a_key_is_found_by_its_uid(opened: Opened) -> None:
    first = await opened.insert(samples.sandbox())
    gone = await opened.update(samples.changed(first, status=samples.status(phase=Phase.TERMINATED)))
    second = await opened.insert(samples.sandbox())
    later = await opened.update(samples.mutated(second))
    key = first.sandbox.key

    async def last_of(uid: str) -> Event | None:
        return await opened.store.read(lambda reader: reader.last_of(key, uid))

    assert await last_of(first.sandbox.uid) == gone
    assert await last_of(second.sandbox.uid) == later
    assert await last_of("another") is None
    assert await opened.store.read(lambda reader: reader.last_of(Key("default", "other"), first.sandbox.uid)) is None


@BOTH_DATABASES
async def test_a_taken_host_asks_for_another(opened: Opened) -> None:
    first = await opened.insert(samples.sandbox())
    with pytest.raises(store.Stale):
        await opened.insert(samples.sandbox("demo-2", host=first.sandbox.host))
    others = [opened.insert(samples.sandbox(f"demo-{number}")) for number in range(3, 9)]
    outcomes = await asyncio.gather(
        opened.insert(samples.sandbox("demo-2", host=first.sandbox.host)), *others, return_exceptions=True
    )
    assert [type(one) for one in outcomes if isinstance(one, Exception)] == [store.Stale]


@BOTH_DATABASES
async def test_an_update_of_an_old_version_is_stale_and_changes_nothing(opened: Opened) -> None:
    first = await opened.insert(samples.sandbox())
    second = await opened.update(samples.mutated(first))
    with pytest.raises(store.Stale):
        await opened.update(samples.mutated(first))
    assert await opened.store.read(lambda reader: reader.last(first.sandbox.key)) == second


@BOTH_DATABASES
@pytest.mark.fault(38)
async def test_three_hundred_read_change_writes_of_one_row_are_all_counted(opened: Opened) -> None:
    made = await opened.insert(samples.sandbox())

    def add(reader: store.Reader) -> store.Write:
        before = reader.last(made.sandbox.key)
        assert before is not None
        env = reader.env(made.sandbox.key)
        return samples.write(samples.mutated(before), {"COUNT": str(int(env.get("COUNT", "0")) + 1)})

    await asyncio.gather(*(opened.store.write(add) for _ in range(300)))
    after = await opened.store.read(lambda reader: reader.last(made.sandbox.key))
    assert after is not None
    assert (after.sandbox.generation, after.sequence) == (301, 301)
    assert await opened.store.read(lambda reader: reader.env(made.sandbox.key)) == {"COUNT": "300"}


@BOTH_DATABASES
async def test_a_refused_change_fails_alone_in_its_group(opened: Opened) -> None:
    def refuse(reader: store.Reader) -> store.Write:
        raise errors.Aborted("TEST", "refused")

    tasks = [opened.insert(samples.sandbox(f"demo-{number}")) for number in range(20)]
    tasks.insert(7, opened.store.write(refuse))
    tasks.insert(9, opened.insert(samples.sandbox("demo-3")))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [one for one in outcomes if isinstance(one, Exception)]
    assert sorted(type(one).__name__ for one in failed) == ["Aborted", "Stale"]
    sequence, live = await opened.store.load()
    assert {one.sandbox.id for one in live} == {f"demo-{number}" for number in range(20)}
    assert [one.sequence for one in opened.committed] == list(range(1, sequence + 1))


@BOTH_DATABASES
@pytest.mark.parametrize("part", ["env", "status"])
async def test_a_change_that_cannot_be_written_fails_alone_in_its_group(opened: Opened, part: str) -> None:
    first = await opened.insert(samples.sandbox("demo-1"), {"A": "1"})
    env = {"A": "\ud800" if part == "env" else "good"}
    bad = samples.mutated(first, status=samples.status(message="\ud800" if part == "status" else "good"))

    def again(reader: store.Reader) -> store.Write:
        before = reader.last(first.sandbox.key)
        assert before == first
        return samples.write(samples.mutated(before), {**reader.env(first.sandbox.key), "B": "2"})

    failed, *others = await asyncio.gather(
        opened.store.write(lambda _: samples.write(bad, env)),
        opened.store.write(again),
        opened.insert(samples.sandbox("demo-2")),
        return_exceptions=True,
    )
    assert isinstance(failed, UnicodeEncodeError)
    assert others == opened.committed[1:]
    assert [one.sequence for one in opened.committed] == [1, 2, 3]
    assert await opened.store.read(lambda reader: reader.env(first.sandbox.key)) == {"A": "1", "B": "2"}


@BOTH_DATABASES
async def test_what_a_caller_keeps_of_a_change_holds_nothing_of_the_connection(opened: Opened) -> None:
    # As the traceback of a refusal does. An open cursor that is released on another thread breaks a write at that time.
    made = await opened.insert(samples.sandbox())
    kept: list[store.Reader] = []

    def refuse(reader: store.Reader) -> store.Write:
        kept.append(reader)
        assert reader.last(made.sandbox.key) == made
        raise errors.Aborted("TEST", "refused")

    with pytest.raises(errors.Aborted):
        await opened.store.write(refuse)
    await opened.store.read(kept.append)
    for reader in kept:
        with pytest.raises(Exception, match="closed"):
            reader.ping()


@BOTH_DATABASES
async def test_the_log_has_every_change_in_order_without_gaps(opened: Opened) -> None:
    for number in range(5):
        made = await opened.insert(samples.sandbox(f"demo-{number}"))
        await opened.update(samples.mutated(made))
    events = await opened.store.events(0, 100)
    assert [one.sequence for one in events] == list(range(1, 11))
    assert events == opened.committed
    assert [one.sequence for one in await opened.store.events(4, 3)] == [5, 6, 7]


@BOTH_DATABASES
@pytest.mark.fault(72)
@pytest.mark.find(29)
async def test_history_of_a_scope_has_its_entries_alone(opened: Opened) -> None:
    for _ in range(3):
        for namespace, tenant in (("a", "first"), ("b", "first"), ("c", "second")):
            for sandbox_id in ("x", "y"):
                key = Key(namespace, sandbox_id)
                before = await opened.store.read(lambda reader, key=key: reader.last(key))  # type: ignore[misc]
                if before is None:
                    spec = samples.spec(project=namespace)
                    await opened.insert(samples.sandbox(sandbox_id, namespace=namespace, tenant=tenant, spec=spec))
                else:
                    await opened.update(samples.mutated(before))
    scopes = {
        "tenant": (store.Scope("first"), lambda one: one.sandbox.tenant == "first"),
        "project": (store.Scope("first", project="b"), lambda one: one.sandbox.key.namespace == "b"),
        "no project": (store.Scope("first", project="c"), lambda _: False),
        "one": (store.Scope("first", frozenset({Key("a", "x")})), lambda one: one.sandbox.key == Key("a", "x")),
        "some": (
            store.Scope("first", frozenset({Key("a", "x"), Key("b", "y"), Key("b", "none")})),
            lambda one: one.sandbox.key in (Key("a", "x"), Key("b", "y")),
        ),
        "none": (store.Scope("first", frozenset({Key("a", "none")})), lambda _: False),
        "nobody": (store.Scope("third"), lambda _: False),
    }
    for scope, concerned in scopes.values():
        for after, until, most in ((0, 18, 100), (0, 18, 2), (3, 18, 100), (3, 9, 100), (18, 18, 100)):
            expected = [one for one in opened.committed if after < one.sequence <= until and concerned(one)][:most]
            assert list(await opened.store.history(scope, after, until, most)) == expected
    await opened.store.trim(datetime.now(UTC) + timedelta(days=1))
    for scope, _ in scopes.values():
        with pytest.raises(errors.OutOfRange):
            await opened.store.history(scope, 17, 18, 100)


@BOTH_DATABASES
async def test_trimmed_history_is_out_of_range(opened: Opened) -> None:
    await opened.insert(samples.sandbox("demo-1"))
    await opened.insert(samples.sandbox("demo-2"))
    past = datetime.now(UTC) - timedelta(days=1)
    await opened.store.trim(past)
    assert len(await opened.store.events(0, 10)) == 2
    future = datetime.now(UTC) + timedelta(days=1)
    await opened.store.trim(future)
    with pytest.raises(errors.OutOfRange):
        await opened.store.events(1, 10)
    assert await opened.store.events(2, 10) == []
    assert {one.sandbox.id for one in (await opened.store.load())[1]} == {"demo-1", "demo-2"}
    third = await opened.insert(samples.sandbox("demo-3"))
    assert await opened.store.events(2, 10) == [third]


@BOTH_DATABASES
async def test_what_was_trimmed_stays_out_of_range_when_nothing_more_is_trimmed(opened: Opened) -> None:
    # The last entry of a sandbox that did not change for long is kept, and is the newest of the old ones from then on.
    await opened.insert(samples.sandbox("still"))
    busy = await opened.insert(samples.sandbox("busy"))
    busy = await opened.update(samples.mutated(busy))
    engine = connection.connect(opened.url, writes=True, busy_timeout=1)
    with engine.begin() as raw:
        events = SQLModel.metadata.tables["status_event"]
        raw.execute(sa.update(events).values(at=datetime.now(UTC) - timedelta(days=2)))
    engine.dispose()
    last = await opened.update(samples.mutated(busy))
    for _ in range(2):
        await opened.store.trim(datetime.now(UTC) - timedelta(days=1))
        with pytest.raises(errors.OutOfRange):
            await opened.store.events(2, 10)
        assert await opened.store.events(3, 10) == [last]


@BOTH_DATABASES
async def test_a_read_is_as_of_one_moment(opened: Opened) -> None:
    made = await opened.insert(samples.sandbox(), {"A": "1"})
    begun, changed = threading.Event(), threading.Event()

    def query(reader: store.Reader) -> tuple[Event | None, dict[str, str], list[Event]]:
        before = reader.last(made.sandbox.key)
        begun.set()
        assert changed.wait(10 * PATIENCE)
        return before, reader.env(made.sandbox.key), reader.events(0, 10)

    reading = asyncio.create_task(opened.store.read(query))
    assert await asyncio.to_thread(begun.wait, 10 * PATIENCE)
    await opened.store.write(lambda _: samples.write(samples.mutated(made), {"A": "2"}))
    await opened.store.trim(datetime.now(UTC) + timedelta(days=1))
    changed.set()
    assert await reading == (made, {"A": "1"}, [made])
    with pytest.raises(errors.OutOfRange):
        await opened.store.events(0, 10)


@BOTH_DATABASES
async def test_ended_sandbox_is_removed_with_the_history_unless_its_volume_is_kept(opened: Opened) -> None:
    ends = {"deleted": Reason.DELETED, "kept": Reason.VOLUME_KEPT, "live": None}
    for name, reason in ends.items():
        made = await opened.insert(samples.sandbox(name))
        if reason is not None:
            status = samples.status(phase=Phase.TERMINATED, reason=reason)
            await opened.update(samples.changed(made, status=status, desired=DesiredState.DELETED))

    async def known() -> set[str]:
        found = await opened.store.read(lambda reader: [reader.last(samples.sandbox(one).key) for one in ends])
        return {one.sandbox.id for one in found if one is not None}

    await opened.store.trim(datetime.now(UTC) - timedelta(days=1))
    assert await known() == set(ends)
    await opened.store.trim(datetime.now(UTC) + timedelta(days=1))
    assert await known() == {"kept", "live"}
    again = await opened.insert(samples.sandbox("deleted"))
    assert again.sequence == 6


@BOTH_DATABASES
async def test_requests_are_remembered_in_the_same_commit(opened: Opened) -> None:
    answers = await asyncio.gather(*(opened.store.write(create, REQUEST) for _ in range(50)))
    assert len({one.sandbox.uid for one in answers}) == 1
    assert await opened.store.write(create, REQUEST) == answers[0]
    with pytest.raises(errors.Invalid) as caught:
        await opened.store.write(create, store.Request("default", "r1", b"other"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(store.Stale):
        await opened.store.write(create, store.Request("another", "r1", b"payload"))
    assert len(opened.committed) == 1


@BOTH_DATABASES
async def test_a_request_that_changed_nothing_is_remembered_too(opened: Opened) -> None:
    made = await opened.insert(samples.sandbox())
    assert await opened.store.write(lambda _: samples.write(made), REQUEST) == made
    later = await opened.update(samples.mutated(made))
    assert await opened.store.write(lambda _: samples.write(samples.mutated(later)), REQUEST) == later
    assert len(opened.committed) == 2


@BOTH_DATABASES
async def test_a_repeat_is_answered_with_its_own_sandbox_though_another_has_its_id_now(opened: Opened) -> None:
    first = await opened.store.write(create, REQUEST)
    gone = samples.changed(first, status=samples.status(phase=Phase.TERMINATED, reason=Reason.DELETED))
    await opened.update(gone)
    second = await opened.insert(samples.sandbox())
    again = await opened.store.write(create, REQUEST)
    assert again.sandbox.uid == first.sandbox.uid != second.sandbox.uid


@BOTH_DATABASES
@pytest.mark.find(39)
async def test_a_repeat_whose_sandbox_was_trimmed_names_it_in_a_field(opened: Opened) -> None:
    first = await opened.store.write(create, REQUEST)
    gone = samples.changed(first, status=samples.status(phase=Phase.TERMINATED, reason=Reason.DELETED))
    await opened.update(gone)
    await opened.insert(samples.sandbox())
    engine = connection.connect(opened.url, writes=True, busy_timeout=1)
    with engine.begin() as raw:
        raw.execute(sa.delete(SQLModel.metadata.tables["status_event"]))
    engine.dispose()
    with pytest.raises(errors.NotFound) as caught:
        await opened.store.write(create, REQUEST)
    assert caught.value.facts["sandbox_id"] == first.sandbox.id


@BOTH_DATABASES
async def test_create_delete_and_create_again_in_one_group(opened: Opened) -> None:
    """The rows of a group are written once, as its last change leaves them."""
    first = samples.sandbox()

    def end(reader: store.Reader) -> store.Write:
        before = reader.last(first.key)
        assert before is not None
        return samples.write(samples.changed(before, status=samples.status(phase=Phase.TERMINATED)))

    last = samples.sandbox()
    await asyncio.gather(opened.insert(first, {"A": "1"}), opened.store.write(end), opened.insert(last, {"A": "2"}))
    assert await opened.store.read(lambda reader: reader.env(first.key)) == {"A": "2"}
    assert [one.sandbox for one in (await opened.store.load())[1]] == [last]
    assert await opened.store.events(0, 9) == opened.committed
    assert [one.sequence for one in opened.committed] == [1, 2, 3]


@BOTH_DATABASES
@pytest.mark.fault(6)
async def test_fifty_creates_with_one_request_id_on_two_replicas_make_one_sandbox(
    opened: Opened, database_url: str
) -> None:
    other = Opened(database_url)
    await other.store.open(other.committed.extend)

    async def persist(one: Opened) -> Event:
        while True:
            try:
                return await one.store.write(create, REQUEST)
            except errors.Unavailable:
                await asyncio.sleep(0.01)

    try:
        answers = await asyncio.gather(*(persist(one) for one in (opened, other) for _ in range(25)))
        assert len({one.sandbox.uid for one in answers}) == 1
        assert len((await opened.store.load())[1]) == 1
    finally:
        await other.store.close()


@BOTH_DATABASES
@pytest.mark.fault(39)
@pytest.mark.slow
async def test_no_reader_skips_what_two_replicas_append(opened: Opened, database_url: str) -> None:
    other = Opened(database_url)
    await other.store.open(other.committed.extend)
    seen: list[int] = []

    async def read() -> None:
        while len(seen) < 200:
            seen.extend(one.sequence for one in await opened.store.events(seen[-1] if seen else 0, 50))
            await asyncio.sleep(0)

    async def append(one: Opened, name: str) -> None:
        for number in range(100):
            sandbox = samples.sandbox(f"{name}-{number}")
            while True:
                try:
                    await one.insert(sandbox)
                    break
                except errors.Unavailable:
                    await asyncio.sleep(0.01)

    try:
        async with asyncio.timeout(60 * PATIENCE):
            await asyncio.gather(read(), append(opened, "a"), append(other, "b"))
        assert seen == list(range(1, 201))
    finally:
        await other.store.close()


@BOTH_DATABASES
@pytest.mark.fault(52)
async def test_env_values_are_nowhere_in_the_database(opened: Opened) -> None:
    made = await opened.insert(samples.sandbox(env_names=("SECRET",)), {"SECRET": samples.CANARY})
    payload = f"env={samples.CANARY}".encode()
    await opened.store.write(lambda _: samples.write(made), store.Request("default", "r1", payload))
    engine = connection.connect(opened.url, writes=False, busy_timeout=1)
    with engine.connect() as raw:
        for table in SQLModel.metadata.sorted_tables:
            assert samples.CANARY not in str(raw.execute(sa.select(table)).all())
            assert samples.CANARY.encode() not in b"".join(
                cell for row in raw.execute(sa.select(table)) for cell in row if isinstance(cell, bytes)
            )
    engine.dispose()


@BOTH_DATABASES
async def test_keys_rotate(opened: Opened, database_url: str) -> None:
    made = await opened.insert(samples.sandbox(), {"A": "1"})
    newer = Opened(database_url, store.Cipher([b"n" * 32, KEY]))
    await newer.store.open(newer.committed.extend)
    assert await newer.store.read(lambda reader: reader.env(made.sandbox.key)) == {"A": "1"}
    assert await newer.store.reencrypt() == 1
    assert await newer.store.reencrypt() == 0
    await newer.store.close()
    newest = Opened(database_url, store.Cipher([b"n" * 32]))
    await newest.store.open(newest.committed.extend)
    assert await newest.store.read(lambda reader: reader.env(made.sandbox.key)) == {"A": "1"}
    await newest.store.close()


@BOTH_DATABASES
async def test_a_lost_key_refuses_to_open_and_is_named(opened: Opened, database_url: str) -> None:
    await opened.insert(samples.sandbox(), {"A": "1"})
    other = Opened(database_url, store.Cipher([b"x" * 32]))
    with pytest.raises(ValueError, match=f"encrypted with {hashlib.sha256(KEY).hexdigest()[:8]}"):
        await other.store.open(other.committed.extend)


@BOTH_DATABASES
@pytest.mark.fault(40)
async def test_a_schema_of_another_release_refuses_to_open(opened: Opened, database_url: str) -> None:
    def stamp(revision: str | None, oldest: str = "9998") -> None:
        engine = connection.connect(database_url, writes=True, busy_timeout=1)
        with engine.begin() as raw:
            raw.execute(sa.text("DELETE FROM alembic_version"))
            raw.execute(sa.text("UPDATE compatibility SET oldest = :it"), {"it": oldest})
            if revision:
                raw.execute(sa.text("INSERT INTO alembic_version VALUES (:it)"), {"it": revision})
        engine.dispose()

    stamp("9999")
    with pytest.raises(store.SchemaMismatch, match="newer"):
        schema.check(database_url)
    # The newer release says that this one may run beside it.
    stamp("9999", oldest="leases")
    schema.check(database_url)
    stamp(None)
    with pytest.raises(store.SchemaMismatch, match="sandbox-server migrate"):
        schema.check(database_url)


@pytest.mark.slow
async def test_of_two_replicas_that_start_on_an_empty_database_one_makes_the_schema(
    postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, made, ended = postgres(), threading.Event(), threading.Event()
    upgrade = schema.command.upgrade

    def slow(*words: Any) -> None:
        upgrade(*words)
        made.set()
        assert ended.wait(40 * PATIENCE)

    monkeypatch.setattr(schema.command, "upgrade", slow)
    first = asyncio.create_task(asyncio.to_thread(schema.check, url))
    assert await asyncio.to_thread(made.wait, 20 * PATIENCE)
    script = "import sys; from sandbox_server.store import schema; schema.check(sys.argv[1])"
    second = await asyncio.create_subprocess_exec(sys.executable, "-c", script, url)
    waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    engine = connection.connect(url, writes=False, busy_timeout=1)
    async with asyncio.timeout(20 * PATIENCE):
        while not await asyncio.to_thread(_scalar, engine, waiting):
            await asyncio.sleep(0.05)
    engine.dispose()
    ended.set()
    await first
    assert await second.wait() == 0


def _scalar(engine: sa.Engine, query: sa.Executable) -> Any:
    with engine.connect() as raw:
        return raw.execute(query).scalar()


@BOTH_DATABASES
async def test_the_migrations_make_what_the_tables_say(opened: Opened) -> None:
    engine = connection.connect(opened.url, writes=False, busy_timeout=1)
    with engine.connect() as raw:
        context = MigrationContext.configure(raw, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
    engine.dispose()


@BOTH_DATABASES
async def test_a_terminated_sandbox_is_not_loaded_but_known(opened: Opened) -> None:
    made = await opened.insert(samples.sandbox())
    gone = samples.changed(made, status=samples.status(phase=Phase.TERMINATED), desired=DesiredState.DELETED)
    written = await opened.update(gone)
    assert await opened.store.load() == (2, [])
    assert await opened.store.read(lambda reader: reader.last(made.sandbox.key)) == written
    ended = store.Search("default", frozenset({"default"}), frozenset({Phase.TERMINATED}))
    assert await opened.store.read(lambda reader: list(reader.search(ended, None))) == [written]


@pytest.mark.fault(35)
async def test_a_locked_sqlite_file_is_unavailable_and_recovers(tmp_path: Path) -> None:
    opened = Opened(f"sqlite:///{tmp_path}/a.db")
    await opened.store.open(opened.committed.extend)
    blocker = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(errors.Unavailable):
        await opened.insert(samples.sandbox())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await opened.store.write(lambda _: samples.new(samples.sandbox("late")))
    await asyncio.sleep(0.5)
    blocker.execute("ROLLBACK")
    blocker.close()
    made = await opened.insert(samples.sandbox("demo-2"))
    assert made in (await opened.store.load())[1]
    await opened.store.close()


@pytest.mark.fault(37)
@pytest.mark.slow
async def test_killed_connections_are_made_again(postgres: Callable[[], str]) -> None:
    opened = Opened(postgres())
    await opened.store.open(opened.committed.extend)
    await opened.insert(samples.sandbox("demo-1"))
    admin = sa.create_engine(sa.make_url(opened.url).set(drivername="postgresql+psycopg"))
    with admin.begin() as raw:
        raw.execute(
            sa.text(
                # It waits until they have ended: a write would begin on a connection that still ends.
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    admin.dispose()
    await opened.insert(samples.sandbox("demo-2"))
    assert len((await opened.store.load())[1]) == 2
    await opened.store.close()


@pytest.mark.fault(37)
def test_a_postgresql_that_falls_silent_is_given_up_by_its_connection(postgres: Callable[[], str]) -> None:
    asked = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    with relay.postgresql(postgres()) as (_, url):
        for more, told in (("", [10, 5, 3, 25_000]), ("?keepalives_idle=60", [60, 5, 3, 25_000])):
            engine = connection.connect(url + more, writes=True, busy_timeout=1)
            raw: Any = engine.raw_connection()
            with contextlib.closing(raw), socket.socket(fileno=os.dup(raw.driver_connection.fileno())) as wire:
                assert [wire.getsockopt(socket.IPPROTO_TCP, one) for one in asked] == told
            engine.dispose()


@pytest.mark.parametrize(("writes", "bound"), [(True, "3s"), (False, "1min")])
def test_transaction_that_waits_for_its_replica_is_bounded_and_one_that_reads_may_wait_longer(
    postgres: Callable[[], str], writes: bool, bound: str
) -> None:
    engine = connection.connect(postgres(), writes=writes, busy_timeout=1)
    assert _scalar(engine, sa.text("SHOW idle_in_transaction_session_timeout")) == bound
    engine.dispose()


@pytest.mark.fault(37)
@pytest.mark.slow
async def test_cut_at_the_answer_to_a_commit_the_request_settles_what_became_of_it(postgres: Callable[[], str]) -> None:
    with relay.postgresql(postgres()) as (between, url):
        opened = Opened(url)
        await opened.store.open(opened.committed.extend)
        between.lose_answer_to(b"COMMIT")
        with pytest.raises(errors.Unavailable):
            await opened.store.write(create, REQUEST)
        # It was made, which only the log can tell.
        assert opened.committed == []
        (made,) = await opened.store.events(0, 10)
        assert await opened.store.write(create, REQUEST) == made
        assert await opened.store.events(0, 10) == [made]
        await opened.store.close()


KILLED = """
import asyncio, os, sys
from sandbox_server import store
from tests.support import samples
async def main():
    opened = store.Store(sys.argv[1], store.Cipher([b"k" * 32]))
    def die(committed):
        os.kill(os.getpid(), 9)
    await opened.open(die)
    def change(reader):
        if sys.argv[2] == "before":
            os.kill(os.getpid(), 9)
        return samples.new(samples.sandbox())
    await opened.write(change, store.Request("default", "r1", b"payload"))
asyncio.run(main())
"""


@BOTH_DATABASES
@pytest.mark.fault(1)
@pytest.mark.fault(2)
@pytest.mark.parametrize(("moment", "left"), [("before", 0), ("after", 1)])
@pytest.mark.slow
async def test_a_kill_before_the_commit_leaves_nothing_and_after_it_everything(
    database_url: str, moment: str, left: int
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, database_url, moment, env={**os.environ, "PYTHONPATH": "."}
    )
    assert await process.wait() == -9
    opened = Opened(database_url)
    await opened.store.open(opened.committed.extend)
    assert len((await opened.store.load())[1]) == left
    before = (await opened.store.load())[1]
    again = await opened.store.write(create, REQUEST)
    assert (await opened.store.load())[1] == [again]
    assert before in ([], [again])
    await opened.store.close()


@pytest.mark.fault(71)
@pytest.mark.find(24)
@pytest.mark.parametrize("mode", [0o644, 0o440, 0o640, 0o604, 0o400, 0o600])
def test_the_mode_of_a_key_file_that_was_given_is_the_operators(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    path.write_text(base64.b64encode(KEY).decode())
    path.chmod(mode)
    assert store.Cipher.from_file(path).is_current(store.Cipher([KEY]).encrypt({}, "uid"))


@pytest.mark.fault(71)
@pytest.mark.find(24)
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_file_of_the_services_own_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    store.Cipher.from_file(path, create=True)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    with pytest.raises(ValueError, match="chmod 600"):
        store.Cipher.from_file(path, create=True)


@pytest.mark.fault(37)
def test_connection_that_is_cut_under_a_refused_mutation_is_thrown_away_without_a_traceback(
    postgres: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    with relay.postgresql(postgres()) as (between, url):
        database = connection.Database(url, writes=True, busy_timeout=1)
        with pytest.raises(store.Stale), database.begin() as cursor:
            cursor.rows(sa.select(1))
            between.cut()
            raise store.Stale
        assert caplog.records == []
        with database.begin() as cursor:
            assert cursor.rows(sa.select(1)) == [(1,)]
        database.close()


@pytest.mark.fault(36)
def test_a_key_file_that_a_full_disk_did_not_take_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(os, "fsync", full)
        store.Cipher.from_file(tmp_path / "keys", create=True)
    assert list(tmp_path.iterdir()) == []
    made = store.Cipher.from_file(tmp_path / "keys", create=True)
    assert store.Cipher.from_file(tmp_path / "keys").knows(made.encrypt({}, "one"))
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_a_column_belongs_to_its_sandbox() -> None:
    cipher = store.Cipher([KEY])
    column = cipher.encrypt({"A": "1"}, "one")
    with pytest.raises(ValueError, match="changed"):
        cipher.decrypt(column, "two")
    with pytest.raises(ValueError, match="not given"):
        store.Cipher([b"x" * 32]).decrypt(column, "one")


@pytest.mark.parametrize("text", ["", "short", "a" * 44])
def test_bad_keys_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="32 bytes in base64") as caught:
        store.Cipher.from_text(text)
    assert not text or text not in str(caught.value)
