"""How a database is opened: what a commit promises, who may write, and how soon a silent database is given up."""

import socket
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from sandbox_server.store import connection, schema

FULL = 2


def test_sqlite_writes_ahead_and_a_commit_is_on_the_disk(tmp_path: Path) -> None:
    engine = connection.connect(f"sqlite:///{tmp_path}/a.db", writes=True, busy_timeout=1)
    with engine.connect() as opened:
        assert opened.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert opened.execute(sa.text("PRAGMA synchronous")).scalar() == FULL
    engine.dispose()


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("way", ["database", "engine"])
def test_only_a_writing_connection_takes_the_lock_at_the_beginning(tmp_path: Path, writes: bool, way: str) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    database = connection.Database(url, writes=writes, busy_timeout=1)
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None, timeout=0)
    other.execute("CREATE TABLE t (x)")

    def write() -> None:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")

    with database.begin() if way == "database" else database.engine.begin():
        if writes:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                write()
        else:
            write()
    write()
    other.close()
    database.close()


def test_a_postgresql_that_never_answers_is_given_up() -> None:
    # The URL says how long to wait. Without that, libpq waits for ten seconds.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://a:b@127.0.0.1:{silent.getsockname()[1]}/c"
        engine = connection.connect(url, writes=True, busy_timeout=1)
        assert engine.url.query["connect_timeout"] == connection.WAITS["connect_timeout"]
        began = time.monotonic()
        with pytest.raises(OSError, match="timeout expired"):
            schema.check(f"{url}?connect_timeout=2")
        assert time.monotonic() - began < int(connection.WAITS["connect_timeout"])


@pytest.mark.parametrize("password", ["sec@ret", "sec@ret/word", "@", "a@b@c"])
def test_password_with_an_at_sign_is_refused_without_showing_a_part_of_it(password: str) -> None:
    with pytest.raises(ValueError, match="as %40") as caught:
        connection.connect(f"postgresql://me:{password}@127.0.0.1/db", writes=True, busy_timeout=1)
    assert "ret" not in str(caught.value)
    connection.connect(
        f"postgresql://me:{quote(password, safe='')}@127.0.0.1/db", writes=True, busy_timeout=1
    ).dispose()
