"""The store behind PgBouncer, which gives each transaction another connection of PostgreSQL."""

import asyncio
import base64
from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy as sa
from sandbox_server import store
from sandbox_server.domain import errors
from sandbox_server.store import connection

from tests.support import samples
from tests.support.opened import Opened
from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.find(36)
KEYS = base64.b64encode(b"k" * 32).decode()


@pytest.mark.fault(74)
@pytest.mark.slow
async def test_two_replicas_write_and_follow_through_a_pool_of_transactions(pgbouncer: str) -> None:
    one, two = Opened(pgbouncer), Opened(pgbouncer)
    for opened in (one, two):
        await opened.store.open(opened.committed.extend)

    async def create(opened: Opened, number: int) -> None:
        write = samples.new(samples.sandbox(f"demo-{number}"), {"A": str(number)})
        request = store.Request("default", f"r{number}", b"payload")
        made = await opened.store.write(lambda _: write, request)
        assert await opened.store.read(lambda reader: reader.last(made.sandbox.key)) == made
        assert await opened.store.read(lambda reader: reader.env(made.sandbox.key), store.Lane.RECONCILER) == {
            "A": str(number)
        }
        assert await opened.store.write(lambda _: write, request) == made

    # One after another as well as at once: a driver prepares what it has sent some times.
    for number in range(20):
        await create(one if number % 2 else two, number)
    await asyncio.gather(*(create(one if number % 2 else two, number) for number in range(20, 60)))
    for opened in (one, two):
        events = await opened.store.events(0, 100)
        assert [event.sequence for event in events] == list(range(1, 61))
        await opened.store.close()


@pytest.mark.slow
@pytest.mark.fault(74)
def test_a_service_starts_migrates_and_runs_behind_pgbouncer(
    make_service: Callable[..., Service], pgbouncer: str
) -> None:
    service = make_service("--database-url", pgbouncer, "--encryption-keys", KEYS).start()
    with service.client() as client:
        names = [client.create("demo", sandbox_id=f"demo-{number}").sandbox_id for number in range(8)]
        for name in names:
            client.wait_until(name, "RUNNING", timeout=60 * PATIENCE)
        assert [one.sandbox_id for one in client.list(phases=["RUNNING", "TERMINATED"])] == names
        service.kill()
        service.start()
        for name in names:
            client.delete(name)
            client.wait_until(name, "TERMINATED", timeout=60 * PATIENCE)
    assert "prepared statement" not in service.log.read_text()
    assert "database_failed" not in service.log.read_text()


def prepared(url: str) -> int:
    """How many statements a connection has prepared after it has sent one again and again."""
    database = connection.Database(url, writes=True, busy_timeout=1)
    for _ in range(20):
        with database.begin() as cursor:
            cursor.rows(sa.text("SELECT 1"))
    with database.begin() as cursor:
        ((count,),) = cursor.rows(sa.text("SELECT count(*) FROM pg_prepared_statements"))
    database.close()
    return int(count)


@pytest.mark.fault(74)
def test_statements_are_prepared_only_in_a_session_of_the_connections_own(
    postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres()
    assert prepared(url) > 0
    # As PgBouncer says it: here also where none is installed.
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", 1)
    assert prepared(url) == 0


@pytest.mark.fault(74)
def test_nothing_is_prepared_behind_pgbouncer(pgbouncer: str) -> None:
    assert prepared(pgbouncer) == 0


@pytest.mark.slow
async def test_refusing_database_is_reported_as_unavailable(pgbouncer: str) -> None:
    opened = Opened(pgbouncer)
    await opened.store.open(opened.committed.extend)
    admin = sa.make_url(pgbouncer).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(admin, connect_args={"prepare_threshold": None})
    with engine.begin() as raw:
        raw.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()
    for attempt in range(10):
        try:
            await opened.insert(samples.sandbox(f"demo-{attempt}"))
        except errors.Unavailable:
            continue
        break
    assert len((await opened.store.load())[1]) == 1
    await opened.store.close()


@pytest.mark.slow
async def test_the_host_of_several_that_takes_writes_is_used(pgbouncer: str) -> None:
    """The other one is away, as the former primary is after a failover."""
    opened = Opened(pgbouncer.replace("@127.0.0.1:", f"@127.0.0.1:{free_port()},127.0.0.1:"))
    await opened.store.open(opened.committed.extend)
    made = await opened.insert(samples.sandbox())
    assert await opened.store.load() == (1, [made])
    await opened.store.close()
