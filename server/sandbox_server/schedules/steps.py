"""What is done about a schedule, each step in one transaction under the lease of the namespace, which reads what it decides on."""

import collections
import contextlib
import functools
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import structlog

from sandbox_server import feed, store
from sandbox_server.domain import errors, schedules, snapshot_mutations
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.schedule import Covered, Schedule
from sandbox_server.domain.schedules import Worked
from sandbox_server.domain.snapshot import Snapshot
from sandbox_server.snapshots.manager import SnapshotManager

ENROLLED_MOST = 50
"""Sandboxes that are read in one transaction, for which a mutation may have to wait."""

log = structlog.get_logger()


class Covering(NamedTuple):
    """A schedule, a sandbox that it covers, and how far that sandbox's slots were worked."""

    schedule: Schedule
    sandbox: Sandbox
    covered: Covered


class Pair(NamedTuple):
    """A schedule, a sandbox that it covers, how far that sandbox's slots were worked, and the snapshots of it by the schedule."""

    schedule: Schedule
    sandbox: Sandbox
    covered: Covered
    snapshots: Sequence[Snapshot]


class Steps:
    """Every step may be repeated, by any holder: one that finds nothing to do changes nothing. All raise `store.Stale` if another
    replica holds the namespace by now, and `errors.Unavailable`."""

    def __init__(
        self, log: feed.Snapshots, store: store.Store, manager: SnapshotManager, most: int, now: Callable[[], datetime]
    ) -> None:
        """`most`: snapshots that a tenant may have."""
        self._log = log
        self._store = store
        self._manager = manager
        self._most = most
        self._now = now
        self.outcomes = collections.Counter[str]()

    async def enrol(self, key: Key, joining: Sequence[Key], leaving: Sequence[Covered], epoch: int) -> None:
        """Records which sandboxes a schedule covers, and which no more."""
        for at in range(0, max(len(joining), len(leaving)), ENROLLED_MOST):
            some = slice(at, at + ENROLLED_MOST)
            write = functools.partial(_enrolled, key=key, joining=joining[some], leaving=leaving[some], epoch=epoch)
            await self._store.write_schedule(write)

    async def missing(self, namespace: str) -> str:
        """Returns why no snapshot can be taken of disks of a namespace; empty if they can."""
        return await self._manager.missing(namespace)

    async def take(self, key: Key, sandbox_key: Key, missing: str, epoch: int, moves: bool = False) -> bool:
        """Works the slot that is due: asks for its snapshot, or records that it was missed. Returns whether it asked for one.

        `missing`: as that answers. `moves`: whether snapshots of the schedule are being taken or removed.
        """
        now = self._now()

        def work(reader: store.Reader, covering: Covering) -> Worked | None:
            schedule, sandbox, covered = covering
            if (due := schedules.due(schedule, covered, now)) is None:
                return None
            if covered.snapshot_uid:
                return schedules.busy(schedule, covered, due)
            try:
                snapshot_mutations.admit(schedule.tenant, missing, reader.snapshots.count(schedule.tenant), self._most)
                snapshot_id = free_id(reader, sandbox.namespace, schedules.names(schedule, sandbox, due.slot))
                taken = schedules.taken(schedule, sandbox, due.slot, snapshot_id, str(uuid.uuid4()), now)
            except errors.ServiceError as why:
                if moves and schedules.may_wait(schedule, due, why, now):
                    return None
                return schedules.refused(schedule, covered, due, why)
            return schedules.worked(schedule, covered, due, taken)

        done = await self._record(key, sandbox_key, work, epoch)
        return done is not None and done.snapshot is not None

    async def settle(self, key: Key, sandbox_key: Key, epoch: int) -> None:
        """Records what became of the snapshot of the last slot, once that is known."""

        def work(reader: store.Reader, covering: Covering) -> Worked | None:
            last = reader.snapshots.last(Key(key.namespace, covering.covered.snapshot_id))
            return schedules.settled(covering.schedule, covering.covered, None if last is None else last.snapshot)

        await self._record(key, sandbox_key, work, epoch)

    async def remove(self, key: Key, snapshot: Snapshot, epoch: int) -> None:
        """Asks that a snapshot be removed which a schedule does not keep any more."""

        def write(reader: store.Reader) -> store.SnapshotWrite:
            schedule = reader.schedules.last(key)
            last = reader.snapshots.last(snapshot.key)
            of_sandbox = reader.snapshots.of_sandbox(Key(key.namespace, snapshot.sandbox_id))
            if schedule is None or last is None or last.snapshot.uid != snapshot.uid:
                raise store.Stale
            left = schedules.surplus(schedule, snapshot.sandbox_uid, [one.snapshot for one in of_sandbox], self._now())
            if last.snapshot not in left:
                raise store.Stale
            return store.SnapshotWrite(snapshot_mutations.delete(last.snapshot, self._now()), last.sequence, epoch)

        await self._log.write(write)

    async def _record(
        self, key: Key, sandbox_key: Key, work: Callable[[store.Reader, Covering], Worked | None], epoch: int
    ) -> Worked | None:
        """Records what `work` makes of a sandbox that a schedule covers, says it and returns it."""
        done: Worked | None = None

        def write(reader: store.Reader) -> store.ScheduleWrite | None:
            nonlocal done
            covering = _covering(reader, key, sandbox_key)
            done = None if covering is None else work(reader, covering)
            if done is None:
                return None
            snapshot = None if done.snapshot is None else store.SnapshotWrite(done.snapshot, 0)
            return store.ScheduleWrite(schedule=done.schedule, covers=[done.covered], snapshot=snapshot, epoch=epoch)

        recorded = await self._store.write_schedule(write)
        if recorded.snapshot is not None:
            self._log.announce(recorded.snapshot.sequence)
        if done is not None:
            self._say(done)
        return done

    def _say(self, done: Worked) -> None:
        """Logs and counts what was recorded of a slot."""
        of_slot = {
            "schedule": done.schedule.id,
            "namespace": done.schedule.namespace,
            "sandbox": done.covered.sandbox_id,
        }
        if done.snapshot is not None:
            self.outcomes["TAKEN"] += 1
            log.info("schedule_taken", snapshot=done.snapshot.id, **of_slot)
        for missed, count in done.missed:
            self.outcomes[missed.reason.name] += count
            log.warning(
                "schedule_missed",
                slot=missed.slot.isoformat(),
                count=count,
                reason=missed.reason.name,
                message=missed.message,
                **of_slot,
            )


