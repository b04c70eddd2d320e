"""The statement that finds the sandboxes of a list, on SQLite and on PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from sandbox_server.domain import selector
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import ANY
from sandbox_server.store import rows, tables

_SPEC = tables.PART.alias("spec")


EVERYWHERE = ""
"""Stands for all namespaces where a namespace is expected."""


@dataclass(frozen=True, slots=True)
class Search:
    """Selects the sandboxes of a tenant, or of `ANY`, in `namespaces` that match all fields.

    No namespaces (None) are all of them, and an empty project is any project. With `volume_kept`, only sandboxes that have
    ended and whose volume is kept.
    """

    tenant: str
    namespaces: frozenset[str] | None
    phases: frozenset[Phase]
    project: str = ""
    labels: selector.Selector = selector.EVERYTHING
    volume_kept: bool = False

    @property
    def places(self) -> Sequence[str]:
        """The namespaces in their order, each of which takes statements of its own, or `EVERYWHERE` alone."""
        return (EVERYWHERE,) if self.namespaces is None else sorted(self.namespaces)


class _Member(sa.ColumnElement[str]):
    """The member of a document at `path`, as text; NULL if there is none."""

    inherit_cache = False
    type = sa.String()

    def __init__(self, document: sa.ColumnElement[str], *path: str) -> None:
        self.document = document
        self.path = path


@compiles(_Member, "sqlite")
def _member_sqlite(element: _Member, compiler: Any, **words: Any) -> str:
    # The key of a label has no quote in it: `selector.parse` has checked it.
    path = "".join(f'."{one}"' for one in element.path)
    return str(compiler.process(sa.cast(sa.func.json_extract(element.document, f"${path}"), sa.String), **words))


@compiles(_Member, "postgresql")
def _member_postgresql(element: _Member, compiler: Any, **words: Any) -> str:
    document = sa.cast(element.document, sa.JSON)
    return str(compiler.process(sa.func.json_extract_path_text(document, *element.path), **words))


def page(search: Search, namespace: str, after: Key, limit: int) -> sa.Select[Any]:
    """The last events of at most `limit` sandboxes of a namespace or `EVERYWHERE`, in the order of their keys, after a key.

    Of several namespaces one a statement: the primary key then gives the rows in their order, and a page reads no more than
    it needs.
    """
    columns = tables.SANDBOX.c
    place = [sa.tuple_(columns.namespace, columns.id) > sa.tuple_(after.namespace, after.id)]
    if namespace != EVERYWHERE:
        place = [columns.namespace == namespace, columns.id > (after.id if after.namespace == namespace else "")]
    if search.tenant != ANY:
        place.append(columns.tenant == search.tenant)
    found = (
        rows.EVENTS.join(tables.SANDBOX, columns.sequence == tables.EVENT.c.sequence)
        .where(
            *place,
            columns.phase.in_(sorted(one.name for one in search.phases)),
            *(_holds(one) for one in search.labels.requirements),
        )
        .order_by(columns.namespace, columns.id)
        .limit(limit)
    )
    if search.volume_kept:
        found = found.where(_Member(tables.EVENT.c.document, "status", "reason") == str(Reason.VOLUME_KEPT.value))
    if search.project:
        found = found.where(tables.SANDBOX.c.project == search.project)
    if search.labels.requirements:
        is_spec = (_SPEC.c.sequence == tables.EVENT.c.spec_sequence) & (_SPEC.c.name == "spec")
        found = found.join(_SPEC, is_spec, isouter=True)
    return found


def _holds(requirement: selector.Requirement) -> sa.ColumnElement[bool]:
    stored_apart = _Member(_SPEC.c.document, "labels", requirement.key)
    # The documents of the first release have the spec in them.
    value = sa.func.coalesce(
        stored_apart, _Member(tables.EVENT.c.document, "spec", "labels", requirement.key), type_=sa.String
    )
    if not requirement.values:
        return value.is_(None) if requirement.negated else value.is_not(None)
    among = value.in_(sorted(requirement.values))
    return sa.or_(value.is_(None), sa.not_(among)) if requirement.negated else among
