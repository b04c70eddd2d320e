"""The statements on rows, and the columns of an event."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Key
from sandbox_server.store import documents, tables

_ENV_NAMES = tables.PART.alias("env_names")
_OF_KEY = sa.and_(
    tables.SANDBOX.c.namespace == sa.bindparam("of_namespace"), tables.SANDBOX.c.id == sa.bindparam("of_id")
)
_OF_VERSION = sa.and_(_OF_KEY, tables.SANDBOX.c.sequence == sa.bindparam("of_sequence"))
_IDENTITY = ("namespace", "id", "uid", "host", "tenant", "project", "k8s_deployment_name")
_TERMINATED: sa.ColumnElement[str] = sa.literal_column("'TERMINATED'")
_CHANGED = ("desired", "phase", "generation", "sequence")
REMEMBERED = ("tenant", "request_id", "fingerprint", "namespace", "sandbox_id", "sandbox_uid", "sequence")
"""The columns of a request. A look-up by the first two finds the others."""


def _given(*names: str) -> dict[str, Any]:
    return {name: sa.bindparam(name) for name in names}


EVENTS = sa.select(*(tables.EVENT.c[name] for name in documents.COLUMNS), _ENV_NAMES.c.document).join_from(
    tables.EVENT,
    _ENV_NAMES,
    (_ENV_NAMES.c.sequence == tables.EVENT.c.env_names_sequence)
    & (_ENV_NAMES.c.name == sa.literal_column("'env_names'")),
    isouter=True,
)
"""All events: each row is a `documents.Row`."""
_LAST = EVENTS.join(tables.SANDBOX, tables.SANDBOX.c.sequence == tables.EVENT.c.sequence)
LAST = _LAST.where(_OF_KEY)
ENV = (
    sa.select(tables.ENVIRONMENT).join(tables.SANDBOX, tables.SANDBOX.c.uid == tables.ENVIRONMENT.c.uid).where(_OF_KEY)
)
ENV_OF_EVENT = ENV.where(tables.SANDBOX.c.sequence == sa.bindparam("of_sequence"))
LIVE = _LAST.where(tables.SANDBOX.c.phase != _TERMINATED)
KEYS = sa.select(sa.func.substr(tables.ENVIRONMENT.c.env, sa.text("1"), sa.text("4"))).distinct()
"""The ids of the keys of all environments: an encrypted environment begins with the id of its key."""
INSERT = sa.insert(tables.SANDBOX).values(_given(*_IDENTITY, *_CHANGED))
UPDATE = sa.update(tables.SANDBOX).where(_OF_VERSION).values(_given(*_CHANGED))
REMOVE = sa.delete(tables.SANDBOX).where(_OF_VERSION)
INSERT_ENV = sa.insert(tables.ENVIRONMENT).values(_given("uid", "env"))
UPDATE_ENV = (
    sa.update(tables.ENVIRONMENT).where(tables.ENVIRONMENT.c.uid == sa.bindparam("of_uid")).values(_given("env"))
)
REMOVE_ENV = sa.delete(tables.ENVIRONMENT).where(tables.ENVIRONMENT.c.uid == sa.bindparam("of_uid"))

STANDS = sa.select(tables.LOG.c.last_sequence)
APPENDING = sa.select(tables.LOG.c.last_sequence, tables.LOG.c.trimmed_sequence).with_for_update()
"""Locks the log: until the commit, no other transaction appends."""
TRIMMED = sa.select(tables.LOG.c.trimmed_sequence)
APPENDED = sa.update(tables.LOG).values(_given("last_sequence"))
APPEND = sa.insert(tables.EVENT).values(_given("namespace", "sandbox_id", "tenant", "project", *documents.COLUMNS))
FORGET = sa.delete(tables.EVENT).where(tables.EVENT.c.sequence == sa.bindparam("of_sequence"))
EVENT = EVENTS.where(tables.EVENT.c.sequence == sa.bindparam("of_sequence"))
EVENTS_AFTER = EVENTS.where(
    tables.EVENT.c.sequence > sa.bindparam("after"), tables.EVENT.c.sequence <= sa.bindparam("until")
).order_by(tables.EVENT.c.sequence)
ADD_PART = sa.insert(tables.PART).values(_given("sequence", "name", "document"))
REPLACE_PART = (
    sa.update(tables.PART)
    .where(tables.PART.c.sequence == sa.bindparam("of_sequence"), tables.PART.c.name == sa.bindparam("of_name"))
    .values(_given("replaced_at"))
)

REQUEST = sa.select(*(tables.REQUEST.c[name] for name in REMEMBERED[2:])).where(
    tables.REQUEST.c.tenant == sa.bindparam("of_tenant"), tables.REQUEST.c.request_id == sa.bindparam("of_request_id")
)
REMEMBER = sa.insert(tables.REQUEST).values(_given(*REMEMBERED))

SPEC = sa.select(tables.PART.c.sequence, tables.PART.c.document).where(
    tables.PART.c.name == sa.literal_column("'spec'"), tables.PART.c.sequence == sa.bindparam("of_sequence")
)


def specs(sequences: Collection[int]) -> sa.Select[tuple[int, str]]:
    """Returns the statement that finds the specs stored under some sequences."""
    return sa.select(tables.PART.c.sequence, tables.PART.c.document).where(
        tables.PART.c.name == "spec", tables.PART.c.sequence.in_(sorted(sequences))
    )


def of(key: Key) -> dict[str, Any]:
    """Returns the parameters that name the row of a sandbox."""
    return {"of_namespace": key.namespace, "of_id": key.id}


def of_version(last: Event) -> dict[str, Any]:
    """Returns the parameters that name the row of a sandbox, if its last event is still `last`."""
    return of(last.sandbox.key) | {"of_sequence": last.sequence}


def columns(event: Event, newer: str | None = None) -> dict[str, Any]:
    """Returns the parameters of the statements above for an event, all but the environment.

    `newer` is that of `documents.document`.
    """
    value = event.sandbox
    return {
        "namespace": value.namespace,
        "id": value.id,
        "sandbox_id": value.id,
        "uid": value.uid,
        "host": value.host,
        "tenant": value.tenant,
        "project": value.spec.project,
        "k8s_deployment_name": value.objects.stateful_set,
        "desired": value.desired.name,
        "phase": value.status.phase.name,
        "generation": value.generation,
        "sequence": event.sequence,
        "document": documents.document(event, newer),
        "cause": event.cause.kind.value,
        "actor": event.cause.actor,
        "request_id": event.cause.request_id,
        "method": event.cause.method,
    }
