"""The statements that find the events of a watch, in the order of the log.

Each finds the sequences in an index, in their order, and reads only these events.
"""

import collections
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from sandbox_server.domain.sandbox import Key
from sandbox_server.store import rows, tables


@dataclass(frozen=True, slots=True)
class Scope:
    """The events of a tenant, of a project of that tenant, or of some of its sandboxes (whatever their project).

    With the tenant `ANY`: all events, those of a namespace, or those of some sandboxes.
    """

    tenant: str
    keys: frozenset[Key] = frozenset()
    project: str = ""
    namespace: str = ""


_GIVEN: tuple[Any, Any, Any] = (sa.bindparam("after"), sa.bindparam("until"), sa.bindparam("most"))


def _page(concerned: sa.ColumnElement[bool], after: Any, until: Any, most: Any) -> sa.Select[Any]:
    sequences = (
        sa.select(tables.EVENT.c.sequence)
        .where(concerned, tables.EVENT.c.sequence > after, tables.EVENT.c.sequence <= until)
        .order_by(tables.EVENT.c.sequence)
        .limit(most)
        # Without an offset SQLAlchemy adds a parameter for it.
        .offset(sa.literal_column("0"))
    )
    return rows.EVENTS.where(tables.EVENT.c.sequence.in_(sequences)).order_by(tables.EVENT.c.sequence)


OF_ALL = _page(sa.true(), *_GIVEN)
OF_NAMESPACE = _page(tables.EVENT.c.namespace == sa.bindparam("of_namespace"), *_GIVEN)
OF_TENANT = _page(tables.EVENT.c.tenant == sa.bindparam("of_tenant"), *_GIVEN)
OF_PROJECT = _page(
    sa.and_(tables.EVENT.c.tenant == sa.bindparam("of_tenant"), tables.EVENT.c.project == sa.bindparam("of_project")),
    *_GIVEN,
)
OF_SANDBOX = _page(
    sa.and_(
        tables.EVENT.c.namespace == sa.bindparam("of_namespace"), tables.EVENT.c.sandbox_id == sa.bindparam("of_id")
    ),
    *_GIVEN,
)

BACKWARDS = (
    rows.EVENTS.where(
        tables.EVENT.c.namespace == sa.bindparam("of_namespace"), tables.EVENT.c.sandbox_id == sa.bindparam("of_id")
    )
    .order_by(tables.EVENT.c.sequence.desc())
    .limit(sa.bindparam("most"))
    .offset(sa.literal_column("0"))
)
"""The newest events of a sandbox and of those that had its key before, the last first."""


def of_sandboxes(keys: Collection[Key], after: int, until: int, most: int) -> sa.Select[Any]:
    """Returns the statement for several sandboxes. It contains its values."""
    ids = collections.defaultdict(list)
    for key in sorted(keys):
        ids[key.namespace].append(key.id)
    concerned = (sa.and_(tables.EVENT.c.namespace == one, tables.EVENT.c.sandbox_id.in_(of)) for one, of in ids.items())
    return _page(sa.or_(*concerned), after, until, most)
