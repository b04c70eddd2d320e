"""`sandbox-server migrate` while other replicas and other programs use the database."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sandbox_server import store
from sandbox_server.store import connection, schema

from tests.support import samples
from tests.support.waiting import PATIENCE


def run(url: str, *statements: str) -> None:
    engine = connection.connect(url, writes=True, busy_timeout=1)
    with engine.begin() as opened:
        for statement in statements:
            opened.execute(sa.text(statement))
    engine.dispose()


def revision(url: str) -> str:
    with connection.transaction(connection.connect(url, writes=False, busy_timeout=1)) as opened:
        return str(opened.execute(sa.text("SELECT version_num FROM alembic_version")).scalar())


@pytest.mark.fault(40)
def test_newer_schema_stays_as_it_is_where_this_release_may_use_it_and_is_refused_where_not(
    empty_database_url: str,
) -> None:
    store.migrate(empty_database_url)
    run(empty_database_url, "UPDATE alembic_version SET version_num = 'a newer one'")
    store.migrate(empty_database_url)
    run(empty_database_url, "UPDATE compatibility SET oldest = 'a newer one'")
    with pytest.raises(store.SchemaMismatch, match="run the newer release"):
        store.migrate(empty_database_url)
    assert revision(empty_database_url) == "a newer one"


@contextlib.contextmanager
def long_read(url: str) -> Iterator[None]:
    """Somebody who reads a table in one transaction, as pg_dump does."""
    with psycopg.connect(url) as opened:
        opened.execute("SELECT count(*) FROM status_event")
        yield


@pytest.mark.fault(77)
@pytest.mark.slow
async def test_migration_that_waits_for_a_long_read_lets_calls_go_on(
    postgres: Callable[[str], str], migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres(migrated)
    opened = store.Store(url, store.Cipher([b"k" * 32]))
    await opened.open(lambda _: None)
    run(url, "UPDATE alembic_version SET version_num = 'operators'")
    tried: list[float] = []

    def upgrade(config: Any, _: str) -> None:
        tried.append(time.monotonic())
        within = config.attributes["connection"]
        within.execute(sa.text("ALTER TABLE status_event ADD COLUMN later VARCHAR"))
        within.execute(sa.text("UPDATE alembic_version SET version_num = 'leases'"))

    monkeypatch.setattr(schema.command, "upgrade", upgrade)
    monkeypatch.setattr(schema, "LOCKED_AGAIN", 0.5)
    try:
        with long_read(url):
            migrating = asyncio.create_task(asyncio.to_thread(store.migrate, url))
            number = 0
            while len(tried) < 3:
                number += 1
                write = samples.new(samples.sandbox(f"box-{number}"))
                # It does not wait for the read, which ends after all of these.
                async with asyncio.timeout(10 * PATIENCE):
                    await opened.write(lambda _, write=write: write)  # type: ignore[misc]
            assert not migrating.done()
        await migrating
        assert revision(url) == "leases"
        assert await opened.read(lambda reader: reader.sequence()) == number
    finally:
        await opened.close()
