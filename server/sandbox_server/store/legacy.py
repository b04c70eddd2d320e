"""The facts that were imported from the database of the former system, by the place of their objects."""

import dataclasses
from collections.abc import Iterable

import sqlalchemy as sa

from sandbox_server.domain.legacy import Fact, Place
from sandbox_server.store import connection, tables
from sandbox_server.store.address import Location

_FIELDS = tuple(one.name for one in dataclasses.fields(Fact))
_OF_PLACE = sa.and_(
    tables.LEGACY.c.namespace == sa.bindparam("of_namespace"), tables.LEGACY.c.name == sa.bindparam("of_name")
)
_ALL = sa.select(*(tables.LEGACY.c[name] for name in _FIELDS))
_UPDATE = sa.update(tables.LEGACY).where(_OF_PLACE)


def known(url: Location) -> dict[Place, Fact]:
    """Returns every fact. The schema must be that of this release. Raises OSError as `connection.transaction`."""
    with connection.once(url, writes=False) as opened:
        return _known(opened)


def record(url: Location, facts: Iterable[Fact]) -> None:
    """Stores facts in one transaction, each in the place of an earlier one about the same object.

    The schema must be that of this release. Raises OSError as `connection.transaction`.
    """
    with connection.once(url, writes=True) as opened:
        present = _known(opened)
        for fact in facts:
            columns = dataclasses.asdict(fact)
            if fact.place not in present:
                opened.execute(sa.insert(tables.LEGACY).values(columns))
            elif present[fact.place] != fact:
                opened.execute(_UPDATE.values(columns), {"of_namespace": fact.namespace, "of_name": fact.name})


def _known(opened: sa.Connection) -> dict[Place, Fact]:
    facts = (Fact(**row) for row in opened.execute(_ALL).mappings())
    return {fact.place: fact for fact in facts}
