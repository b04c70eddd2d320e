"""The tables. The log holds the sandbox of each event as JSON; a sandbox's row points to its last event.
Snapshots have a log of their own.

The database fills in the times.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

_NOW: dict[str, Any] = {"server_default": sa.func.now()}
_AWARE = sa.DateTime(timezone=True)
_BYTEWISE = sa.String().with_variant(sa.String(collation="C"), "postgresql")
"""Text in the order of its bytes, as in Python and on SQLite."""
_REPLACED = sa.text("replaced_at IS NOT NULL")


class SandboxRow(SQLModel, table=True):
    """A sandbox. `sequence`, that of its last event, is also the version that a write compares.

    Reads of live sandboxes come from memory, so that no index serves them. Lists with TERMINATED sandboxes follow the
    primary key. `k8s_deployment_name` has the name of the StatefulSet: existing queries know the column by its old name.
    """

    __tablename__ = "sandbox"

    namespace: str = Field(primary_key=True, sa_type=_BYTEWISE)
    id: str = Field(primary_key=True, sa_type=_BYTEWISE)
    uid: str
    host: str = Field(unique=True)
    tenant: str
    project: str
    k8s_deployment_name: str
    desired: str
    phase: str
    generation: int = Field(sa_type=sa.BigInteger)
    sequence: int = Field(sa_type=sa.BigInteger)
    created_at: datetime = Field(sa_type=_AWARE, sa_column_kwargs=_NOW)


class EnvironmentRow(SQLModel, table=True):
    """The environment of a sandbox, encrypted: apart from the row of the sandbox, which each event writes anew."""

    __tablename__ = "environment"

    uid: str = Field(primary_key=True)
    env: bytes


class StatusEventRow(SQLModel, table=True):
    """One event, append only: the sandbox as it then stood, and what caused the event.

    `cause` is the number of an `event.Kind`; NULL in events of releases that stored none. `actor` and `request_id` are a
    mutation's, and so is `method`, NULL in events of releases that stored none. `project` is that of the spec. The indexes
    are for watches and lists, which read only the events of a tenant, of a project, of a namespace or of some sandboxes.
    """

    __tablename__ = "status_event"
    __table_args__ = (
        sa.Index("status_event_of_tenant", "tenant", "sequence"),
        sa.Index("status_event_of_project", "tenant", "project", "sequence"),
        sa.Index("status_event_of_sandbox", "namespace", "sandbox_id", "sequence"),
        sa.Index("status_event_of_namespace", "namespace", "sequence"),
    )

    sequence: int = Field(primary_key=True, sa_type=sa.BigInteger, sa_column_kwargs={"autoincrement": False})
    namespace: str
    sandbox_id: str
    tenant: str
    at: datetime = Field(sa_type=_AWARE, sa_column_kwargs=_NOW)
    document: str
    spec_sequence: int | None = Field(sa_type=sa.BigInteger)
    env_names_sequence: int | None = Field(sa_type=sa.BigInteger)
    cause: int | None
    actor: str | None
    request_id: str | None
    project: str | None
    method: str | None


class PartRow(SQLModel, table=True):
    """The spec or the names of the variables, as all events have it from `sequence` to before `replaced_at`."""

    __tablename__ = "part"
    __table_args__ = (sa.Index("part_replaced_at", "replaced_at", sqlite_where=_REPLACED, postgresql_where=_REPLACED),)

    sequence: int = Field(primary_key=True, sa_type=sa.BigInteger, sa_column_kwargs={"autoincrement": False})
    name: str = Field(primary_key=True)
    replaced_at: int | None = Field(sa_type=sa.BigInteger)
    document: str


class WatchLogRow(SQLModel, table=True):
    """The ends of the log. A transaction that appends locks this row, so that sequences follow the order of commits."""

    __tablename__ = "watch_log"

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    last_sequence: int = Field(sa_type=sa.BigInteger)
    trimmed_sequence: int = Field(sa_type=sa.BigInteger)


class SnapshotRow(SQLModel, table=True):
    """A snapshot of a disk. `document` is that of its last event, and `sequence`, which is also the version that a write compares.

    The index is for what follows from a sandbox: how many snapshots there are of it, and which have to go with it.
    """

    __tablename__ = "snapshot"
    __table_args__ = (
        sa.Index("snapshot_of_sandbox", "namespace", "sandbox_id"),
        sa.Index("snapshot_of_tenant", "tenant"),
    )

    namespace: str = Field(primary_key=True, sa_type=_BYTEWISE)
    id: str = Field(primary_key=True, sa_type=_BYTEWISE)
    uid: str = Field(unique=True)
    tenant: str
    sandbox_id: str
    sandbox_uid: str
    project: str
    state: str
    sequence: int = Field(sa_type=sa.BigInteger)
    document: str
    created_at: datetime = Field(sa_type=_AWARE, sa_column_kwargs=_NOW)


class SnapshotEventRow(SQLModel, table=True):
    """One event of the log of snapshots, append only: the snapshot as it then stood."""

    __tablename__ = "snapshot_event"

    sequence: int = Field(primary_key=True, sa_type=sa.BigInteger, sa_column_kwargs={"autoincrement": False})
    namespace: str
    snapshot_id: str
    tenant: str
    at: datetime = Field(sa_type=_AWARE, sa_column_kwargs=_NOW)
    document: str


class SnapshotLogRow(SQLModel, table=True):
    """The ends of the log of snapshots. Releases that know no snapshots change every row of `watch_log`, so that it has its own
    table. A transaction that appends locks the row of `watch_log` first, and then this one."""

    __tablename__ = "snapshot_log"

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    last_sequence: int = Field(sa_type=sa.BigInteger)
    trimmed_sequence: int = Field(sa_type=sa.BigInteger)


class ScheduleRow(SQLModel, table=True):
    """A schedule of snapshots, as it is."""

    __tablename__ = "schedule"
    __table_args__ = (sa.Index("schedule_of_tenant", "tenant"),)

    namespace: str = Field(primary_key=True, sa_type=_BYTEWISE)
    id: str = Field(primary_key=True, sa_type=_BYTEWISE)
    uid: str = Field(unique=True)
    tenant: str
    document: str
    created_at: datetime = Field(sa_type=_AWARE, sa_column_kwargs=_NOW)


class CoveredRow(SQLModel, table=True):
    """A sandbox that a schedule covers, and how far its slots were worked."""

    __tablename__ = "schedule_sandbox"
    __table_args__ = (sa.Index("schedule_sandbox_of_namespace", "namespace"),)

    schedule_uid: str = Field(primary_key=True)
    sandbox_uid: str = Field(primary_key=True)
    namespace: str
    document: str


class ScheduleLogRow(SQLModel, table=True):
    """Counts the changes that callers make of schedules, so that every replica notices them."""

    __tablename__ = "schedule_log"

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    revision: int = Field(sa_type=sa.BigInteger)


class RequestRow(SQLModel, table=True):
    """A request that took effect: its keyed fingerprint, and the event that was its answer.

    That of a batch has no event, and in `sandbox_id` the ids of all its sandboxes: see `batches`. That of a snapshot has the
    snapshot's id and uid, and a sequence of the log of snapshots. That of a schedule has the schedule's id and uid, and no event.
    """

    __tablename__ = "request"
    __table_args__ = (sa.Index("request_created_at", "created_at"),)

    tenant: str = Field(primary_key=True)
    request_id: str = Field(primary_key=True)
    fingerprint: str
    namespace: str
    sandbox_id: str
    sandbox_uid: str
    sequence: int = Field(sa_type=sa.BigInteger)
    created_at: datetime = Field(sa_type=_AWARE, sa_column_kwargs=_NOW)


class ReplicaRow(SQLModel, table=True):
    """A running process of the service. `namespaces` are those of its tenants, joined by commas; `cut_off`: from the cluster. `started_at`
    and `documents`, the version of the documents that it understands, are NULL in the row of a replica whose release stored none.

    `alive_until` is in seconds since 1970 by the clock of the database, as every time of replicas and leases.
    """

    __tablename__ = "replica"

    id: str = Field(primary_key=True)
    release: str
    engine: str
    namespaces: str
    alive_until: float = Field(sa_type=sa.Double)
    cut_off: bool
    started_at: float | None = Field(sa_type=sa.Double)
    documents: int | None = None


class LeaseRow(SQLModel, table=True):
    """A namespace and the replica that holds it; `holder` is empty after a replica gave it up.

    `synced`, `fault` and `readable` are what the holder says of the namespace.
    """

    __tablename__ = "lease"

    namespace: str = Field(primary_key=True)
    holder: str
    epoch: int = Field(sa_type=sa.BigInteger)
    expires_at: float = Field(sa_type=sa.Double)
    synced: bool
    fault: str
    readable: bool | None


class LegacySandboxRow(SQLModel, table=True):
    """What the database of the former system says of the StatefulSet or the Deployment of that name: a `legacy.Fact`."""

    __tablename__ = "legacy_sandbox"

    namespace: str = Field(primary_key=True, sa_type=_BYTEWISE)
    name: str = Field(primary_key=True, sa_type=_BYTEWISE)
    legacy_id: str
    title: str
    project: str
    owner: str
    status: str
    public_url: str
    ttyd_url: str


class CompatibilityRow(SQLModel, table=True):
    """Which releases may use this schema: those that know the revision `oldest` and all before it."""

    __tablename__ = "compatibility"

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    oldest: str


def _core(kind: type[SQLModel]) -> sa.Table:
    return SQLModel.metadata.tables[str(kind.__tablename__)]


# The SQLAlchemy Core tables of the rows, for statements.
SANDBOX = _core(SandboxRow)
ENVIRONMENT = _core(EnvironmentRow)
EVENT = _core(StatusEventRow)
LOG = _core(WatchLogRow)
SNAPSHOT = _core(SnapshotRow)
SNAPSHOT_EVENT = _core(SnapshotEventRow)
SNAPSHOT_LOG = _core(SnapshotLogRow)
SCHEDULE = _core(ScheduleRow)
COVERED = _core(CoveredRow)
SCHEDULE_LOG = _core(ScheduleLogRow)
REQUEST = _core(RequestRow)
PART = _core(PartRow)
REPLICA = _core(ReplicaRow)
LEASE = _core(LeaseRow)
LEGACY = _core(LegacySandboxRow)
COMPATIBILITY = _core(CompatibilityRow)
