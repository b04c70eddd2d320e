"""Which database a URL or a data directory leads to."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sandbox_server.settings import Settings
from sandbox_server.store import address, connection, schema

pytestmark = pytest.mark.find(36)
ODD = ["a?b", "a%b", "a%3Fb", "a?mode=ro&uri=true", "a#b", "a b", "a@b:c", "é", "%(here)s", "a;b", "file:a"]


@pytest.mark.parametrize("name", ODD)
def test_the_database_is_in_the_data_directory_whatever_its_path(tmp_path: Path, name: str) -> None:
    settings = Settings(data_dir=tmp_path / name)
    schema.check(settings.database)
    schema.check(settings.database)
    with connection.exclusive(settings.database):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with sqlite3.connect(tmp_path / name / "sandbox.db") as opened:
        assert opened.execute("SELECT count(*) FROM sandbox").fetchone() == (0,)
    opened.close()


@pytest.mark.parametrize("name", ["a%b", "a#b", "a b", "é"])
def test_the_path_of_a_sqlite_url_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    schema.check(f"sqlite:///{tmp_path}/{name}/a.db")
    assert (tmp_path / name / "a.db").exists()


@pytest.mark.parametrize("rest", ["a?b/c.db", "a.db?", "a.db?mode=ro"])
def test_a_sqlite_url_with_a_query_is_refused_and_makes_nothing(tmp_path: Path, rest: str) -> None:
    with pytest.raises(ValueError, match="data-dir"):
        schema.check(f"sqlite:///{tmp_path}/{rest}")
    assert list(tmp_path.iterdir()) == []


def test_migrations_are_found_under_a_path_with_a_percent_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(schema.MIGRATIONS, tmp_path / "50%(here)s" / "migrations")
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path / "50%(here)s" / "migrations")
    schema.check(tmp_path / "a.db")
    assert (tmp_path / "a.db").exists()


def asked(url: str) -> dict[str, Any]:
    """What the driver is asked for, but for the waits."""
    engine = connection.connect(url, writes=True, busy_timeout=1)
    _, options = engine.dialect.create_connect_args(engine.url)
    options |= address.parse(url).options
    engine.dispose()
    return {name: str(value) for name, value in options.items() if name not in ("context", *connection.WAITS)}


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgresql://h/db", {"host": "h", "dbname": "db"}),
        ("postgres://h/db", {"host": "h", "dbname": "db"}),
        (
            "postgresql+psycopg://u:p@h:6432/db",
            {"user": "u", "password": "p", "host": "h", "port": "6432", "dbname": "db"},
        ),
        ("postgresql://u:p%40%2C/?@h/db", {"user": "u", "password": "p@,/?", "host": "h", "dbname": "db"}),
        ("postgresql://u@/db", {"user": "u", "dbname": "db"}),
        ("postgresql://u@h", {"user": "u", "host": "h"}),
        ("postgresql://u%40e@h/my%20%40db", {"user": "u@e", "host": "h", "dbname": "my @db"}),
        ("postgresql:///db?host=/run/pg", {"host": "/run/pg", "dbname": "db"}),
        ("postgresql://u@%2Frun%2Fpg/db", {"user": "u", "host": "/run/pg", "dbname": "db"}),
        ("postgresql://[::1]:6432/db", {"host": "::1", "port": "6432", "dbname": "db"}),
        (
            "postgresql://u:p@one:5432,two:5433/db?target_session_attrs=any",
            {
                "user": "u",
                "password": "p",
                "host": "one,two",
                "port": "5432,5433",
                "dbname": "db",
                "target_session_attrs": "any",
            },
        ),
        (
            "postgresql://one,two/db?sslmode=require",
            {"host": "one,two", "dbname": "db", "sslmode": "require", "target_session_attrs": "read-write"},
        ),
        (
            "postgres://u@[::1],two:6432,three:/db",
            {
                "user": "u",
                "host": "::1,two,three",
                "port": ",6432,",
                "dbname": "db",
                "target_session_attrs": "read-write",
            },
        ),
    ],
)
def test_a_postgresql_url_is_read_as_libpq_reads_it(url: str, options: dict[str, str]) -> None:
    assert asked(url) == options
    assert isinstance(Settings(database_url=url).database, str)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:sec:ret@one:54x2,two/db",
        "postgresql://u:secret@one,[::1/db",
        "postgresql://u:secret@one:123456/db",
        "postgresql://u:secret@ret/word@one,two/db",
        "postgresql://u:secret@ret@one,two/db",
        "mysql://u:secret@one/db",
        "secret",
    ],
)
def test_a_bad_url_is_refused_and_nothing_of_it_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"^database-url: ") as caught:
        address.parse(url)
    assert "ret" not in str(caught.value)


def test_an_error_of_several_hosts_names_them_and_no_password() -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1,127\.0\.0\.2") as caught:
        schema.check("postgresql://u:secret@127.0.0.1:1,127.0.0.2:1/db?connect_timeout=2")
    assert "secret" not in str(caught.value)
