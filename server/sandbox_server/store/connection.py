"""Opening the database: SQLite or PostgreSQL by URL, and its schema."""

import contextlib
import functools
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from sandbox_server import lock
from sandbox_server.store import address
from sandbox_server.store.address import Location

_BEGIN = {True: "BEGIN IMMEDIATE", False: "BEGIN"}
_ISOLATION: dict[bool, Any] = {True: None, False: "REPEATABLE READ"}
"""On PostgreSQL. Who reads sees one moment, as SQLite gives by itself; who writes waits his turn and must see what the one
before him committed, as is usual."""
_ONE: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "hide_parameters": True}
WAITS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
"""How soon a PostgreSQL that fell silent is given up, unless its URL says otherwise: libpq's own words, in seconds, the last
in milliseconds. By itself it waits for ever to connect, and hours for an answer."""
PREPARED_AFTER = 5
"""Uses of a statement until it is prepared, which more than doubles how many sandboxes a second can be written."""
MIGRATIONS = Path(__file__).parent / "migrations"


class SchemaMismatch(Exception):
    """The database's schema is not this release's; the text says what to run."""


def connect(url: Location, *, writes: bool, busy_timeout: float) -> sa.Engine:
    """An engine with one connection, for transactions that write or that read as of one moment.

    `busy_timeout`: seconds to wait for another process's lock on SQLite. Raises ValueError, as `address.parse`.
    """
    place = address.parse(url)
    if place.url.get_backend_name() == "postgresql":
        parsed = place.url.set(query=WAITS | dict(place.url.query))
        options = {"prepare_threshold": None, **place.options}
        engine = sa.create_engine(
            parsed, connect_args=options, pool_pre_ping=True, isolation_level=_ISOLATION[writes], **_ONE
        )
        sa.event.listen(engine, "connect", _prepare)
        return engine
    Path(str(place.url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(place.url, connect_args={"timeout": busy_timeout}, **_ONE)

    @sa.event.listens_for(engine, "connect")
    def _opened(raw: sqlite3.Connection, _record: Any) -> None:
        # The driver's own BEGIN comes too late, before the first write: two readers could then both want to write.
        raw.isolation_level = None
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql(_BEGIN[writes])

    return engine


def _prepare(raw: Any, _record: Any) -> None:
    """Has a new connection prepare the statements that it repeats, if it has a session of PostgreSQL for itself.

    Behind PgBouncer each transaction can have another session, which knows nothing that was prepared before. PgBouncer and its
    like give a connection a process id of their own for it to cancel by.
    """
    (session,) = raw.execute("SELECT pg_backend_pid()").fetchone()
    raw.rollback()
    if session == raw.info.backend_pid:
        raw.prepare_threshold = PREPARED_AFTER


class Cursor:
    """A driver's cursor that takes statements of SQLAlchemy Core."""

    def __init__(
        self,
        raw: Any,
        text: Callable[[sa.Executable], str],
        once: Callable[[sa.Executable], tuple[str, Mapping[str, Any]]],
    ) -> None:
        """`text`: how the driver takes a statement, which is kept; `once`: the same with its values, not kept."""
        self._raw = raw
        self._text = text
        self._once = once

    def rows(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """What a SELECT finds."""
        self._raw.execute(self._text(statement), parameters or {})
        return self._raw.fetchall()  # type: ignore[no-any-return]

    def first(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> tuple[Any, ...] | None:
        """The first row that a SELECT finds; None if it finds none."""
        self._raw.execute(self._text(statement), parameters or {})
        return self._raw.fetchone()  # type: ignore[no-any-return]

    def find(self, statement: sa.Executable) -> list[tuple[Any, ...]]:
        """What a SELECT finds that was made for this one use and has its values in it."""
        self._raw.execute(*self._once(statement))
        return self._raw.fetchall()  # type: ignore[no-any-return]

    def write(self, statement: sa.Executable, parameters: Sequence[Mapping[str, Any]]) -> int:
        """Runs a statement once for each; returns how many rows that touched in all."""
        self._raw.executemany(self._text(statement), parameters)
        return self._raw.rowcount  # type: ignore[no-any-return]


class Database:
    """One connection. SQLAlchemy opens it and writes the statements, the driver alone runs them: 2 us each, not 50."""

    def __init__(self, url: Location, *, writes: bool, busy_timeout: float) -> None:
        """As `connect`."""
        self.engine = connect(url, writes=writes, busy_timeout=busy_timeout)
        dialect: Any = self.engine.dialect
        self.Error: type[Exception] = dialect.loaded_dbapi.Error
        self.IntegrityError: type[Exception] = dialect.loaded_dbapi.IntegrityError
        self._begin = _BEGIN[writes] if dialect.name == "sqlite" else ""
        # Named parameters on both: the row that is written is the mapping that is given.
        self._dialect: sa.Dialect = type(dialect)(paramstyle="named") if dialect.name == "sqlite" else dialect
        self._text = functools.cache(self._compiled)

    def _compiled(self, statement: Any) -> str:
        return str(statement.compile(dialect=self._dialect))

    def _with_values(self, statement: Any) -> tuple[str, Mapping[str, Any]]:
        compiled = statement.compile(dialect=self._dialect, compile_kwargs={"render_postcompile": True})
        return str(compiled), compiled.params

    @contextlib.contextmanager
    def begin(self) -> Iterator[Cursor]:
        """A transaction, committed if nothing is raised in it. Raises `Error`, and SQLAlchemy's if it cannot connect."""
        # What was not committed is rolled back at the end, and a connection that broke is thrown away.
        with contextlib.closing(self.engine.raw_connection()) as raw:
            # Closed here: a refusal that its caller keeps holds the cursor too, and would let go of it on another thread,
            # in the midst of the next transaction's use of the same statement.
            with contextlib.closing(raw.cursor()) as cursor:
                if self._begin:
                    cursor.execute(self._begin)
                yield Cursor(cursor, self._text, self._with_values)
            raw.commit()

    def close(self) -> None:
        """Closes the connection."""
        self.engine.dispose()


@contextlib.contextmanager
def _once(url: Location, *, writes: bool) -> Iterator[sa.Connection]:
    """A connection for one transaction. Raises OSError, which says why, for a database that cannot be used."""
    engine = connect(url, writes=writes, busy_timeout=30)
    try:
        with engine.begin() as connection:
            yield connection
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        cause = str(getattr(error, "orig", error)).partition("\n")[0]
        shown = engine.url.set(query={}).render_as_string(hide_password=True)
        raise OSError(f"database-url: {shown} cannot be used: {cause}") from None
    finally:
        engine.dispose()


def _file(url: Location) -> Path | None:
    """The file of a SQLite database, as SQLite itself names it; None for a database that is shared."""
    with _once(url, writes=False) as connection:
        if connection.dialect.name != "sqlite":
            return None
        _, _, name = connection.exec_driver_sql("PRAGMA database_list").one()
        return Path(name).resolve()


@contextlib.contextmanager
def exclusive(url: Location) -> Iterator[None]:
    """Keeps the file of a SQLite database from other services. Raises OSError if one of them has it, and as `check`."""
    file = _file(url)
    descriptor = None if file is None else lock.take(file.with_name(file.name + ".lock"), "database-url", file)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def migrate(url: Location) -> None:
    """Brings the schema to this release's. Raises OSError for a database that cannot be used."""
    with _once(url, writes=True) as connection:
        if connection.dialect.name == "postgresql":
            # Of two replicas that start on an empty database, one makes the schema and the other finds it.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(1)))
        command.upgrade(_config(connection), "head")


def check(url: Location) -> None:
    """Makes the schema in an empty database. Raises `SchemaMismatch` for one of another release, else as `migrate`."""
    with _once(url, writes=False) as connection:
        present = MigrationContext.configure(connection).get_current_revision()
        tables = set(sa.inspect(connection).get_table_names())
    script = ScriptDirectory.from_config(_config(None))
    known = {one.revision for one in script.walk_revisions()}
    if present == script.get_current_head():
        return
    if present is None and not tables & {"sandbox", "status_event"}:
        migrate(url)
    elif present is None or present in known:
        raise SchemaMismatch("the database has an older schema: run `sandbox-server migrate` with the same settings")
    else:
        raise SchemaMismatch("the database has a newer schema than this release: run the newer release")


def _config(connection: sa.Connection | None) -> Config:
    config = Config()
    # The configuration takes a % for the beginning of a name.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
