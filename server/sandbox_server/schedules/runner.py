"""The loop that has the snapshots of schedules taken and removed. Each step is one transaction, decided on what that reads: the
snapshot of a slot, and that the slot is worked, are recorded together under the lease of the namespace, or not at all."""

import asyncio
import collections
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from sandbox_server import feed, store
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.schedule import Covered, Schedule
from sandbox_server.domain.schedules import backed_up, covers, due, surplus
from sandbox_server.domain.snapshot import Snapshot, SnapshotEvent, State
from sandbox_server.leases import Leases
from sandbox_server.schedules.deletions import Deletions
from sandbox_server.schedules.steps import Pair, Steps

_COUNTS = frozenset({"labels", "desired_state", "reason"})
"""The fields of a status with which the schedules of a sandbox can change, or what is due of them."""
_AT_ONCE = 250
"""Sandboxes that are looked at before others have their turn on the event loop: that takes about a millisecond."""

_MOVES = frozenset({State.CREATING, State.DELETING})
"""The states of snapshots that are being taken or removed."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Known:
    """What is known of a namespace that this replica holds, so that it need not be read for each look at the clock.

    `next_slot`: when the next slot of one of its schedules comes; None if there is none. `changed`: it has to be read at once,
    and otherwise `read_again` says when, by the monotonic clock.
    """

    epoch: int
    next_slot: datetime | None = None
    changed: bool = True
    read_again: float = 0.0

    def is_due(self, now: datetime) -> bool:
        """Whether the namespace has to be looked at."""
        arrived = self.next_slot is not None and now >= self.next_slot
        return self.changed or arrived or time.monotonic() >= self.read_again


class Runner:
    """Works the slots of schedules in the namespaces that this replica holds. The store and the clock are the truth: what is heard
    is only a reason to look."""

    def __init__(
        self,
        sandboxes: feed.Feed,
        snapshots: feed.Snapshots,
        store: store.Store,
        steps: Steps,
        deletions: Deletions,
        leases: Leases,
        pace: Pace,
        now: Callable[[], datetime],
    ) -> None:
        self._sandboxes = sandboxes
        self._store = store
        self.steps = steps
        self._deletions = deletions
        self._leases = leases
        self._pace = pace
        self._now = now
        self._revision = -1
        self._known: dict[str, _Known] = {}
        self.rounds = 0
        """How often what is due of schedules was done."""
        sandboxes.on_event(self._heard_of_sandbox)
        snapshots.on_event(self._heard_of_snapshot)

    @property
    def outcomes(self) -> collections.Counter[str]:
        """Counts the slots of sandboxes that were worked, by TAKEN or why they were missed."""
        return self.steps.outcomes

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            try:
                await self._look()
            except errors.Unavailable:
                # The store has said why.
                pass
            except Exception:
                log.exception("schedules_failed")
            await asyncio.sleep(self._pace.schedule_look_every)

    def wake(self) -> None:
        """Looks soon at every namespace."""
        for one in self._known.values():
            one.changed = True

    def _heard_of_sandbox(self, event: Event) -> None:
        fields = event.changed
        if event.terminated or fields is None or not _COUNTS.isdisjoint(fields):
            self._changed(event.sandbox.namespace)

    def _heard_of_snapshot(self, event: SnapshotEvent) -> None:
        if event.snapshot.schedule_uid:
            self._changed(event.snapshot.namespace)

    def _changed(self, namespace: str) -> None:
        if namespace in self._known:
            self._known[namespace].changed = True

    async def _look(self) -> None:
        """Looks at every namespace that this replica holds, where there may be something to do."""
        revision, namespaces = await self._store.read(
            lambda reader: (reader.schedules.revision(), reader.schedules.namespaces()), store.Lane.RECONCILER
        )
        waiting = self._deletions.waiting()
        held = {one: epoch for one in {*namespaces, *waiting} if (epoch := self._leases.held(one))}
        for namespace, epoch in held.items():
            known = self._known.get(namespace)
            if known is None or known.epoch != epoch:
                self._known[namespace] = _Known(epoch)
            elif revision != self._revision:
                known.changed = True
        self._known = {namespace: self._known[namespace] for namespace in held}
        self._revision = revision
        for namespace, known in self._known.items():
            if known.is_due(self._now()):
                await self._work(namespace, known, waiting.get(namespace, ()))
        self.rounds += 1

    async def _work(self, namespace: str, known: _Known, waiting: Sequence[Key]) -> None:
        """Does what is due in a namespace. What fails, or was decided on what has changed meanwhile, is looked at again."""
        known.changed = False
        again = self._pace.last_snapshot_again if waiting else self._pace.resync
        known.read_again = time.monotonic() + again
        try:
            for key in waiting:
                await self._deletions.work(key, known.epoch)
            known.next_slot = await self._round(namespace, known.epoch)
        except store.Stale:
            known.changed = True
        except Exception as error:
            known.changed = True
            if not isinstance(error, errors.Unavailable):
                log.exception("schedules_failed", namespace=namespace)

    async def _round(self, namespace: str, epoch: int) -> datetime | None:
        """Does what is due in a namespace, and returns when the next slot comes. Raises `store.Stale`, `errors.Unavailable`."""
        # A slot that arrives meanwhile is the next one.
        now = self._now()
        schedules, covered, snapshots = await self._store.read(
            lambda reader: (
                reader.schedules.of([namespace]),
                reader.schedules.all_covered([namespace]),
                [one.snapshot for one in reader.snapshots.live([namespace])],
            ),
            store.Lane.RECONCILER,
        )
        sandboxes = [one for one in self._sandboxes.catalogue.sandboxes() if one.namespace == namespace]
        of_schedule = collections.defaultdict[str, dict[str, Covered]](dict)
        for known in covered:
            of_schedule[known.schedule_uid][known.sandbox_uid] = known
        taken = collections.defaultdict[str, dict[str, list[Snapshot]]](dict)
        for one in snapshots:
            taken[one.schedule_uid].setdefault(one.sandbox_uid, []).append(one)
        dues: list[Pair] = []
        moving = {one.schedule_uid for one in snapshots if one.state in _MOVES}
        for schedule in schedules:
            pairs = self._pairs(schedule, sandboxes, of_schedule[schedule.uid], taken[schedule.uid], epoch)
            await self._apart(schedule, self._settle(pairs, dues, moving, now, epoch))
        missing = await self.steps.missing(namespace) if dues else ""
        for pair in dues:
            await self._apart(pair.schedule, self._take(pair, missing, moving, epoch))
        slots = [one.slots for one in schedules]
        return min((one.following(now) for one in slots if one is not None), default=None)

    async def _apart(self, schedule: Schedule, work: Awaitable[None]) -> None:
        """Does some of what is due of a schedule. Where that fails, it is done again later, and what is due of others all the same."""
        try:
            await work
        except (store.Stale, errors.Unavailable):
            raise
        except Exception:
            log.exception("schedule_failed", schedule=schedule.id, namespace=schedule.namespace)
            self._changed(schedule.namespace)

    async def _take(self, pair: Pair, missing: str, moving: set[str], epoch: int) -> None:
        """Works the slot that is due of a sandbox. `moving`: the schedules of which snapshots are being taken or removed."""
        schedule, sandbox = pair.schedule, pair.sandbox
        if await self.steps.take(schedule.key, sandbox.key, missing, epoch, schedule.uid in moving):
            moving.add(schedule.uid)

    async def _pairs(
        self,
        schedule: Schedule,
        sandboxes: Sequence[Sandbox],
        known: Mapping[str, Covered],
        taken: Mapping[str, Sequence[Snapshot]],
        epoch: int,
    ) -> AsyncIterator[Pair]:
        """Yields what is known of the sandboxes that a schedule covers, and records which those are. Others have their turn meanwhile.

        `known` and `taken` are by the uids of the sandboxes.
        """
        found = {}
        for number, one in enumerate(sandboxes):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if covers(schedule, one):
                found[one.uid] = one
        joining = [one.key for uid, one in found.items() if uid not in known]
        leaving = [one for uid, one in known.items() if uid not in found]
        await self.steps.enrol(schedule.key, joining, leaving, epoch)
        if joining:
            # Slots of theirs may be due already.
            self._changed(schedule.namespace)
        for number, (uid, sandbox) in enumerate(found.items()):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if uid in known:
                yield Pair(schedule, sandbox, known[uid], taken.get(uid, ()))

    async def _settle(
        self, pairs: AsyncIterator[Pair], dues: list[Pair], moving: set[str], now: datetime, epoch: int
    ) -> None:
        """Does what is due of sandboxes that a schedule covers, but for taking snapshots: it adds those of which one is due to `dues`.

        `moving`: as of `_take`, to which it adds schedules of which it has a snapshot removed.
        """
        mine: list[Pair] = []
        async for pair in pairs:
            schedule, sandbox, covered, snapshots = pair
            taking = any(one.uid == covered.snapshot_uid and one.state is State.CREATING for one in snapshots)
            if covered.snapshot_uid and not taking:
                await self.steps.settle(schedule.key, sandbox.key, epoch)
            for one in surplus(schedule, sandbox.uid, snapshots, now) if snapshots else ():
                moving.add(schedule.uid)
                await self.steps.remove(schedule.key, one, epoch)
            if (found := due(schedule, covered, now)) is not None:
                if found.ahead:
                    log.warning("schedule_clock_was_ahead", schedule=schedule.id, **sandbox.key._asdict())
                mine.append(pair)
        # Where not all have room, none is always the last.
        dues += sorted(mine, key=lambda one: backed_up(one.snapshots))