def free_id(reader: store.Reader, namespace: str, names: Iterable[str]) -> str:
    """Returns the first of some ids that a new snapshot can have. Raises `errors.AlreadyExists` if others have all of them."""
    *others, last = names
    for name in others:
        with contextlib.suppress(errors.AlreadyExists):
            return _free(reader, namespace, name)
    return _free(reader, namespace, last)


def _free(reader: store.Reader, namespace: str, name: str) -> str:
    former = reader.snapshots.last(Key(namespace, name))
    snapshot_mutations.free(None if former is None else former.snapshot)
    return name


def _covering(reader: store.Reader, key: Key, sandbox_key: Key) -> Covering | None:
    """Returns a schedule and a sandbox that it covers; None if it does not, or that was not recorded yet."""
    schedule, last = reader.schedules.last(key), reader.last(sandbox_key)
    if schedule is None or last is None or last.terminated or not schedules.covers(schedule, last.sandbox):
        return None
    covered = reader.schedules.covered(schedule.uid, last.sandbox.uid)
    return None if covered is None else Covering(schedule, last.sandbox, covered)


def _enrolled(
    reader: store.Reader, *, key: Key, joining: Sequence[Key], leaving: Sequence[Covered], epoch: int
) -> store.ScheduleWrite | None:
    """Records some of the sandboxes that a schedule covers, and of those that it covers no more."""
    schedule = reader.schedules.last(key)
    if schedule is None:
        return None
    found = [last.sandbox for one in joining if (last := reader.last(one)) is not None and not last.terminated]
    covers = [
        schedules.begin(schedule, one)
        for one in found
        if schedules.covers(schedule, one) and reader.schedules.covered(schedule.uid, one.uid) is None
    ]
    uids = {one.sandbox_uid for one in leaving}
    stay = {
        last.sandbox.uid
        for one in leaving
        if (last := reader.last(Key(one.namespace, one.sandbox_id))) is not None
        and not last.terminated
        and schedules.covers(schedule, last.sandbox)
    }
    leaves = [one for one in sorted(uids - stay) if reader.schedules.covered(schedule.uid, one) is not None]
    return (
        store.ScheduleWrite(schedule=schedule, covers=covers, leaves=leaves, epoch=epoch) if covers or leaves else None
    )
