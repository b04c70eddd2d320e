"""The reads of one transaction."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import ANY
from sandbox_server.store import documents, history, rows, search, timeline
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.connection import Cursor
from sandbox_server.store.schedule_reader import ScheduleReader
from sandbox_server.store.snapshot_reader import SnapshotReader

CHUNK = 25
"""Sandboxes or events that a list reads at once. A spec can be 256 KiB, and a page may end after a few of them."""

FORMER_MOST = 500
"""Events that are looked through for a former sandbox: what is made too late is seen soon after its end."""


class Reader:
    """Reads as of one moment. `snapshots` and `schedules` read what there is of those as of the same moment."""

    def __init__(self, cursor: Cursor, cipher: Cipher) -> None:
        self._cursor = cursor
        self._cipher = cipher
        self.snapshots = SnapshotReader(cursor)
        self.schedules = ScheduleReader(cursor)

    def last(self, key: Key) -> Event | None:
        """Returns the last event of a sandbox, TERMINATED or not; None if no sandbox has that key."""
        found = self._last_row(key)
        return None if found is None else next(documents.events([found], self._specs))

    def last_of(self, key: Key, uid: str) -> Event | None:
        """Returns the last event of the sandbox with that key and uid, which others with the key may have followed.

        Returns None if there is none, or it is not among the newest events.
        """
        last = self.last(key)
        if last is None or last.sandbox.uid == uid:
            return last
        events = self._decoded(self._cursor.rows(history.BACKWARDS, {"most": FORMER_MOST} | rows.of(key)))
        return next((event for event in events if event.sandbox.uid == uid), None)

    def _last_row(self, key: Key) -> documents.Row | None:
        found = self._cursor.first(rows.LAST, rows.of(key))
        return None if found is None else documents.Row(*found)

    def _decoded(self, found: Sequence[tuple[Any, ...]]) -> Iterator[Event]:
        """Returns the events of rows of `rows.EVENTS`; each is made as it is taken."""
        return documents.events([documents.Row(*one) for one in found], self._specs)

    def _specs(self, sequences: Collection[int]) -> Sequence[tuple[Any, ...]]:
        if len(sequences) > 1:
            return self._cursor.find(rows.specs(sequences))
        # A statement with a list of values is compiled for each use, which takes a hundred times as long as to run it.
        return [one for sequence in sequences for one in self._cursor.rows(rows.SPEC, {"of_sequence": sequence})]

    def _events(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> list[Event]:
        """Returns the events that a statement finds."""
        return list(self._decoded(self._cursor.rows(statement, parameters)))

    def env(self, key: Key) -> dict[str, str]:
        """Returns the environment of a sandbox; empty if no sandbox has that key."""
        found = self._cursor.first(rows.ENV, rows.of(key))
        return {} if found is None else self._cipher.decrypt(found[1], found[0])

    def env_of(self, event: Event) -> dict[str, str] | None:
        """Returns the committed environment of a sandbox whose last event this is; None if there is a newer event."""
        found = self._cursor.first(rows.ENV_OF_EVENT, rows.of_version(event))
        return None if found is None else self._cipher.decrypt(found[1], found[0])

    def unknown_keys(self) -> list[str]:
        """Returns the ids, in hexadecimal, of the encryption keys of environments that are not given."""
        return sorted(bytes(found).hex() for (found,) in self._cursor.rows(rows.KEYS) if not self._cipher.knows(found))

    def ping(self) -> None:
        """Raises an error of the driver if the database does not answer."""
        self._cursor.first(rows.STANDS)

    def sequence(self) -> int:
        """Returns the sequence of the newest event."""
        return self._cursor.rows(rows.STANDS)[0][0]  # type: ignore[no-any-return]

    def search(self, selection: search.Search, after: Key | None) -> Iterator[Event]:
        """Yields the last events of the sandboxes that match, in the order of their keys, after `after`.

        Rows are read as the events are taken.
        """
        for namespace in selection.places:
            last = after or Key("", "")
            if namespace < last.namespace and namespace != search.EVERYWHERE:
                continue
            while found := self._cursor.find(search.page(selection, namespace, last, CHUNK)):
                yield from (events := list(self._decoded(found)))
                last = events[-1].sandbox.key

    def live(self) -> tuple[int, list[Event]]:
        """Returns the log's sequence, and the last event of every sandbox that is not TERMINATED."""
        return self.sequence(), self._events(rows.LIVE)

    def events(self, after: int, limit: int) -> list[Event]:
        """Returns the events after a sequence. Raises `errors.OutOfRange` if one of them was trimmed."""
        self._check_history(after)
        # The log has no gaps.
        return self._events(rows.EVENTS_AFTER, {"after": after, "until": after + limit})

    def history(self, scope: history.Scope, after: int, until: int, most: int) -> Iterator[Event]:
        """Returns the first events of a scope after `after` and up to `until`. Raises as `events`.

        Each event is made as it is taken, on the thread that takes it.
        """
        self._check_history(after)
        place = {"after": after, "until": until, "most": most}
        if len(scope.keys) > 1:
            return self._decoded(self._cursor.find(history.of_sandboxes(scope.keys, **place)))
        if scope.keys:
            found = self._cursor.rows(history.OF_SANDBOX, place | rows.of(next(iter(scope.keys))))
        elif scope.project:
            of_project = {"of_tenant": scope.tenant, "of_project": scope.project}
            found = self._cursor.rows(history.OF_PROJECT, place | of_project)
        elif scope.namespace:
            found = self._cursor.rows(history.OF_NAMESPACE, place | {"of_namespace": scope.namespace})
        elif scope.tenant == ANY:
            found = self._cursor.rows(history.OF_ALL, place)
        else:
            found = self._cursor.rows(history.OF_TENANT, place | {"of_tenant": scope.tenant})
        return self._decoded(found)

    def recorded(
        self, selection: timeline.Selection, cursor: int | None
    ) -> tuple[timeline.Extent, Iterator[timeline.Recorded]]:
        """Returns the events that match in their order, beyond the sequence `cursor`, and what they are a part of.

        Rows are read as the events are taken.
        """
        trimmed = self._cursor.rows(rows.TRIMMED)[0][0]
        sequence = self.sequence()
        if selection.namespaces is not None and not selection.namespaces:
            return timeline.Extent(trimmed + 1, sequence, None), iter(())
        span = timeline.Span(max(selection.after, trimmed), sequence + 1)
        if cursor is not None:
            span = span.beyond(cursor, selection.oldest_first)
        edge = self._cursor.first(timeline.statements(selection).edge, timeline.parameters(selection, span))
        if edge is not None:
            span = span.up_to(edge[0], selection.oldest_first)
        extent = timeline.Extent(trimmed + 1, sequence, None if edge is None else edge[0])
        return extent, self._recorded(selection, span)

    def _recorded(self, selection: timeline.Selection, span: timeline.Span) -> Iterator[timeline.Recorded]:
        page = timeline.statements(selection).page
        while found := self._cursor.rows(page, timeline.parameters(selection, span) | {"most": CHUNK}):
            made = documents.events([documents.Row(*one[:-1]) for one in found], self._specs)
            yield from (
                timeline.Recorded(event, timeline.moment(row[-1])) for event, row in zip(made, found, strict=True)
            )
            if len(found) < CHUNK:
                return
            span = span.beyond(found[-1][0], selection.oldest_first)

    def _check_history(self, after: int) -> None:
        """Raises `errors.OutOfRange` if an event after the sequence was trimmed."""
        if after < self._cursor.rows(rows.TRIMMED)[0][0]:
            raise errors.OutOfRange(
                "HISTORY_TRIMMED", "the events after after_sequence are no longer kept: open again without it"
            )
