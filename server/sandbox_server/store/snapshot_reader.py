"""The reads of snapshots in one transaction."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from sandbox_server.domain import errors, selector
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import Snapshot, SnapshotEvent, State
from sandbox_server.domain.tenant import ANY
from sandbox_server.store import snapshot_documents, snapshot_rows, tables
from sandbox_server.store.connection import Cursor

CHUNK = 100
"""Snapshots that a list reads at once."""


@dataclass(frozen=True, slots=True)
class SnapshotSearch:
    """Selects the snapshots of a tenant, or of `ANY`, in `namespaces` that match all fields.

    No namespaces (None) are all of them. An empty `sandbox_id`, `project` or `schedule_id` is any. No states are all but DELETED.
    """

    tenant: str
    namespaces: frozenset[str] | None
    sandbox_id: str = ""
    project: str = ""
    labels: selector.Selector = selector.EVERYTHING
    states: frozenset[State] = frozenset()
    schedule_id: str = ""

    def matches(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot has the labels and the schedule, which no statement selects by."""
        return self.labels.matches(snapshot.labels) and self.schedule_id in ("", snapshot.schedule_id)

    def page(self, after: Key, limit: int) -> sa.Select[Any]:
        """Returns the statement that finds at most `limit` in the order of their keys, after a key, whatever `matches` says."""
        columns = tables.SNAPSHOT.c
        found = snapshot_rows.SNAPSHOTS.where(sa.tuple_(columns.namespace, columns.id) > sa.tuple_(*after))
        if self.tenant != ANY:
            found = found.where(columns.tenant == self.tenant)
        if self.namespaces is not None:
            found = found.where(columns.namespace.in_(sorted(self.namespaces)))
        if self.sandbox_id:
            found = found.where(columns.sandbox_id == self.sandbox_id)
        if self.project:
            found = found.where(columns.project == self.project)
        named = columns.state.in_(sorted(one.name for one in self.states))
        return (
            found.where(named if self.states else columns.state != State.DELETED.name)
            .order_by(columns.namespace, columns.id)
            .limit(limit)
        )


class SnapshotReader:
    """Reads as of one moment."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def _events(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> list[SnapshotEvent]:
        return [snapshot_documents.event(*row) for row in self._cursor.rows(statement, parameters)]

    def sequence(self) -> int:
        """Returns the sequence of the newest event of a snapshot."""
        return self._cursor.rows(snapshot_rows.LOG)[0][0]  # type: ignore[no-any-return]

    def last(self, key: Key) -> SnapshotEvent | None:
        """Returns the last event of a snapshot, DELETED or not; None if no snapshot has that key."""
        return next(iter(self._events(snapshot_rows.LAST, snapshot_rows.of(key))), None)

    def live(self, namespaces: Collection[str] | None = None) -> list[SnapshotEvent]:
        """Returns the last events of the snapshots in some namespaces, or in all, that are not DELETED."""
        if namespaces is None:
            return self._events(snapshot_rows.LIVE)
        several = (self._events(snapshot_rows.LIVE_IN, {"of_namespace": one}) for one in sorted(set(namespaces)))
        return [event for events in several for event in events]

    def of_sandbox(self, key: Key) -> list[SnapshotEvent]:
        """Returns the last events of the snapshots that are not DELETED, of all sandboxes that have or had this key."""
        of_sandbox = {"of_namespace": key.namespace, "of_sandbox_id": key.id}
        return self._events(snapshot_rows.LIVE_OF_SANDBOX, of_sandbox)

    def count(self, tenant: str) -> int:
        """Returns the number of the snapshots of a tenant that are not DELETED."""
        return self._cursor.rows(snapshot_rows.COUNT, {"of_tenant": tenant})[0][0]  # type: ignore[no-any-return]

    def events(self, after: int, limit: int) -> list[SnapshotEvent]:
        """Returns at most `limit` events after a sequence. Raises `errors.OutOfRange` if one of them was trimmed."""
        _, trimmed = self._cursor.rows(snapshot_rows.LOG)[0]
        if after < trimmed:
            raise errors.OutOfRange(
                "HISTORY_TRIMMED",
                f"the events of snapshots up to {trimmed} are no longer kept: open again without after_sequence",
                first_kept_sequence=str(trimmed + 1),
            )
        # The log has no gaps.
        return self._events(snapshot_rows.EVENTS_AFTER, {"after": after, "until": after + limit})

    def search(self, selection: SnapshotSearch, after: Key | None) -> Iterator[SnapshotEvent]:
        """Yields the last events of the snapshots that match, in the order of their keys, after `after`.

        Rows are read as the events are taken.
        """
        last = after or Key("", "")
        while found := self._cursor.find(selection.page(last, CHUNK)):
            events = [snapshot_documents.event(*row) for row in found]
            yield from (one for one in events if selection.matches(one.snapshot))
            last = events[-1].snapshot.key
