"""Reads the table of sandboxes in the database of the former system, in a transaction that can write nothing.

Its releases differ in their columns, so that these are looked up and not assumed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode

import sqlalchemy as sa

from sandbox_server.domain.legacy import Row
from sandbox_server.store import address, connection

TABLE = "Sandbox"
COLUMNS: Mapping[str, Sequence[str]] = {
    "legacy_id": ("id",),
    "name": ("k8sDeploymentName",),
    "namespace": ("k8sNamespace", "namespace"),
    "title": ("name",),
    "project": ("projectId", "project"),
    "owner": ("userId", "owner"),
    "status": ("status",),
    "public_url": ("publicUrl",),
    "ttyd_url": ("ttydUrl",),
}
"""The columns that say each field of a fact: the first that is there is read."""
REQUIRED = ("legacy_id", "name", "namespace")
PRISMA = {
    "connection_limit",
    "pgbouncer",
    "pool_timeout",
    "schema",
    "socket_timeout",
    "sslaccept",
    "statement_cache_size",
}
"""What Prisma's URLs say and libpq refuses. `schema` says where the table is."""
_WRONG = "from: must be postgresql://user:password@host:port/name, as the former system has it"
_FOUND = sa.text(
    "SELECT table_schema, column_name FROM information_schema.columns WHERE table_name = :table "
    "AND table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY table_schema, ordinal_position"
)


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of the table, and the columns that it does not have, such as `userId or owner`."""

    rows: Sequence[Row]
    absent: Sequence[str]


def read(location: str) -> Source:
    """Returns what the table says now.

    Raises ValueError, which shows no part of the location, for one that is none, and for a table that is not there or lacks
    a column without which a row says nothing; OSError, with the cause and without the password, if the database cannot be
    used.
    """
    url, schema = _without_prisma(location)
    try:
        place = address.parse(url)
    except ValueError:
        raise ValueError(_WRONG) from None
    if place.url.get_backend_name() != "postgresql":
        raise ValueError(_WRONG)
    engine = connection.connect(url, writes=False, busy_timeout=0)
    try:
        with engine.connect() as opened:
            opened.execution_options(postgresql_readonly=True)
            return _source(opened, schema)
    except sa.exc.DBAPIError as error:
        cause = str(error.orig).partition("\n")[0]
        shown = engine.url.set(query={}).render_as_string(hide_password=True)
        raise OSError(f"from: {shown} cannot be read: {cause}") from None
    finally:
        engine.dispose()


def _without_prisma(location: str) -> tuple[str, str]:
    """Returns the URL as libpq takes it, and the schema that it names; empty if it names none."""
    # A password may have a question mark in it.
    start = location.find("?", location.find("@") + 1)
    if start < 0:
        return location, ""
    given = parse_qsl(location[start + 1 :], keep_blank_values=True)
    left = urlencode([(name, value) for name, value in given if name not in PRISMA], quote_via=quote)
    return location[:start] + (f"?{left}" if left else ""), dict(given).get("schema", "")


def _source(opened: sa.Connection, schema: str) -> Source:
    found: dict[str, list[str]] = {}
    for where, column in opened.execute(_FOUND, {"table": TABLE}):
        found.setdefault(where, []).append(column)
    if schema:
        found = {where: columns for where, columns in found.items() if where == schema}
    if not found:
        where = f"in the schema {schema}" if schema else "in any schema"
        raise ValueError(
            f'from: there is no table "{TABLE}" {where} that the user may read: check the database and user'
        )
    if len(found) > 1:
        raise ValueError(f'from: several schemas have a table "{TABLE}": add ?schema= and one of {", ".join(found)}')
    ((schema, columns),) = found.items()
    read = {field: next((one for one in names if one in columns), None) for field, names in COLUMNS.items()}
    missing = [" or ".join(COLUMNS[field]) for field in REQUIRED if read[field] is None]
    if read["project"] is None and read["owner"] is None:
        missing.append(" or ".join((*COLUMNS["project"], *COLUMNS["owner"])))
    if missing:
        raise ValueError(f'from: the table "{schema}"."{TABLE}" has no column {", and none ".join(missing)}')
    table = sa.table(sa.quoted_name(TABLE, True), schema=sa.quoted_name(schema, True))
    # An id may be a number, and a status a word of an enum.
    selected = [
        sa.cast(sa.column(sa.quoted_name(name, True), _selectable=table), sa.Text).label(field)
        for field, name in read.items()
        if name is not None
    ]
    rows = [dict(row) for row in opened.execute(sa.select(*selected).select_from(table)).mappings()]
    absent = [" or ".join(COLUMNS[field]) for field, name in read.items() if name is None]
    return Source(rows, absent)
