"""The location of the database: a URL as SQLAlchemy or libpq takes it, or the path of a SQLite file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import sqlalchemy as sa

Location = str | Path

_WRONG = "database-url: must be sqlite:///path or postgresql://user:password@host:port/name"
_POSTGRESQL = re.compile(r"(?:postgres|postgresql|postgresql\+psycopg)://(.*)", re.DOTALL)
_AUTHORITY = re.compile(r"((?:[^:/@]*(?::[^@]*)?@)?)([^/?@]*)((?:[/?].*)?)", re.DOTALL)
"""User and password, as SQLAlchemy divides them, then hosts and the rest."""
_HOST = re.compile(r"(?:\[([^][]+)\]|([^][:]*))(?::([0-9]{0,5}))?")


class Place(NamedTuple):
    """The parsed URL, and further arguments for the driver."""

    url: sa.URL
    options: Mapping[str, str] = {}


def parse(location: Location) -> Place:
    """Parses a location. Raises ValueError, which never shows the location: any part of a bad URL may be a password."""
    if isinstance(location, Path):
        return Place(sa.URL.create("sqlite", database=str(location)))
    try:
        if found := _POSTGRESQL.fullmatch(location):
            return _postgresql(found[1])
        parsed = sa.make_url(location)
    except (sa.exc.ArgumentError, ValueError) as error:
        message = str(error)
        raise ValueError(message if message.startswith("database-url: ") else _WRONG) from None
    if parsed.get_backend_name() != "sqlite":
        raise ValueError(_WRONG)
    if parsed.database in (None, "", ":memory:"):
        raise ValueError("database-url: sqlite:/// needs the path of a file, such as sqlite:////var/lib/sandbox.db")
    if "?" in location:
        # SQLAlchemy would take the path for shorter than it is, and make a database there.
        raise ValueError("database-url: sqlite:/// takes no options after a ?; for a path with a ? in it give data-dir")
    return Place(parsed)


def _postgresql(rest: str) -> Place:
    """What follows `postgresql://`. As in libpq there can be several hosts, each with a port of its own."""
    authority = _AUTHORITY.fullmatch(rest)
    if authority is None or "@" in authority[3].partition("?")[0]:
        raise ValueError("database-url: write an @ in the name or the password as %40")
    parsed = sa.make_url(f"postgresql+psycopg://{authority[1]}{authority[3]}")
    parsed = parsed.set(database=unquote(parsed.database or "") or None)
    hosts = [_HOST.fullmatch(one) for one in authority[2].split(",")]
    named = [unquote(one[1] or one[2]) for one in hosts if one]
    ports = [one[3] or "" for one in hosts if one]
    if len(named) < len(hosts):
        raise ValueError(_WRONG)
    if len(hosts) == 1:
        return Place(parsed.set(host=named[0] or None, port=int(ports[0]) if ports[0] else None))
    # Of several hosts, the driver chooses the one that accepts writes.
    query = {"target_session_attrs": "read-write"} | dict(parsed.query)
    return Place(
        parsed.set(host=",".join(named), port=None, query=query), {"port": ",".join(ports)} if any(ports) else {}
    )
