"""Work in the background: trimming, and encryption with a new key. Both go through a table in pages, by its key.

The last event of a sandbox is kept as long as the sandbox's row refers to it; `transaction.Group` removes it when
another takes its place. So events before `trimmed_sequence` never have to be looked at again.
"""

from datetime import datetime

import msgspec
import sqlalchemy as sa

from sandbox_server import failpoints
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.snapshot import State
from sandbox_server.store import tables
from sandbox_server.store.cipher import Cipher

PAGE = 500
"""Rows in one transaction. It takes some milliseconds, for which a mutation may have to wait."""
ENVIRONMENTS = 50
"""Environments in one transaction. Each can be 512 KiB."""

_OF_EVENT = sa.and_(
    tables.SANDBOX.c.namespace == tables.EVENT.c.namespace,
    tables.SANDBOX.c.id == tables.EVENT.c.sandbox_id,
    tables.SANDBOX.c.sequence == tables.EVENT.c.sequence,
)


class _Status(msgspec.Struct):
    reason: Reason


class _Ended(msgspec.Struct):
    status: _Status


_ENDED = msgspec.json.Decoder(_Ended)


def trim_history(connection: sa.Connection, before: datetime) -> bool:
    """Removes a page of the events from before that time, and the sandboxes that ended with them.

    A sandbox whose volume is kept stays. Returns whether there may be more to remove.
    """
    # The lock of a transaction that appends: a reader sees `trimmed_sequence` change together with the events.
    log = connection.execute(sa.select(tables.LOG).with_for_update()).one()
    page = sa.and_(
        tables.EVENT.c.sequence > log.trimmed_sequence, tables.EVENT.c.sequence <= log.trimmed_sequence + PAGE
    )
    last = connection.scalar(sa.select(sa.func.max(tables.EVENT.c.sequence)).where(page, tables.EVENT.c.at < before))
    if last is None:
        return False
    page = sa.and_(tables.EVENT.c.sequence > log.trimmed_sequence, tables.EVENT.c.sequence <= last)
    ended = (
        sa.select(tables.SANDBOX.c.namespace, tables.SANDBOX.c.id, tables.SANDBOX.c.uid, tables.EVENT)
        .join_from(tables.EVENT, tables.SANDBOX, _OF_EVENT)
        .where(page, tables.SANDBOX.c.phase == Phase.TERMINATED.name)
    )
    for row in connection.execute(ended).all():
        if _ENDED.decode(row.document).status.reason is not Reason.VOLUME_KEPT:
            key = sa.and_(tables.SANDBOX.c.namespace == row.namespace, tables.SANDBOX.c.id == row.id)
            connection.execute(sa.delete(tables.SANDBOX).where(key))
            connection.execute(sa.delete(tables.ENVIRONMENT).where(tables.ENVIRONMENT.c.uid == row.uid))
            parts = tables.PART.c.sequence.in_((row.spec_sequence, row.env_names_sequence))
            connection.execute(sa.update(tables.PART).where(parts).values(replaced_at=row.sequence))
    connection.execute(sa.delete(tables.EVENT).where(page, ~sa.exists(sa.select(1).where(_OF_EVENT))))
    connection.execute(sa.delete(tables.PART).where(tables.PART.c.replaced_at <= last))
    connection.execute(sa.update(tables.LOG).values(trimmed_sequence=last))
    failpoints.hit("trimmed_before_commit")
    return bool(last == log.trimmed_sequence + PAGE)


def trim_snapshots(connection: sa.Connection, before: datetime) -> bool:
    """Removes a page of the events of snapshots from before that time, and the snapshots that were DELETED with them.

    The last event of any other snapshot is also in its row. Returns whether there may be more to remove.
    """
    event, snapshot = tables.SNAPSHOT_EVENT.c, tables.SNAPSHOT.c
    # The locks of a transaction that appends, in its order.
    connection.execute(sa.select(tables.LOG).with_for_update())
    log = connection.execute(sa.select(tables.SNAPSHOT_LOG).with_for_update()).one()
    page = sa.and_(event.sequence > log.trimmed_sequence, event.sequence <= log.trimmed_sequence + PAGE)
    last = connection.scalar(sa.select(sa.func.max(event.sequence)).where(page, event.at < before))
    if last is None:
        return False
    connection.execute(sa.delete(tables.SNAPSHOT_EVENT).where(event.sequence <= last))
    ended = sa.and_(snapshot.state == State.DELETED.name, snapshot.sequence <= last)
    connection.execute(sa.delete(tables.SNAPSHOT).where(ended))
    connection.execute(sa.update(tables.SNAPSHOT_LOG).values(trimmed_sequence=last))
    return bool(last == log.trimmed_sequence + PAGE)


def trim_requests(connection: sa.Connection, before: datetime) -> bool:
    """Removes a page of the requests from before that time. Returns whether there may be more to remove."""
    key = sa.tuple_(tables.REQUEST.c.tenant, tables.REQUEST.c.request_id)
    old = sa.select(tables.REQUEST.c.tenant, tables.REQUEST.c.request_id).where(tables.REQUEST.c.created_at < before)
    page = old.order_by(tables.REQUEST.c.created_at).limit(PAGE)
    return connection.execute(sa.delete(tables.REQUEST).where(key.in_(page))).rowcount == PAGE


def reencrypt(connection: sa.Connection, cipher: Cipher, after: str) -> tuple[int, str] | None:
    """Encrypts a page of the environments with the first key: those of the sandboxes after the uid `after`.

    Returns the number that another key had encrypted, and the last uid of the page; None if there are no more.
    """
    # The lock of a transaction that appends: no environment changes between the read and the write.
    connection.execute(sa.select(tables.LOG).with_for_update())
    page = (
        sa.select(tables.ENVIRONMENT)
        .where(tables.ENVIRONMENT.c.uid > after)
        .order_by(tables.ENVIRONMENT.c.uid)
        .limit(ENVIRONMENTS)
    )
    found = connection.execute(page).all()
    old = [one for one in found if not cipher.is_current(one.env)]
    for one in old:
        env = cipher.encrypt(cipher.decrypt(one.env, one.uid), one.uid)
        connection.execute(sa.update(tables.ENVIRONMENT).where(tables.ENVIRONMENT.c.uid == one.uid).values(env=env))
    failpoints.hit("reencrypted_before_commit")
    return (len(old), found[-1].uid) if found else None
