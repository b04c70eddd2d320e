"""The schema of the database: how it compares to that of this release, and its migrations."""

import enum
import time
from pathlib import Path

import psycopg
import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from sandbox_server import failpoints
from sandbox_server.store import connection, tables
from sandbox_server.store.address import Location

log = structlog.get_logger()

LOCKED = "SET LOCAL lock_timeout = '500ms'"
"""Has a migration wait no longer for a lock on a table: whoever uses the table afterwards would wait behind it, and so every
call while somebody reads the table in a long transaction, such as pg_dump."""
LOCKED_AGAIN = 2.0
"""Seconds until it begins again."""
MIGRATIONS = Path(__file__).parent / "migrations"


class Schema(enum.Enum):
    """How the schema of a database compares to that of this release. A value that is not empty says what to run."""

    CURRENT = ""
    EMPTY = "the database is empty: the service makes its schema when it starts"
    OLDER = "the database has an older schema: run `sandbox-server migrate` with the same settings"
    NEWER = "the database has a newer schema than this release may use: run the newer release"


class SchemaMismatch(ValueError):
    """The database has the schema of another release. The text says what to run."""


class _Locked(Exception):
    """A migration has waited for a lock, or others for its locks, and was rolled back."""


def migrate(url: Location) -> None:
    """Migrates the schema to this release. Leaves a newer schema that this release may use as it is.

    Begins again as long as others hold a lock that it needs. Raises OSError if the database cannot be used, and
    `SchemaMismatch` for a schema that this release may not use.
    """
    while True:
        try:
            _migrate(url)
        except _Locked as error:
            log.warning("migration_waits", message=f"{error}: see pg_stat_activity for long transactions")
            time.sleep(LOCKED_AGAIN)
        else:
            return


def _migrate(url: Location) -> None:
    with connection.once(url, writes=True) as opened:
        if opened.dialect.name == "postgresql":
            # It holds no lock of the log for long without giving way, and may compute between two statements.
            opened.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            # Of two replicas that start on an empty database, one makes the schema and the other finds it.
            opened.execute(sa.select(sa.func.pg_advisory_xact_lock(1)))
            opened.exec_driver_sql(LOCKED)
        present = compare(opened)
        if present is Schema.NEWER:
            raise SchemaMismatch(present.value)
        if present is not Schema.CURRENT:
            try:
                command.upgrade(config(opened), "head")
            except sa.exc.OperationalError as error:
                if isinstance(error.orig, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
                    raise _Locked(str(error.orig).partition("\n")[0]) from None
                raise
        failpoints.hit("migrated_before_commit")


def check(url: Location) -> None:
    """Makes the schema in an empty database.

    The schema of a newer release may be used if it says so: both releases run during an upgrade. Raises `SchemaMismatch`
    for the schema of another release, else as `migrate`.
    """
    with connection.once(url, writes=False) as opened:
        present = compare(opened)
    if present is Schema.EMPTY:
        migrate(url)
    elif present is not Schema.CURRENT:
        raise SchemaMismatch(present.value)


def compare(opened: sa.Connection) -> Schema:
    """Returns how the schema of a database compares to that of this release.

    A newer schema that this release may use, as during an upgrade, is as good as its own.
    """
    present = MigrationContext.configure(opened).get_current_revision()
    named = set(sa.inspect(opened).get_table_names())
    if present is None and not named & {"sandbox", "status_event"}:
        return Schema.EMPTY
    script = ScriptDirectory.from_config(config(None))
    known = {one.revision for one in script.walk_revisions()}
    oldest = opened.scalar(sa.select(tables.COMPATIBILITY.c.oldest)) if tables.COMPATIBILITY.name in named else None
    if present == script.get_current_head() or (present not in known and oldest in known):
        return Schema.CURRENT
    return Schema.OLDER if present is None or present in known else Schema.NEWER


def config(opened: sa.Connection | None) -> Config:
    """Returns what Alembic has to know, with the connection that it is to use."""
    made = Config()
    # In the configuration a % begins the name of a variable.
    made.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    made.attributes["connection"] = opened
    return made
