"""Takes the snapshots that deletions wait for, and has these go on. Each step is one transaction, as those of `steps`."""

import dataclasses
import uuid
from collections.abc import Callable
from datetime import datetime

import structlog

from sandbox_server import failpoints, feed, store
from sandbox_server.domain import errors, last_snapshots, schedules, snapshot_mutations
from sandbox_server.domain.event import OBSERVED, Event
from sandbox_server.domain.last_snapshots import Act, Decision
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.sandbox import Key, LastSnapshot
from sandbox_server.schedules.steps import free_id
from sandbox_server.snapshots.manager import SnapshotManager

log = structlog.get_logger()


class Deletions:
    """Every step may be repeated, by any holder. All raise `store.Stale` if something has changed meanwhile, or another replica holds
    the namespace by now, and `errors.Unavailable`."""

    def __init__(
        self,
        snapshots: feed.Snapshots,
        sandboxes: feed.Feed,
        store: store.Store,
        manager: SnapshotManager,
        pace: Pace,
        now: Callable[[], datetime],
    ) -> None:
        self._snapshots = snapshots
        self._sandboxes = sandboxes
        self._store = store
        self._manager = manager
        self._pace = pace
        self._now = now

    def waiting(self) -> dict[str, list[Key]]:
        """Returns the sandboxes whose deletion waits for a snapshot, by their namespaces."""
        found: dict[str, list[Key]] = {}
        for one in self._sandboxes.catalogue.sandboxes():
            if one.last_snapshot is not None:
                found.setdefault(one.namespace, []).append(one.key)
        return found

    async def work(self, key: Key, epoch: int) -> None:
        """Does what is due of a sandbox that waits."""
        last, decision = await self._store.read(lambda reader: self._decide(reader, key), store.Lane.RECONCILER)
        if last is None:
            return
        message = decision.message
        if decision.act is Act.RELEASE:
            await self._release(key, epoch)
            return
        if decision.act is Act.REMOVE:
            await self._snapshots.write(lambda reader: self._removed(reader, key, epoch))
        elif decision.act is Act.TAKE and decision.schedule is not None:
            missing = await self._manager.missing(key.namespace)
            try:
                await self._snapshots.write(lambda reader: self._taken(reader, key, missing, epoch))
            except errors.ServiceError as why:
                if isinstance(why, errors.Unavailable):
                    raise
                message = last_snapshots.refused(decision.schedule, why.message)
        failpoints.hit("last_snapshot_before_say")
        await self._say(key, message, epoch)

    def _decide(self, reader: store.Reader, key: Key) -> tuple[Event | None, Decision]:
        last = reader.last(key)
        if last is None or last.sandbox.last_snapshot is None or last.sandbox.desired is not DesiredState.DELETED:
            return None, Decision("")
        found = [one.snapshot for one in reader.snapshots.of_sandbox(key)]
        of_namespace = reader.schedules.of([key.namespace])
        return last, last_snapshots.decide(last.sandbox, of_namespace, found, self._now(), self._pace)

    def _taken(self, reader: store.Reader, key: Key, missing: str, epoch: int) -> store.SnapshotWrite:
        last, decision = self._decide(reader, key)
        schedule = decision.schedule
        if last is None or decision.act is not Act.TAKE or schedule is None:
            raise store.Stale
        sandbox, now = last.sandbox, self._now()
        # A tenant that has as many as it may could else delete nothing more.
        snapshot_mutations.possible(missing)
        snapshot_id = free_id(reader, key.namespace, schedules.names(schedule, sandbox, now, "deleted-"))
        taken = last_snapshots.taken(schedule, sandbox, snapshot_id, str(uuid.uuid4()), now)
        return store.SnapshotWrite(taken, 0, epoch)

    def _removed(self, reader: store.Reader, key: Key, epoch: int) -> store.SnapshotWrite:
        last, decision = self._decide(reader, key)
        if last is None or decision.act is not Act.REMOVE or decision.snapshot is None:
            raise store.Stale
        event = reader.snapshots.last(decision.snapshot.key)
        if event is None or event.snapshot != decision.snapshot:
            raise store.Stale
        return store.SnapshotWrite(snapshot_mutations.delete(event.snapshot, self._now()), event.sequence, epoch)

    async def _say(self, key: Key, message: str, epoch: int) -> None:
        """Records what is said of the wait; the reconciler says it in the status."""

        def write(reader: store.Reader) -> store.Write:
            last, _ = self._decide(reader, key)
            if last is None:
                raise store.Stale
            said = dataclasses.replace(last.sandbox, last_snapshot=LastSnapshot(message))
            return store.Write(said, last.sequence, OBSERVED, epoch=epoch)

        await self._store.write(write)

    async def _release(self, key: Key, epoch: int) -> None:
        """Has a deletion go on."""
        why: Decision = Decision("")

        def write(reader: store.Reader) -> store.Write:
            nonlocal why
            last, why = self._decide(reader, key)
            if last is None or why.act is not Act.RELEASE:
                raise store.Stale
            return store.Write(last_snapshots.released(last.sandbox), last.sequence, OBSERVED, epoch=epoch)

        await self._store.write(write)
        snapshot_id = "" if why.snapshot is None else why.snapshot.id
        log.info(
            "deletion_released", sandbox=key.id, namespace=key.namespace, snapshot=snapshot_id, message=why.message
        )
