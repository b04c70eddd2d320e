"""How a change of a schedule is recorded, with what it records of sandboxes and with the snapshot of a slot: all or nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.schedule import Covered, Schedule
from sandbox_server.domain.snapshot import SnapshotEvent
from sandbox_server.store import rows, schedule_documents, schedule_rows
from sandbox_server.store.cipher import Cipher
from sandbox_server.store.connection import Cursor
from sandbox_server.store.reader import Reader
from sandbox_server.store.snapshot_log import SnapshotLog, SnapshotWrite
from sandbox_server.store.transaction import Request, reused


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleWrite:
    """What becomes of a schedule, which is as `schedule` from then on, or gone if it is `removed`.

    `covers` is what is recorded of sandboxes; `leaves` has the uids of those that it covers no more. `snapshot` is the next
    event of a snapshot. With `epoch`, the lease of the namespace, where there are leases, must still be of that epoch; without,
    a caller has made the change.
    """

    schedule: Schedule
    removed: bool = False
    covers: Sequence[Covered] = ()
    leaves: Sequence[str] = ()
    snapshot: SnapshotWrite | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A schedule as it is after a change, None if it is gone, and the event of the snapshot that was recorded with it."""

    schedule: Schedule | None
    snapshot: SnapshotEvent | None = None


ScheduleMutation = Callable[[Reader], ScheduleWrite | None]
"""A function of what it reads. None: nothing changes. It may raise."""


class ScheduleLog:
    """Records a change of a schedule. Under the locks of a `SnapshotLog`, so that nothing that a mutation has read changes."""

    def __init__(self, cursor: Cursor, cipher: Cipher, log: SnapshotLog) -> None:
        self._cursor = cursor
        self._cipher = cipher
        self._log = log

    def run(self, mutation: ScheduleMutation, request: Request | None) -> Recorded:
        """Runs a mutation and records what it returns.

        A repeated request runs nothing. Its answer is the schedule as it is now, None if that is gone. Raises what `mutation`
        raises, and `Stale`.
        """
        if request is None:
            return self._record(mutation(self._log.reader))
        name = {"of_tenant": request.tenant, "of_request_id": request.id}
        if (known := self._cursor.first(rows.REQUEST, name)) is None:
            wanted = mutation(self._log.reader)
            if wanted is None:
                return Recorded(None)
            of = wanted.schedule
            fingerprint = self._cipher.fingerprint(request.payload)
            values = (request.tenant, request.id, fingerprint, of.namespace, of.id, of.uid, 0)
            self._cursor.write(rows.REMEMBER, [dict(zip(rows.REMEMBERED, values, strict=True))])
            return self._record(wanted)
        fingerprint, namespace, schedule_id, uid, _ = known
        if not self._cipher.same(fingerprint, request.payload):
            raise reused()
        last = self._log.reader.schedules.last(Key(namespace, schedule_id))
        return Recorded(last if last is not None and last.uid == uid else None)

    def _record(self, write: ScheduleWrite | None) -> Recorded:
        if write is None:
            return Recorded(None)
        schedule = write.schedule
        of_schedule = schedule_rows.of(schedule.key)
        former = self._cursor.first(schedule_rows.LAST, of_schedule)
        if write.removed:
            self._cursor.write(schedule_rows.REMOVE, [of_schedule])
            self._cursor.write(schedule_rows.LEAVE_ALL, [{"of_schedule_uid": schedule.uid}])
        else:
            document = schedule_documents.written(schedule, None if former is None else former[0])
            statement = schedule_rows.INSERT if former is None else schedule_rows.UPDATE
            self._cursor.write(statement, [schedule_rows.columns(schedule, document) | of_schedule])
        self._cover(schedule, write)
        if write.epoch is None:
            self._cursor.write(schedule_rows.CHANGED, [{}])
        else:
            self._log.epochs.add((schedule.namespace, write.epoch))
        event = None if write.snapshot is None else self._log.append(write.snapshot)
        return Recorded(None if write.removed else schedule, event)

    def _cover(self, schedule: Schedule, write: ScheduleWrite) -> None:
        made = []
        for one in write.covers:
            former = self._cursor.first(schedule_rows.COVERED, schedule_rows.of_covered(schedule.uid, one.sandbox_uid))
            made.append(
                schedule_rows.columns(one, schedule_documents.written(one, None if former is None else former[0]))
            )
        uids = [*write.leaves, *(one.sandbox_uid for one in write.covers)]
        for statement, parameters in (
            (schedule_rows.LEAVE, [schedule_rows.of_covered(schedule.uid, uid) for uid in uids]),
            (schedule_rows.COVER, made),
        ):
            if parameters:
                self._cursor.write(statement, parameters)
