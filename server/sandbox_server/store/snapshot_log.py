"""How an event is appended to the log of snapshots: one in a transaction, since they are few."""

from collections.abc import Callable
from dataclasses import dataclass

from sandbox_server.domain import errors
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import Snapshot, SnapshotEvent, State
from sandbox_server.store import rows, snapshot_documents, snapshot_rows
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.connection import Cursor
from sandbox_server.store.reader import Reader
from sandbox_server.store.transaction import Request, Stale, reused


@dataclass(frozen=True, slots=True)
class SnapshotWrite:
    """The next event of a snapshot.

    `decided_on` is the sequence of the snapshot's event from which `snapshot` was made; 0 for a new one. A snapshot equal to
    that of the event writes nothing. `epoch` is as in `transaction.Write`.
    """

    snapshot: Snapshot
    decided_on: int
    epoch: int | None = None


SnapshotMutation = Callable[[Reader], SnapshotWrite]
"""A function of what it reads, of sandboxes and of snapshots. It may raise."""


class SnapshotLog:
    """A transaction that appends to the log of snapshots.

    It locks the log of sandboxes too: until the commit, nothing that a mutation has read of a sandbox changes, and no other
    request takes its id. `appended` is the event that it appended, and `epochs` are those that the event was decided under.
    """

    def __init__(self, cursor: Cursor, cipher: Cipher) -> None:
        self._cursor = cursor
        self._cipher = cipher
        cursor.rows(rows.APPENDING)
        ((self._stands, _),) = cursor.rows(snapshot_rows.APPENDING)
        self.reader = Reader(cursor, cipher)
        self.appended: SnapshotEvent | None = None
        self.epochs: set[tuple[str, int]] = set()

    def run(self, mutation: SnapshotMutation, request: Request | None) -> SnapshotEvent:
        """Runs a mutation and returns its event, or the last event of the snapshot where it writes nothing.

        A repeated request runs nothing. Its answer is the last event of its snapshot, or, where another snapshot has the key
        by then, the event of the first answer. Raises what `mutation` raises, and `Stale`.
        """
        if request is None:
            return self.append(mutation(self.reader))
        name = {"of_tenant": request.tenant, "of_request_id": request.id}
        if (known := self._cursor.first(rows.REQUEST, name)) is None:
            answer = self.append(mutation(self.reader))
            made = answer.snapshot
            fingerprint = self._cipher.fingerprint(request.payload)
            values = (request.tenant, request.id, fingerprint, made.namespace, made.id, made.uid, answer.sequence)
            self._cursor.write(rows.REMEMBER, [dict(zip(rows.REMEMBERED, values, strict=True))])
            return answer
        fingerprint, namespace, snapshot_id, uid, sequence = known
        if not self._cipher.same(fingerprint, request.payload):
            raise reused()
        last = self.reader.snapshots.last(Key(namespace, snapshot_id))
        return last if last is not None and last.snapshot.uid == uid else self._event(sequence, snapshot_id)

    def _event(self, sequence: int, snapshot_id: str) -> SnapshotEvent:
        """Returns the event of a sequence. Raises `errors.NotFound` if it was trimmed."""
        found = self._cursor.first(snapshot_rows.EVENT, {"of_sequence": sequence})
        if found is None:
            message = f"the snapshot {snapshot_id!r} was deleted: create another"
            raise errors.NotFound("SNAPSHOT_NOT_FOUND", message, snapshot_id=snapshot_id)
        return snapshot_documents.event(*found)

    def append(self, write: SnapshotWrite) -> SnapshotEvent:
        """Appends an event and returns it, or the last event where there is nothing to write. Raises `Stale`."""
        after = write.snapshot
        row = self._cursor.first(snapshot_rows.LAST, snapshot_rows.of(after.key))
        last = None if row is None else snapshot_documents.event(*row)
        same = last is not None and last.snapshot.uid == after.uid
        if last is not None and same:
            if last.sequence != write.decided_on:
                raise Stale
            if last.snapshot == after:
                return last
        elif write.decided_on or not (last is None or last.snapshot.state is State.DELETED):
            raise Stale
        event = SnapshotEvent(self._stands + 1, after)
        document = snapshot_documents.written(after, row[1] if row is not None and same else None)
        columns = snapshot_rows.columns(event, document)
        of_last = snapshot_rows.of(after.key) | {"of_sequence": 0 if last is None else last.sequence}
        if same:
            self._cursor.write(snapshot_rows.UPDATE, [columns | of_last])
        else:
            self._cursor.write(snapshot_rows.REMOVE, [of_last])
            self._cursor.write(snapshot_rows.INSERT, [columns])
        self._cursor.write(snapshot_rows.APPEND, [columns])
        self._cursor.write(snapshot_rows.APPENDED, [{"last_sequence": event.sequence}])
        if write.epoch is not None:
            self.epochs.add((after.namespace, write.epoch))
        self.appended = event
        return event
