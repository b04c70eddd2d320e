"""Opening the database: SQLite or PostgreSQL by URL."""

import contextlib
import functools
import os
import select
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from sandbox_server import lock
from sandbox_server.store import address
from sandbox_server.store.address import Location

_BEGIN = {True: "BEGIN IMMEDIATE", False: "BEGIN"}
_ISOLATION: dict[bool, Any] = {True: None, False: "REPEATABLE READ"}
"""On PostgreSQL. A reader sees one moment, as on SQLite. A writer waits for the lock of the log, and must then see what the
last transaction committed."""
_ONE: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "hide_parameters": True}
WAITS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
"""Parameters of libpq, unless the URL has others: how soon a silent PostgreSQL is given up. In seconds, the last in
milliseconds. By default libpq waits for ever for a connection, and hours for an answer."""
BOUNDED = {True: "3s", False: "60s"}
"""How long a transaction may be idle until PostgreSQL rolls it back, by whether its connection writes.

A transaction that writes holds the lock of the log. If its replica is stopped in the middle of it, no other replica can write
until PostgreSQL ends it: the limit is shorter than a lease. A transaction that only reads keeps nothing waiting but migrations,
so that its limit is longer: on a busy machine many seconds may pass between two of its statements."""
PREPARED_AFTER = 5
"""Uses of a statement until it is prepared. Prepared statements more than double the rate of writes."""


