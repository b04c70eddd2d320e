"""The statement that finds the sandboxes of a list, on SQLite and on PostgreSQL."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlmodel import SQLModel

from sandbox_server.domain import selector
from sandbox_server.domain.phase import Phase
from sandbox_server.store import tables

_SANDBOX, _EVENT = (
    SQLModel.metadata.tables[str(one.__tablename__)] for one in (tables.SandboxRow, tables.StatusEventRow)
)


@dataclass(frozen=True, slots=True)
class Search:
    """The sandboxes of a tenant in `namespaces` that match all that is given. An empty project is any project."""

    tenant: str
    namespaces: frozenset[str]
    phases: frozenset[Phase]
    project: str = ""
    labels: selector.Selector = selector.EVERYTHING


class _Label(sa.ColumnElement[str]):
    """The value of the label `key` of the sandbox in a document; NULL without such a label."""

    inherit_cache = False
    type = sa.String()

    def __init__(self, document: sa.ColumnElement[str], key: str) -> None:
        self.document = document
        self.key = key


@compiles(_Label, "sqlite")
def _label_sqlite(element: _Label, compiler: Any, **words: Any) -> str:
    # A key of a label has no quote in it: `selector.parse` took it.
    path = f'$.spec.labels."{element.key}"'
    return str(compiler.process(sa.func.json_extract(element.document, path), **words))


@compiles(_Label, "postgresql")
def _label_postgresql(element: _Label, compiler: Any, **words: Any) -> str:
    document = sa.cast(element.document, sa.JSON)
    return str(compiler.process(sa.func.json_extract_path_text(document, "spec", "labels", element.key), **words))


def page(search: Search, namespace: str, after: str, limit: int) -> sa.Select[tuple[str]]:
    """The documents of at most `limit` sandboxes of one namespace, in the order of their ids, after an id.

    One namespace a statement: the primary key then gives the rows in their order, and a page reads no more than it needs.
    """
    found = (
        sa.select(_EVENT.c.document)
        .join(_SANDBOX, _SANDBOX.c.sequence == _EVENT.c.sequence)
        .where(
            _SANDBOX.c.tenant == search.tenant,
            _SANDBOX.c.namespace == namespace,
            _SANDBOX.c.id > after,
            _SANDBOX.c.phase.in_(sorted(one.name for one in search.phases)),
            *(_holds(one) for one in search.labels.requirements),
        )
        .order_by(_SANDBOX.c.id)
        .limit(limit)
    )
    return found.where(_SANDBOX.c.project == search.project) if search.project else found


def _holds(requirement: selector.Requirement) -> sa.ColumnElement[bool]:
    value = _Label(_EVENT.c.document, requirement.key)
    if not requirement.values:
        return value.is_not(None) if requirement.wanted else value.is_(None)
    among = value.in_(sorted(requirement.values))
    return among if requirement.wanted else sa.or_(value.is_(None), sa.not_(among))
