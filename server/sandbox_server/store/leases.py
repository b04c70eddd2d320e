"""The statements on replicas and leases. Only PostgreSQL can be shared, so that they are for PostgreSQL alone.

Times are by the clock of the database: the clocks of the replicas need not agree.

What locks what: a write of the reconciler locks the leases that it depends on FOR KEY SHARE. Renewing changes no key, so that
neither waits for the other. Taking locks FOR UPDATE, which excludes such a write, and skips what is locked: a turn never
waits for a replica that stalls in a transaction.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from sandbox_server import VERSION, failpoints
from sandbox_server.domain import lease
from sandbox_server.domain.lease import Lease, Replica, Sight
from sandbox_server.store import notices, rows, tables
from sandbox_server.store.clock import NOW, Clock
from sandbox_server.store.connection import Cursor

_LEASE = tables.LEASE.c
_REPLICA = tables.REPLICA.c
_LASTING = sa.bindparam("lasting", type_=sa.Double)
_ME: sa.BindParameter[str] = sa.bindparam("me", type_=sa.String)


def _names(parameter: str) -> sa.BindParameter[Any]:
    several: Any = postgresql.ARRAY(sa.String)
    return sa.bindparam(parameter, type_=several)


_JOINING = sa.select(sa.func.pg_advisory_xact_lock(2))
"""Until the commit, no other replica joins."""
_JOINED = postgresql.insert(tables.REPLICA).values(
    id=_ME,
    release=VERSION,
    engine=sa.bindparam("engine"),
    namespaces=sa.bindparam("served"),
    alive_until=NOW + _LASTING,
    cut_off=sa.bindparam("cut_off"),
    started_at=NOW,
    documents=sa.bindparam("documents"),
)
JOIN = _JOINED.on_conflict_do_update(
    index_elements=[_REPLICA.id],
    set_={name: _JOINED.excluded[name] for name in ("namespaces", "alive_until", "cut_off", "documents")},
)
ALIVE = (
    sa.update(tables.REPLICA)
    .where(_REPLICA.id == _ME, _REPLICA.alive_until > NOW)
    .values(namespaces=sa.bindparam("served"), alive_until=NOW + _LASTING, cut_off=sa.bindparam("cut_off"))
)
FORGET = sa.delete(tables.REPLICA).where(
    _REPLICA.id.in_(
        sa.select(_REPLICA.id).where(_REPLICA.alive_until < NOW - 100 * _LASTING).with_for_update(skip_locked=True)
    )
)
GONE = sa.delete(tables.REPLICA).where(_REPLICA.id == _ME)
# No time is further ahead, unless the clock was set back since.
REPLICAS = sa.select(
    _REPLICA.id,
    _REPLICA.engine,
    _REPLICA.namespaces,
    _REPLICA.cut_off,
    _REPLICA.release,
    (NOW - _REPLICA.started_at).label("up_for"),
    _REPLICA.documents,
).where(_REPLICA.alive_until > NOW, _REPLICA.alive_until <= NOW + 2 * _LASTING)
RENEW = sa.update(tables.LEASE).where(_LEASE.holder == _ME).values(expires_at=NOW + _LASTING)
REPORT = (
    sa.update(tables.LEASE)
    .where(_LEASE.namespace == sa.bindparam("of_namespace"), _LEASE.holder == _ME)
    .values(synced=sa.bindparam("synced"), fault=sa.bindparam("fault"), readable=sa.bindparam("readable"))
)
_ENDED = sa.or_(_LEASE.expires_at <= NOW, _LEASE.expires_at > NOW + 2 * _LASTING)
LOCK = (
    sa.select(_LEASE.namespace)
    .where(_LEASE.namespace == sa.any_(_names("free")), _ENDED)
    .order_by(_LEASE.namespace)
    .with_for_update(skip_locked=True)
)
"""Locks those of some namespaces whose lease has ended, against writes that depend on it."""
_FREE = sa.func.unnest(_names("free")).column_valued("free")
_TAKEN = postgresql.insert(tables.LEASE).from_select(
    [one.name for one in tables.LEASE.columns],
    sa.select(_FREE, _ME, sa.literal(1), NOW + _LASTING, sa.false(), sa.literal(""), sa.null()).order_by(_FREE),
)
TAKE = _TAKEN.on_conflict_do_update(
    index_elements=[_LEASE.namespace],
    set_={
        "holder": _TAKEN.excluded.holder,
        "epoch": _LEASE.epoch + 1,
        "expires_at": _TAKEN.excluded.expires_at,
        "synced": False,
        "fault": "",
        "readable": None,
    },
    where=_ENDED,
)
"""Takes some namespaces, each if its lease has ended or it had none."""
LEASES = sa.select(
    _LEASE.namespace,
    _LEASE.holder,
    _LEASE.epoch,
    (_LEASE.expires_at - NOW).label("remaining"),
    _LEASE.synced,
    _LEASE.fault,
    _LEASE.readable,
)
_ENDS = {"holder": "", "expires_at": 0, "synced": False}
GIVE_UP = sa.update(tables.LEASE).where(_LEASE.holder == _ME, _LEASE.namespace == sa.any_(_names("given_up")))
GIVE_UP = GIVE_UP.values(_ENDS)
GIVE_UP_ALL = sa.update(tables.LEASE).where(_LEASE.holder == _ME).values(_ENDS)
HELD = (
    sa.select(_LEASE.namespace, _LEASE.epoch)
    .where(_LEASE.holder == _ME, _LEASE.namespace == sa.any_(_names("namespaces")))
    .order_by(_LEASE.namespace)
    .with_for_update(read=True, key_share=True)
)
"""The epochs of those of some namespaces that a replica holds, which no other can take before the commit."""


class Rivals(Exception):
    """Live replicas use the database, and this one must not run beside them."""

    def __init__(self, rivals: Collection[Replica]) -> None:
        super().__init__()
        self.engines = sorted({one.engine for one in rivals})


@dataclass(frozen=True, slots=True)
class Standing:
    """Every lease by its namespace, the live replicas, and the namespaces that are this replica's share.

    `sequence` is the log's last. What former holders of this replica's namespaces have written is not beyond it.
    """

    leases: Mapping[str, Lease]
    replicas: Collection[Replica]
    share: frozenset[str]
    sequence: int


def join(connection: sa.Connection, me: Replica, lasting: float) -> None:
    """Counts `me` among the live replicas. Raises `Rivals`."""
    connection.execute(_JOINING)
    if rivals := [one for one in living(connection, lasting) if me.excludes(one)]:
        raise Rivals(rivals)
    connection.execute(JOIN, _of(me, lasting))


def _of(me: Replica, lasting: float) -> dict[str, object]:
    return {
        "me": me.id,
        "lasting": lasting,
        "engine": me.engine,
        "served": ",".join(sorted(me.namespaces)),
        "cut_off": me.cut_off,
        "documents": me.documents,
    }


def turn(
    connection: sa.Connection,
    clock: Clock,
    me: Replica,
    lasting: float,
    sights: Mapping[str, Sight],
    namespaces: Iterable[str],
) -> Standing:
    """Renews what the replica `me` has for `lasting` seconds, and takes the namespaces of its share that nobody holds.

    `sights` is what it has to say of namespaces that it holds. `namespaces` are to be held even if they are no tenant's.
    Nothing is taken or given up while the clock is in doubt. Raises `Rivals` if this process was stopped for long and others
    have come.
    """
    named = _of(me, lasting)
    steady = clock.steady(connection)
    if not connection.execute(ALIVE, named).rowcount:
        join(connection, me, lasting)
    connection.execute(RENEW, named)
    for namespace, sight in sights.items():
        said = {"synced": sight.synced, "fault": sight.fault, "readable": sight.readable}
        connection.execute(REPORT, named | said | {"of_namespace": namespace})
    replicas = living(connection, lasting)
    shared = lease.shares({*namespaces}.union(*(one.namespaces for one in replicas)), replicas)
    share = frozenset(namespace for namespace, holder in shared.items() if holder == me.id)
    leases = known(connection, lasting)
    if not steady:
        # Live replicas seem to be dead: what each has is its share.
        share = frozenset(one.namespace for one in leases.values() if one.holder == me.id)
    free = {one for one in share if one not in leases or leases[one].remaining <= 0}
    taken: set[str] = set()
    if free:
        taken = {*connection.scalars(LOCK, named | {"free": sorted(free)}), *(free - leases.keys())}
    if taken:
        connection.execute(TAKE, named | {"free": sorted(taken)})
        leases = known(connection, lasting)
    if steady:
        connection.execute(FORGET, named)
    if sights or taken:
        notices.announce(connection, me.id)
    failpoints.hit("leases_before_commit")
    return Standing(leases, replicas, share, connection.execute(rows.STANDS).scalar_one())


def give_up(connection: sa.Connection, me: str, namespaces: Collection[str]) -> None:
    """Ends the leases of these namespaces, so that another replica can take them at once."""
    connection.execute(GIVE_UP, {"me": me, "given_up": sorted(namespaces)})
    notices.announce(connection, me)


def leave(connection: sa.Connection, me: str) -> None:
    """Ends every lease of a replica that stops, which gets no share any more."""
    connection.execute(GONE, {"me": me})
    connection.execute(GIVE_UP_ALL, {"me": me})
    notices.announce(connection, me)


def living(connection: sa.Connection, lasting: float) -> list[Replica]:
    """Returns the live replicas. A lease lasts `lasting` seconds."""
    found = connection.execute(REPLICAS, {"lasting": lasting})
    return [
        Replica(
            one.id,
            one.engine,
            frozenset(one.namespaces.split(",")) - {""},
            one.cut_off,
            one.release,
            one.up_for,
            one.documents or 0,
        )
        for one in found
    ]


def known(connection: sa.Connection, lasting: float) -> dict[str, Lease]:
    """Returns every lease by its namespace, those that have ended too. A lease lasts `lasting` seconds."""
    return {
        one.namespace: Lease(
            one.namespace,
            one.holder,
            one.epoch,
            one.remaining if one.remaining <= 2 * lasting else 0.0,
            Sight(one.synced, one.fault, one.readable),
        )
        for one in connection.execute(LEASES)
    }


def hold(cursor: Cursor, me: str, epochs: Collection[tuple[str, int]]) -> bool:
    """Returns whether the replica `me` still has the leases of these epochs. If so, no other takes one before the commit."""
    namespaces = sorted({namespace for namespace, _ in epochs})
    return not epochs or set(cursor.rows(HELD, {"me": me, "namespaces": namespaces})) == set(epochs)