def connect(url: Location, *, writes: bool, busy_timeout: float) -> sa.Engine:
    """Returns an engine with one connection, for transactions that write or that read as of one moment.

    `busy_timeout` is the time in seconds to wait for another process's lock on SQLite. Raises ValueError as
    `address.parse`.
    """
    place = address.parse(url)
    if place.url.get_backend_name() == "postgresql":
        options = {"prepare_threshold": None, **place.options}
        engine = sa.create_engine(_patient(place), connect_args=options, isolation_level=_ISOLATION[writes], **_ONE)
        sa.event.listen(engine, "connect", lambda raw, _: _prepare(raw, BOUNDED[writes]))
        sa.event.listen(engine, "checkout", lambda raw, _record, _pooled: _make_sure(raw))
        return engine
    Path(str(place.url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(place.url, connect_args={"timeout": busy_timeout}, **_ONE)

    @sa.event.listens_for(engine, "connect")
    def _opened(raw: sqlite3.Connection, _record: Any) -> None:
        # The driver would begin before the first write, which is too late: two transactions that have read could both write.
        raw.isolation_level = None
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql(_BEGIN[writes])

    return engine


def _make_sure(raw: Any) -> None:
    """Raises `sa.exc.DisconnectionError`, upon which the pool connects again, if a connection has ended since its last use.

    A server that ends or restarts closes its connections, and the kernel closes one whose other end is silent (`WAITS`). Both
    show on the socket. To ask the server instead would take a tenth of a short transaction. A server may also send something
    to an idle connection, such as a notice. That is rare, and only has the pool connect again.
    """
    if raw.closed:
        raise sa.exc.DisconnectionError
    socket = select.poll()
    socket.register(raw.fileno(), select.POLLIN)
    if socket.poll(0):
        raise sa.exc.DisconnectionError


def _patient(place: address.Place) -> sa.URL:
    """Returns the URL of a PostgreSQL with the times after which it is given up."""
    return place.url.set(query=WAITS | dict(place.url.query))


def driver_arguments(url: Location) -> Mapping[str, Any] | None:
    """Returns the arguments with which the driver connects to a PostgreSQL; None for SQLite. Raises ValueError as `connect`."""
    place = address.parse(url)
    if place.url.get_backend_name() != "postgresql":
        return None
    dialect: Any = PGDialect_psycopg
    _, named = dialect().create_connect_args(_patient(place))
    return {**named, **place.options}


def _prepare(raw: Any, bound: str) -> None:
    """Makes a new connection prepare the statements that it repeats, and bounds its transactions, if its session of
    PostgreSQL is its own. `bound`: how long they may be idle.

    Behind PgBouncer each transaction can have another session, without the statements that were prepared before. Such a
    pool gives a connection a process id that is not the session's.
    """
    (session,) = raw.execute("SELECT pg_backend_pid()").fetchone()
    raw.rollback()
    if session == raw.info.backend_pid:
        # Without a transaction, whose end would take it back.
        raw.autocommit = True
        raw.execute(f"SET idle_in_transaction_session_timeout = '{bound}'")
        raw.autocommit = False
        raw.prepare_threshold = PREPARED_AFTER


class Cursor:
    """A driver's cursor that takes statements of SQLAlchemy Core."""

    def __init__(
        self,
        raw: Any,
        text: Callable[[sa.Executable], str],
        once: Callable[[sa.Executable], tuple[str, Mapping[str, Any]]],
    ) -> None:
        """`text` returns a statement as the driver takes it, and keeps it. `once` returns it with its values."""
        self._raw = raw
        self._text = text
        self._once = once

    def rows(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Returns the rows that a SELECT finds."""
        self._raw.execute(self._text(statement), parameters or {})
        return self._raw.fetchall()  # type: ignore[no-any-return]

    def first(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> tuple[Any, ...] | None:
        """Returns the first row that a SELECT finds; None if it finds none."""
        self._raw.execute(self._text(statement), parameters or {})
        return self._raw.fetchone()  # type: ignore[no-any-return]

    def find(self, statement: sa.Executable) -> list[tuple[Any, ...]]:
        """Returns the rows of a SELECT that was made for one use and contains its values."""
        self._raw.execute(*self._once(statement))
        return self._raw.fetchall()  # type: ignore[no-any-return]

    def write(self, statement: sa.Executable, parameters: Sequence[Mapping[str, Any]]) -> int:
        """Runs a statement once for each set of parameters. Returns the number of rows that it changed in all."""
        if len(parameters) == 1:
            # On PostgreSQL the driver opens a pipeline for several sets, which costs more than one statement.
            self._raw.execute(self._text(statement), parameters[0])
        else:
            self._raw.executemany(self._text(statement), parameters)
        return self._raw.rowcount  # type: ignore[no-any-return]


class Database:
    """One connection. SQLAlchemy opens it and compiles statements; the driver alone runs them, in 2 us instead of 50."""

    def __init__(self, url: Location, *, writes: bool, busy_timeout: float) -> None:
        """The arguments are those of `connect`."""
        self.engine = connect(url, writes=writes, busy_timeout=busy_timeout)
        dialect: Any = self.engine.dialect
        self.Error: type[Exception] = dialect.loaded_dbapi.Error
        self.IntegrityError: type[Exception] = dialect.loaded_dbapi.IntegrityError
        self._OperationalError: type[Exception] = dialect.loaded_dbapi.OperationalError
        self._begin = _BEGIN[writes] if dialect.name == "sqlite" else ""
        # Parameters are named on both databases, so that a row is written from a mapping.
        self._dialect: sa.Dialect = type(dialect)(paramstyle="named") if dialect.name == "sqlite" else dialect
        self._text = functools.cache(self._compiled)

    def _compiled(self, statement: Any) -> str:
        return str(statement.compile(dialect=self._dialect))

    def _with_values(self, statement: Any) -> tuple[str, Mapping[str, Any]]:
        compiled = statement.compile(dialect=self._dialect, compile_kwargs={"render_postcompile": True})
        return str(compiled), compiled.params

    @contextlib.contextmanager
    def begin(self) -> Iterator[Cursor]:
        """Yields the cursor of a transaction, which is committed unless the body raises.

        Raises `Error`, and an error of SQLAlchemy if it cannot connect.
        """
        # What was not committed is rolled back at the end, and a connection that broke is thrown away.
        with contextlib.closing(self.engine.raw_connection()) as raw:
            # Close the cursor here: an exception that a caller keeps holds a reference to it. Its end on another thread
            # could fall into the next transaction's use of the same statement.
            try:
                with contextlib.closing(raw.cursor()) as cursor:
                    if self._begin:
                        cursor.execute(self._begin)
                    yield Cursor(cursor, self._text, self._with_values)
                raw.commit()
            except self._OperationalError:
                # The next transaction connects again. A SQLite file that could not be written when it was opened would be
                # read-only for the life of the connection.
                raw.invalidate()
                raise
            except Exception:
                # Here and not by the pool, which logs a traceback where a broken connection cannot be rolled back.
                try:
                    raw.rollback()
                except self.Error:
                    raw.invalidate()
                raise

    def close(self) -> None:
        """Closes the connection."""
        self.engine.dispose()


def once(url: Location, *, writes: bool) -> contextlib.AbstractContextManager[sa.Connection]:
    """Returns the context of one transaction. Raises as `transaction`."""
    return transaction(connect(url, writes=writes, busy_timeout=30))


@contextlib.contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yields a connection for one transaction, and closes the engine after it.

    Raises OSError, with the cause and without the password, if the database cannot be used.
    """
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
    """Returns the file of a SQLite database as SQLite names it; None for PostgreSQL."""
    with once(url, writes=False) as connection:
        if connection.dialect.name != "sqlite":
            return None
        _, _, name = connection.exec_driver_sql("PRAGMA database_list").one()
        return Path(name).resolve()


@contextlib.contextmanager
def exclusive(url: Location) -> Iterator[None]:
    """Locks the file of a SQLite database. Raises OSError if another service has the lock, or the database cannot be used."""
    file = _file(url)
    descriptor = None if file is None else lock.take(file.with_name(file.name + ".lock"), "database-url", file)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
