"""Carries out what callers ask for of snapshots. Each mutation is one transaction; its event then wakes the keeper."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

from sandbox_server import engines, feed, store
from sandbox_server.domain import snapshot_mutations, verifications
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import SnapshotEvent
from sandbox_server.domain.snapshot_mutations import Wanted, made_id
from sandbox_server.domain.tenant import not_found
from sandbox_server.manager import random_suffix
from sandbox_server.snapshots.watch import Selection, Send, Watch

T = TypeVar("T")


class SnapshotManager:
    """Creates, verifies, deletes and reads snapshots on behalf of principals."""

    def __init__(
        self, log: feed.Snapshots, store: store.Store, engine: engines.Snapshots, most: int, heartbeat: float
    ) -> None:
        """`most`: snapshots that a tenant may have. `heartbeat`: the longest silence of a watch in seconds."""
        self._log = log
        self._store = store
        self._engine = engine
        self._most = most
        self._heartbeat = heartbeat

    async def missing(self, namespace: str) -> str:
        """Returns why no snapshot can be taken of disks of a namespace; empty if they can, or if nobody can say now."""
        try:
            return await self._engine.snapshots_missing(namespace)
        except engines.Unreachable:
            # The keeper takes it when the engine answers again, or says what keeps it from that.
            return ""

    async def create(self, principal: Principal, request: store.Request | None, wanted: Wanted) -> SnapshotEvent:
        """Creates a snapshot.

        Raises `errors.NotFound`, `errors.AlreadyExists`, `errors.FailedPrecondition` and `errors.ResourceExhausted`, each as
        the contract says.
        """
        missing = await self.missing(wanted.sandbox.namespace)

        def write(reader: store.Reader) -> store.SnapshotWrite:
            of = reader.last(wanted.sandbox)
            if of is None or not principal.sees(of.sandbox):
                raise not_found(wanted.sandbox.id)
            snapshot_id = wanted.id or _free_id(reader, wanted.sandbox)
            former = reader.snapshots.last(Key(wanted.sandbox.namespace, snapshot_id))
            snapshot_mutations.free(None if former is None else former.snapshot)
            made = snapshot_mutations.new(wanted, snapshot_id, str(uuid.uuid4()), of.sandbox, datetime.now(UTC))
            snapshot_mutations.admit(made.tenant, missing, reader.snapshots.count(made.tenant), self._most)
            return store.SnapshotWrite(made, 0)

        return await self._log.write(write, request)

    async def delete(self, principal: Principal, request: store.Request | None, key: Key) -> SnapshotEvent:
        """Asks that a snapshot be removed. Raises `errors.NotFound`."""

        def write(reader: store.Reader) -> store.SnapshotWrite:
            last = _seen(principal, key, reader.snapshots.last(key))
            return store.SnapshotWrite(snapshot_mutations.delete(last.snapshot, datetime.now(UTC)), last.sequence)

        return await self._log.write(write, request)

    async def verify(self, principal: Principal, request: store.Request | None, key: Key) -> SnapshotEvent:
        """Asks that a snapshot be verified. Raises `errors.NotFound`, and `errors.FailedPrecondition` if it is not READY."""

        def write(reader: store.Reader) -> store.SnapshotWrite:
            last = _seen(principal, key, reader.snapshots.last(key))
            return store.SnapshotWrite(verifications.asked(last.snapshot), last.sequence)

        return await self._log.write(write, request)

    async def get(self, principal: Principal, key: Key) -> SnapshotEvent:
        """Returns the last event of a snapshot, even a DELETED one. Raises `errors.NotFound`."""
        last = await self._store.read(lambda reader: reader.snapshots.last(key))
        return _seen(principal, key, last)

    async def list(
        self, search: store.SnapshotSearch, after: Key | None, page: Callable[[int, Iterator[SnapshotEvent]], T]
    ) -> T:
        """Calls `page` with the sequence of the log and the last events of matching snapshots, and returns its result.

        They come in the order of their keys and begin after `after`. `page` is called on a thread of the store.
        """
        return await self._store.read(
            lambda reader: page(reader.snapshots.sequence(), reader.snapshots.search(search, after)), store.Lane.LISTS
        )

    async def watch(self, selection: Selection, after: int | None, send: Send) -> None:
        """Sends what there is and events, with `after` only the events after it. Raises as `Watch.run`."""
        await Watch(self._log, self._store, selection, send, self._heartbeat).run(after)


def _seen(principal: Principal, key: Key, last: SnapshotEvent | None) -> SnapshotEvent:
    if last is None or not principal.sees(last.snapshot):
        raise snapshot_mutations.not_found(key.id)
    return last


def _free_id(reader: store.Reader, sandbox: Key) -> str:
    """Returns an id that no snapshot of the namespace has. There are two billion, so that the first is very likely free."""
    while True:
        found = made_id(sandbox.id, random_suffix(6))
        if reader.snapshots.last(Key(sandbox.namespace, found)) is None:
            return found
