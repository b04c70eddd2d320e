"""The reads of schedules in one transaction."""

from collections.abc import Collection

import sqlalchemy as sa

from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.schedule import Covered, Schedule
from sandbox_server.domain.tenant import Reach
from sandbox_server.store import schedule_documents, schedule_rows, tables
from sandbox_server.store.connection import Cursor


class ScheduleReader:
    """Reads as of one moment."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def revision(self) -> int:
        """Returns a number that grows with each change that a caller makes of schedules."""
        return self._cursor.rows(schedule_rows.REVISION)[0][0]  # type: ignore[no-any-return]

    def namespaces(self) -> list[str]:
        """Returns the namespaces that have schedules."""
        return [namespace for (namespace,) in self._cursor.rows(schedule_rows.NAMESPACES)]

    def last(self, key: Key) -> Schedule | None:
        """Returns a schedule as it is; None if there is none of that key."""
        found = self._cursor.first(schedule_rows.LAST, schedule_rows.of(key))
        return None if found is None else schedule_documents.schedule(found[0])

    def of(self, namespaces: Collection[str]) -> list[Schedule]:
        """Returns the schedules of some namespaces."""
        return [
            schedule_documents.schedule(document)
            for one in sorted(set(namespaces))
            for (document,) in self._cursor.rows(schedule_rows.IN, {"of_namespace": one})
        ]

    def covered(self, schedule_uid: str, sandbox_uid: str) -> Covered | None:
        """Returns how far the slots of a sandbox were worked; None if it is not known to be covered."""
        found = self._cursor.first(schedule_rows.COVERED, schedule_rows.of_covered(schedule_uid, sandbox_uid))
        return None if found is None else schedule_documents.covered(found[0])

    def all_covered(self, namespaces: Collection[str]) -> list[Covered]:
        """Returns the same of all schedules and sandboxes of some namespaces."""
        return [
            schedule_documents.covered(document)
            for one in sorted(set(namespaces))
            for (document,) in self._cursor.rows(schedule_rows.COVERED_IN, {"of_namespace": one})
        ]

    def count(self, tenant: str) -> int:
        """Returns the number of the schedules of a tenant."""
        return self._cursor.rows(schedule_rows.COUNT, {"of_tenant": tenant})[0][0]  # type: ignore[no-any-return]

    def page(self, reach: Reach, after: Key | None, limit: int) -> list[Schedule]:
        """Returns at most `limit` schedules that are within reach, in the order of their keys, after `after`."""
        columns = tables.SCHEDULE.c
        found = schedule_rows.IN_ORDER
        if after is not None:
            found = found.where(sa.tuple_(columns.namespace, columns.id) > sa.tuple_(*after))
        if reach.tenant:
            found = found.where(columns.tenant == reach.tenant)
        if reach.namespaces is not None:
            found = found.where(columns.namespace.in_(sorted(reach.namespaces)))
        return [schedule_documents.schedule(document) for (document,) in self._cursor.find(found.limit(limit))]
