"""The statements that find a page of the history: the events of a tenant, a project, a namespace, a sandbox or all of them,
in either order.

One index leads to the events of a scope in their order, however long the log is. What the index does not decide, such as
one of several namespaces, is compared in at most `SCANNED_MOST` events: a page ends there, and the next goes on.
"""

import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import ANY
from sandbox_server.store import documents, tables

SCANNED_MOST = 2_000
"""Events that one page looks through."""


class Recorded(NamedTuple):
    """An event, and when it was recorded by the clock of the database."""

    event: Event
    at: datetime


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects the events of a tenant in `namespaces`, or of the sandbox `key`, that match every field that is not empty.

    The tenant can be `ANY`. No namespaces (None) are all of them. Only events after the sequence `after`. The newest come
    first, or the oldest with `oldest_first`.
    """

    tenant: str
    namespaces: frozenset[str] | None
    key: Key | None = None
    project: str = ""
    after: int = 0
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """The sequences between two others, both of them left out."""

    above: int
    below: int

    def beyond(self, sequence: int, oldest_first: bool) -> "Span":
        """Returns what comes after `sequence` in the order."""
        if oldest_first:
            return Span(max(self.above, sequence), self.below)
        return Span(self.above, min(self.below, sequence))

    def up_to(self, sequence: int, oldest_first: bool) -> "Span":
        """Returns what comes before `sequence` in the order, and `sequence` itself."""
        if oldest_first:
            return Span(self.above, min(self.below, sequence + 1))
        return Span(max(self.above, sequence - 1), self.below)


@dataclass(frozen=True, slots=True)
class Extent:
    """What a page is a part of: the first sequence that the history still has, and the last.

    `edge` is the sequence beyond which the page did not look; None if it looked at all that there is.
    """

    first_kept: int
    sequence: int
    edge: int | None


class Statements(NamedTuple):
    """The statements of a selection. `edge` finds the last of the events that a page looks through, if there are so many."""

    edge: sa.Executable
    page: sa.Executable


def statements(selection: Selection) -> Statements:
    """Returns the statements of a selection, without its values."""
    compared = selection.key is None and selection.namespaces is not None
    return _statements(
        selection.key is not None,
        selection.tenant != ANY,
        selection.project != "",
        len(selection.namespaces or ()) if compared else None,
        selection.oldest_first,
    )


@functools.lru_cache(maxsize=256)
def _statements(
    of_sandbox: bool, of_tenant: bool, of_project: bool, namespaces: int | None, oldest_first: bool
) -> Statements:
    """Returns the statements of selections with these fields. `namespaces`: how many are compared; None if none are."""
    event = tables.EVENT.c
    tenant = event.tenant == sa.bindparam("of_tenant")
    project = event.project == sa.bindparam("of_project")
    # Each namespace is a parameter: a statement with a list of values is compiled for each use.
    among: list[sa.ColumnElement[str]] = [sa.bindparam(f"namespace_{one}") for one in range(namespaces or 0)]
    place = [event.sequence > sa.bindparam("above"), event.sequence < sa.bindparam("below")]
    compared: list[sa.ColumnElement[bool]] = []
    # What is compared is an expression, so that SQLite does not take an index of it.
    if of_sandbox:
        place += [event.namespace == sa.bindparam("of_namespace"), event.sandbox_id == sa.bindparam("of_id")]
        compared += [_expression(event.tenant) == sa.bindparam("of_tenant")] if of_tenant else []
        compared += [project] if of_project else []
    elif of_tenant:
        place += [tenant, *([project] if of_project else [])]
        compared += [_expression(event.namespace).in_(among)] if namespaces is not None else []
    else:
        place += [event.namespace.in_(among)] if namespaces is not None else []
        compared += [project] if of_project else []
    order = event.sequence.asc() if oldest_first else event.sequence.desc()
    sequences = sa.select(event.sequence).where(*place).order_by(order)
    found = sequences.where(*compared).limit(sa.bindparam("most")).offset(sa.literal_column("0"))
    columns = [event[name] for name in documents.COLUMNS]
    return Statements(
        edge=sequences.limit(sa.literal_column("1")).offset(sa.literal_column(str(SCANNED_MOST - 1))),
        # A status has no names of variables, which can be 256 KiB.
        page=sa.select(*columns, sa.null(), event.at).where(event.sequence.in_(found)).order_by(order),
    )


def _expression(column: sa.Column[str]) -> sa.ColumnElement[str]:
    return column.concat(sa.literal_column("''"))


def parameters(selection: Selection, span: Span) -> dict[str, Any]:
    """Returns the parameters of the statements of a selection, all but `most`."""
    given: dict[str, Any] = {"above": span.above, "below": span.below}
    if selection.tenant != ANY:
        given["of_tenant"] = selection.tenant
    if selection.project:
        given["of_project"] = selection.project
    if selection.key is not None:
        return given | {"of_namespace": selection.key.namespace, "of_id": selection.key.id}
    return given | {f"namespace_{number}": one for number, one in enumerate(sorted(selection.namespaces or ()))}


def moment(stored: datetime | str) -> datetime:
    """Returns a time that the database filled in: SQLite's driver returns it as text in UTC."""
    return datetime.fromisoformat(stored).replace(tzinfo=UTC) if isinstance(stored, str) else stored
