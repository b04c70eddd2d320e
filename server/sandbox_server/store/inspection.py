"""Looks at a database without changing it, also beside a service that uses it."""

import dataclasses
import itertools
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from sandbox_server.domain.lease import Lease, Replica
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.schedule import Schedule
from sandbox_server.store import address, connection, leases, rows, schedule_documents, schedule_rows, tables
from sandbox_server.store.address import Location
from sandbox_server.store.schema import Schema, compare

_TABLES = (
    tables.SANDBOX,
    tables.ENVIRONMENT,
    tables.EVENT,
    tables.PART,
    tables.LOG,
    tables.SNAPSHOT,
    tables.SNAPSHOT_EVENT,
    tables.SNAPSHOT_LOG,
    tables.SCHEDULE,
    tables.COVERED,
    tables.SCHEDULE_LOG,
    tables.REQUEST,
    tables.REPLICA,
    tables.LEASE,
    tables.LEGACY,
)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What there is to know of a database.

    - `product`: its name and version, such as `PostgreSQL 16.2`.
    - `missing_rights`: what its user may not do, such as `INSERT on sandbox`. If anything is missing, or the schema cannot be
      used, what follows is not read but for `ahead`.
    - `key_ids`: the ids of the keys of the stored environments.
    - `schedules`: those of all tenants.
    - `ahead`: how far its clock is ahead of this machine's. SQLite has no clock of its own.
    - `replicas`, `leases`: the replicas that live, and every lease. None with SQLite, which one service has alone.
    """

    product: str
    schema: Schema
    missing_rights: Sequence[str] = ()
    key_ids: Sequence[bytes] = ()
    schedules: Sequence[Schedule] = ()
    ahead: timedelta = timedelta()
    replicas: Sequence[Replica] = ()
    leases: Sequence[Lease] = ()


def file(url: Location) -> Path | None:
    """Returns the file of a SQLite database; None for PostgreSQL. Raises ValueError as `address.parse`."""
    place = address.parse(url)
    return Path(str(place.url.database)).absolute() if place.url.get_backend_name() == "sqlite" else None


def inspect(url: Location) -> Inspection:
    """Returns what there is to know of a database. A SQLite file that does not exist counts as empty.

    Raises OSError, with the cause and without the password, if the database cannot be used; ValueError as `address.parse`.
    """
    path = file(url)
    product = f"SQLite {sqlite3.sqlite_version}"
    if path is None:
        engine = connection.connect(url, writes=False, busy_timeout=0)
    elif path.exists():
        engine = _read_only(url, path)
    else:
        return Inspection(product, Schema.EMPTY)
    with connection.transaction(engine) as opened:
        schema = compare(opened)
        if path is None:
            return _postgresql(opened, schema)
        missing = [] if os.access(path, os.W_OK) else [f"write {path}"]
        found = Inspection(product, schema, missing)
        return _contents(opened, found) if schema is Schema.CURRENT else found


def _postgresql(opened: sa.Connection, schema: Schema) -> Inspection:
    before = datetime.now(UTC)
    version, now = opened.execute(sa.text("SELECT current_setting('server_version'), clock_timestamp()")).one()
    ahead = now - (before + (datetime.now(UTC) - before) / 2)
    missing = _missing_rights(opened, schema)
    found = Inspection(f"PostgreSQL {version.split()[0]}", schema, missing, ahead=ahead)
    if schema is not Schema.CURRENT or missing:
        return found
    return dataclasses.replace(
        _contents(opened, found),
        replicas=leases.living(opened, Pace.lease),
        leases=tuple(leases.known(opened, Pace.lease).values()),
    )


def _contents(opened: sa.Connection, found: Inspection) -> Inspection:
    """Returns `found` with what is read of the tables."""
    return dataclasses.replace(
        found,
        key_ids=[bytes(one) for one in opened.scalars(rows.KEYS)],
        schedules=[schedule_documents.schedule(one) for one in opened.scalars(schedule_rows.IN_ORDER)],
    )


def _read_only(url: Location, path: Path) -> sa.Engine:
    """Returns an engine for a SQLite file that exists. It makes no files beside it.

    While a service uses the file, its log is there. Without a log nothing can change, and SQLite is told so: it would
    otherwise make the files that readers share, which would be this user's and not the service's.
    """
    unchanging = "" if path.with_name(path.name + "-wal").exists() else "&immutable=1"
    uri = f"file:{quote(str(path))}?mode=ro{unchanging}"
    return sa.create_engine(address.parse(url).url, creator=lambda: sqlite3.connect(uri, uri=True))


def _missing_rights(opened: sa.Connection, schema: Schema) -> list[str]:
    def says(query: str, **values: Any) -> bool:
        return bool(opened.scalar(sa.text(f"SELECT {query}"), values))

    missing = []
    if says("current_setting('transaction_read_only')::boolean"):
        missing.append("write: the server is a replica, or read-only by default")
    if schema is Schema.EMPTY and not says("has_schema_privilege(current_schema(), 'CREATE')"):
        missing.append("CREATE in the schema")
    if schema is Schema.CURRENT:
        rights = itertools.product(("SELECT", "INSERT", "UPDATE", "DELETE"), (one.name for one in _TABLES))
        missing += [
            f"{verb} on {name}"
            for verb, name in rights
            if not says("has_table_privilege(:name, :verb)", name=name, verb=verb)
        ]
    return missing
