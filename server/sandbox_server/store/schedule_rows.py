"""The statements on schedules and on the sandboxes that they cover."""

from typing import Any

import sqlalchemy as sa

from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.schedule import Covered, Schedule
from sandbox_server.store import tables

_SCHEDULE = tables.SCHEDULE.c
_COVERED = tables.COVERED.c
_LOG = tables.SCHEDULE_LOG.c
_OF_KEY = sa.and_(_SCHEDULE.namespace == sa.bindparam("of_namespace"), _SCHEDULE.id == sa.bindparam("of_id"))
_OF_SANDBOX = sa.and_(
    _COVERED.schedule_uid == sa.bindparam("of_schedule_uid"), _COVERED.sandbox_uid == sa.bindparam("of_sandbox_uid")
)


def _given(*names: str) -> dict[str, Any]:
    return {name: sa.bindparam(name) for name in names}


SCHEDULES = sa.select(_SCHEDULE.document)
"""The documents of all schedules."""
IN_ORDER = SCHEDULES.order_by(_SCHEDULE.namespace, _SCHEDULE.id)
LAST = SCHEDULES.where(_OF_KEY)
IN = IN_ORDER.where(_SCHEDULE.namespace == sa.bindparam("of_namespace"))
NAMESPACES = sa.select(_SCHEDULE.namespace).distinct()
COUNT = sa.select(sa.func.count()).where(_SCHEDULE.tenant == sa.bindparam("of_tenant"))
INSERT = sa.insert(tables.SCHEDULE).values(_given("namespace", "id", "uid", "tenant", "document"))
UPDATE = sa.update(tables.SCHEDULE).where(_OF_KEY).values(_given("document"))
REMOVE = sa.delete(tables.SCHEDULE).where(_OF_KEY)

COVERED_IN = sa.select(_COVERED.document).where(_COVERED.namespace == sa.bindparam("of_namespace"))
COVERED = sa.select(_COVERED.document).where(_OF_SANDBOX)
COVER = sa.insert(tables.COVERED).values(_given("schedule_uid", "sandbox_uid", "namespace", "document"))
LEAVE = sa.delete(tables.COVERED).where(_OF_SANDBOX)
LEAVE_ALL = sa.delete(tables.COVERED).where(_COVERED.schedule_uid == sa.bindparam("of_schedule_uid"))

REVISION = sa.select(_LOG.revision)
CHANGED = sa.update(tables.SCHEDULE_LOG).values(revision=_LOG.revision + sa.literal_column("1"))


def of(key: Key) -> dict[str, Any]:
    """Returns the parameters that name the row of a schedule."""
    return {"of_namespace": key.namespace, "of_id": key.id}


def of_covered(schedule_uid: str, sandbox_uid: str) -> dict[str, Any]:
    """Returns the parameters that name the row of a sandbox that a schedule covers."""
    return {"of_schedule_uid": schedule_uid, "of_sandbox_uid": sandbox_uid}


def columns(value: Schedule | Covered, document: str) -> dict[str, Any]:
    """Returns the parameters of the statements above for a value."""
    names = ("id", "uid", "tenant") if isinstance(value, Schedule) else ("schedule_uid", "sandbox_uid")
    return {name: getattr(value, name) for name in (*names, "namespace")} | {"document": document}
