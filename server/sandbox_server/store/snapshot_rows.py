"""The statements on snapshots and their log."""

from typing import Any

import sqlalchemy as sa

from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import SnapshotEvent
from sandbox_server.store import tables

_SNAPSHOT = tables.SNAPSHOT.c
_EVENT = tables.SNAPSHOT_EVENT.c
_LOG = tables.SNAPSHOT_LOG.c
_OF_KEY = sa.and_(_SNAPSHOT.namespace == sa.bindparam("of_namespace"), _SNAPSHOT.id == sa.bindparam("of_id"))
_OF_VERSION = sa.and_(_OF_KEY, _SNAPSHOT.sequence == sa.bindparam("of_sequence"))
_IDENTITY = ("namespace", "id", "uid", "tenant", "sandbox_id", "sandbox_uid", "project")
_CHANGED = ("state", "sequence", "document")
_NOT_DELETED = _SNAPSHOT.state != sa.literal_column("'DELETED'")


def _given(*names: str) -> dict[str, Any]:
    return {name: sa.bindparam(name) for name in names}


SNAPSHOTS = sa.select(_SNAPSHOT.sequence, _SNAPSHOT.document)
"""The last events of all snapshots: each row is a sequence and a document."""
LAST = SNAPSHOTS.where(_OF_KEY)
LIVE = SNAPSHOTS.where(_NOT_DELETED).order_by(_SNAPSHOT.namespace, _SNAPSHOT.id)
LIVE_IN = LIVE.where(_SNAPSHOT.namespace == sa.bindparam("of_namespace"))
LIVE_OF_SANDBOX = LIVE.where(
    _SNAPSHOT.namespace == sa.bindparam("of_namespace"), _SNAPSHOT.sandbox_id == sa.bindparam("of_sandbox_id")
)
COUNT = sa.select(sa.func.count()).where(_SNAPSHOT.tenant == sa.bindparam("of_tenant"), _NOT_DELETED)
INSERT = sa.insert(tables.SNAPSHOT).values(_given(*_IDENTITY, *_CHANGED))
UPDATE = sa.update(tables.SNAPSHOT).where(_OF_VERSION).values(_given(*_CHANGED))
REMOVE = sa.delete(tables.SNAPSHOT).where(_OF_VERSION)

LOG = sa.select(_LOG.last_sequence, _LOG.trimmed_sequence)
APPENDING = LOG.with_for_update()
APPENDED = sa.update(tables.SNAPSHOT_LOG).values(_given("last_sequence"))
APPEND = sa.insert(tables.SNAPSHOT_EVENT).values(_given("sequence", "namespace", "snapshot_id", "tenant", "document"))
EVENT = sa.select(_EVENT.sequence, _EVENT.document).where(_EVENT.sequence == sa.bindparam("of_sequence"))
EVENTS_AFTER = (
    sa.select(_EVENT.sequence, _EVENT.document)
    .where(_EVENT.sequence > sa.bindparam("after"), _EVENT.sequence <= sa.bindparam("until"))
    .order_by(_EVENT.sequence)
)


def of(key: Key) -> dict[str, Any]:
    """Returns the parameters that name the row of a snapshot."""
    return {"of_namespace": key.namespace, "of_id": key.id}


def columns(event: SnapshotEvent, document: str) -> dict[str, Any]:
    """Returns the parameters of the statements above for an event."""
    value = event.snapshot
    return {
        "namespace": value.namespace,
        "id": value.id,
        "snapshot_id": value.id,
        "uid": value.uid,
        "tenant": value.tenant,
        "sandbox_id": value.sandbox_id,
        "sandbox_uid": value.sandbox_uid,
        "project": value.project,
        "state": value.state.name,
        "sequence": event.sequence,
        "document": document,
    }
