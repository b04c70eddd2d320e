"""The statements on replicas and leases. Only PostgreSQL can be shared, so that they are for PostgreSQL alone.

Times are by the clock of the database: the clocks of the replicas need not agree.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from sandbox_server import VERSION, failpoints
from sandbox_server.domain import lease
from sandbox_server.domain.lease import Lease, Replica, Sight
from sandbox_server.store import notices, tables
from sandbox_server.store.connection import Cursor

_LEASE = tables.LEASE.c
_REPLICA = tables.REPLICA.c
_NOW = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
_LASTING = sa.bindparam("lasting", type_=sa.Double)
_ME: sa.BindParameter[str] = sa.bindparam("me")

_ALIVE = postgresql.insert(tables.REPLICA).values(
    id=_ME,
    release=VERSION,
    engine=sa.bindparam("engine"),
    namespaces=sa.bindparam("served"),
    alive_until=_NOW + _LASTING,
    cut_off=sa.bindparam("cut_off"),
)
ALIVE = _ALIVE.on_conflict_do_update(
    index_elements=[_REPLICA.id],
    set_={name: _ALIVE.excluded[name] for name in ("namespaces", "alive_until", "cut_off")},
)
FORGET = sa.delete(tables.REPLICA).where(_REPLICA.alive_until < _NOW - 100 * _LASTING)
GONE = sa.delete(tables.REPLICA).where(_REPLICA.id == _ME)
REPLICAS = sa.select(_REPLICA.id, _REPLICA.engine, _REPLICA.namespaces, _REPLICA.cut_off).where(
    _REPLICA.alive_until > _NOW
)
RENEW = sa.update(tables.LEASE).where(_LEASE.holder == _ME).values(expires_at=_NOW + _LASTING)
REPORT = (
    sa.update(tables.LEASE)
    .where(_LEASE.namespace == sa.bindparam("of_namespace"), _LEASE.holder == _ME)
    .values(synced=sa.bindparam("synced"), fault=sa.bindparam("fault"), readable=sa.bindparam("readable"))
)
_TAKEN = postgresql.insert(tables.LEASE).values(
    namespace=sa.bindparam("of_namespace"),
    holder=_ME,
    epoch=1,
    expires_at=_NOW + _LASTING,
    synced=False,
    fault="",
    readable=None,
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
    where=_LEASE.expires_at < _NOW,
).returning(_LEASE.epoch)
"""Takes a namespace whose lease has ended, or that had none. Returns no row if a replica holds the namespace."""
LEASES = sa.select(
    _LEASE.namespace,
    _LEASE.holder,
    _LEASE.epoch,
    (_LEASE.expires_at - _NOW).label("remaining"),
    _LEASE.synced,
    _LEASE.fault,
    _LEASE.readable,
)
GIVE_UP = (
    sa.update(tables.LEASE)
    .where(_LEASE.holder == _ME, _LEASE.namespace.in_(sa.bindparam("given_up", expanding=True)))
    .values(holder="", expires_at=0, synced=False)
)
EPOCH = sa.select(_LEASE.epoch).where(_LEASE.namespace == sa.bindparam("of_namespace")).with_for_update(read=True)
"""The epoch of a namespace, which no replica can take before the commit."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Every lease by its namespace, the live replicas, and the namespaces that are this replica's share."""

    leases: Mapping[str, Lease]
    replicas: Collection[Replica]
    share: frozenset[str]


def turn(
    connection: sa.Connection, me: Replica, lasting: float, sights: Mapping[str, Sight], namespaces: Iterable[str]
) -> Standing:
    """Renews what the replica `me` has for `lasting` seconds, and takes the namespaces of its share that nobody holds.

    `sights` is what it has to say of namespaces that it holds. `namespaces` are to be held even if they are no tenant's.
    """
    named = {"me": me.id, "lasting": lasting}
    served = ",".join(sorted(me.namespaces))
    connection.execute(ALIVE, named | {"engine": me.engine, "served": served, "cut_off": me.cut_off})
    connection.execute(FORGET, named)
    connection.execute(RENEW, named)
    for namespace, sight in sights.items():
        said = {"synced": sight.synced, "fault": sight.fault, "readable": sight.readable}
        connection.execute(REPORT, named | said | {"of_namespace": namespace})
    replicas = living(connection)
    shared = lease.shares({*namespaces}.union(*(one.namespaces for one in replicas)), replicas)
    share = frozenset(namespace for namespace, holder in shared.items() if holder == me.id)
    # In one order on every replica, so that no two wait for one another.
    taken = [
        namespace
        for namespace in sorted(share)
        if connection.execute(TAKE, named | {"of_namespace": namespace}).first() is not None
    ]
    if sights or taken:
        notices.announce(connection, me.id)
    failpoints.hit("leases_before_commit")
    return Standing({one.namespace: one for one in known(connection)}, replicas, share)


def give_up(connection: sa.Connection, me: str, namespaces: Collection[str]) -> None:
    """Ends the leases of these namespaces, so that another replica can take them at once."""
    connection.execute(GIVE_UP, {"me": me, "given_up": sorted(namespaces)})
    notices.announce(connection, me)


def leave(connection: sa.Connection, me: str, namespaces: Collection[str]) -> None:
    """Does as `give_up` for a replica that stops, which gets no share any more."""
    connection.execute(GONE, {"me": me})
    give_up(connection, me, namespaces)


def living(connection: sa.Connection) -> list[Replica]:
    """Returns the live replicas."""
    return [
        Replica(one.id, one.engine, frozenset(one.namespaces.split(",")) - {""}, one.cut_off)
        for one in connection.execute(REPLICAS)
    ]


def known(connection: sa.Connection) -> Iterable[Lease]:
    """Yields every lease, those that have ended too."""
    for one in connection.execute(LEASES):
        sight = Sight(one.synced, one.fault, one.readable)
        yield Lease(one.namespace, one.holder, one.epoch, one.remaining, sight)


def hold(cursor: Cursor, epochs: Iterable[tuple[str, int]]) -> bool:
    """Returns whether each of these namespaces is still at its epoch. If so, no replica takes one before the commit."""
    # In the order in which replicas take namespaces, so that no transaction waits for another one that waits for it.
    return all(cursor.rows(EPOCH, {"of_namespace": namespace}) == [(epoch,)] for namespace, epoch in sorted(epochs))
