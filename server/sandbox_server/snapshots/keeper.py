"""The loop that has snapshots taken, verified and removed: observe, decide, record, act, as the reconciler does with sandboxes."""

import asyncio
import collections
import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from sandbox_server import engines, failpoints, feed, store
from sandbox_server.domain import errors, verifications
from sandbox_server.domain.event import Event
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.snapshot import Scratch, Snapshot, SnapshotEvent, SnapshotReason, State, Taken
from sandbox_server.domain.snapshots import Act, Facts, decide, moved, needs
from sandbox_server.leases import Leases
from sandbox_server.reconciler.queue import Line, Queue
from sandbox_server.reconciler.workers import Workers
from sandbox_server.snapshots.known import Known
from sandbox_server.snapshots.turns import Turns

WORKERS = 4
"""Workers of each line of the queue. Few are enough: an engine returns once the storage is asked, except for removals on this
machine."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Memory:
    """What is remembered of a snapshot while this replica holds its namespace.

    `busy_since`: since when each try was refused or not answered.
    """

    uid: str
    epoch: int
    busy_since: float | None = None


class Keeper:
    """Drives the storage to what the store holds of snapshots. Wake-ups are hints; the store and the resync are the truth."""

    def __init__(
        self,
        snapshots: feed.Snapshots,
        sandboxes: feed.Feed,
        store: store.Store,
        engine: engines.Snapshots,
        leases: Leases,
        pace: Pace,
        verified_at_once: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`verified_at_once`: scratches that there are at once, of this replica."""
        self._snapshots = snapshots
        self._sandboxes = sandboxes
        self._store = store
        self._engine = engine
        self._leases = leases
        self._pace = pace
        self._now = now
        self._turns = Turns(verified_at_once)
        self._memories: dict[Key, _Memory] = {}
        self._known = Known()
        self._queue = Queue(pace)
        self._workers = Workers("snapshot", self._queue, self._work, self._forget, WORKERS, pace)
        snapshots.on_event(self._heard)
        sandboxes.on_event(self._heard_of_sandbox)
        leases.on_taken(self._taken)

    @property
    def outcomes(self) -> collections.Counter[tuple[str, str]]:
        """Counts the looks at a snapshot by how they ended, with the reason of a refusal."""
        return self._workers.outcomes

    @property
    def verifying(self) -> int:
        """The number of snapshots that this replica verifies, but for those that wait for their turn."""
        return len(self._turns)

    def wake(self, key: Key) -> None:
        """Queues a snapshot that may have changed."""
        self._queue.add(key)

    async def run(self) -> None:
        """Works until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._resyncing())
                tasks.create_task(self._workers.run())
        finally:
            self._queue.close()

    async def _resyncing(self) -> None:
        while True:
            with contextlib.suppress(errors.Unavailable):
                for event in await self._snapshots.live():
                    # What was heard meanwhile is newer.
                    if event.snapshot.key not in self._known:
                        self._known.put(event.snapshot)
            for key in self._known:
                self._queue.add(key, Line.REPEATED)
            await asyncio.sleep(self._pace.resync)

    def _taken(self, namespaces: Collection[str]) -> None:
        """Queues every snapshot of namespaces that another replica held."""
        for key in self._known:
            if key.namespace in namespaces:
                self._queue.add(key, Line.REPEATED)

    def _heard(self, event: SnapshotEvent) -> None:
        self._known.put(event.snapshot)
        self._queue.add(event.snapshot.key)

    def _heard_of_sandbox(self, event: Event) -> None:
        """Queues the snapshots for which a change of a sandbox counts."""
        sandbox = event.sandbox
        ends = event.terminated or sandbox.desired is DesiredState.DELETED
        for snapshot in self._known.of(sandbox.uid):
            if ends or snapshot.state is State.CREATING:
                self._queue.add(snapshot.key)
        for snapshot in self._known.of(sandbox.origin.snapshot_uid) if sandbox.origin else ():
            if snapshot.asked_to_go:
                self._queue.add(snapshot.key)

    def _forget(self, key: Key) -> None:
        self._queue.forget(key)
        self._end_turn(key)
        self._memories.pop(key, None)

    async def _work(self, key: Key) -> None:
        """Looks at a snapshot and does what is due. Raises what the engine and the store raise."""
        epoch = self._leases.held(key.namespace)
        event = await self._snapshots.last(key) if epoch else None
        if event is None or event.snapshot.state is State.DELETED:
            if epoch:
                self._known.forget(key)
            self._forget(key)
            return
        memory = self._memory(event.snapshot, epoch)
        try:
            event, act = await self._decide(event, memory, await self._engine.taken(event.snapshot))
            if act is not None:
                await self._act(event.snapshot, act)
                event, _ = await self._decide(event, memory, await self._engine.taken(event.snapshot))
            event = await self._verify(event, memory)
        except (engines.Refused, engines.Unreachable) as failure:
            await self._say_busy(event, memory, str(failure))
            raise
        memory.busy_since = None
        if self._is_under_way(event.snapshot):
            self._queue.add_after(key, self._pace.snapshot_look_every)

    async def _verify(self, event: SnapshotEvent, memory: _Memory) -> SnapshotEvent:
        """Goes on with the verification of a snapshot. Returns its last event. Raises as `_save` and the engine do."""
        if event.snapshot.verifies:
            event, step = await self._decide_verification(event, memory)
            if step is not None:
                failpoints.hit("verification_before_act")
                act = self._engine.verify if step is verifications.Step.BEGIN else self._engine.clear
                await act(event.snapshot)
                failpoints.hit("verification_after_act")
                event, _ = await self._decide_verification(event, memory)
        if not event.snapshot.verifies:
            self._end_turn(event.snapshot.key)
        return event

    def _end_turn(self, key: Key) -> None:
        """Has the next verification begin in place of this one."""
        if (following := self._turns.end(key)) is not None:
            self._queue.add(following)

    async def _scratch(self, snapshot: Snapshot) -> Scratch:
        """Returns what the engine shows of the scratch. Of one that was never begun nothing is there before its turn.

        Raises as the engine does.
        """
        running = snapshot.verification
        begun = running is not None and (running.start_time is not None or running.result is not None)
        if not begun and not self._turns.take(snapshot.key):
            return Scratch(is_there=False)
        try:
            scratch = await self._engine.scratch(snapshot)
        except (engines.Refused, engines.Unreachable):
            if not begun:
                # Others may be begun meanwhile.
                self._end_turn(snapshot.key)
            raise
        if scratch.is_there:
            self._turns.keep(snapshot.key)
        return scratch

    async def _decide_verification(
        self, event: SnapshotEvent, memory: _Memory
    ) -> tuple[SnapshotEvent, verifications.Step | None]:
        """Decides and records. Returns the last event, and what to do. Raises as `_save` and the engine do."""
        scratch = await self._scratch(event.snapshot)
        has_turn = self._turns.take(event.snapshot.key)
        facts = verifications.Facts(
            scratch=scratch, has_turn=has_turn, deadline=self._pace.verify_most, now=self._now()
        )
        decision = verifications.decide(event.snapshot, facts)
        return await self._save(event, decision.snapshot, memory), decision.step

    async def _decide(self, event: SnapshotEvent, memory: _Memory, taken: Taken) -> tuple[SnapshotEvent, Act | None]:
        """Decides and records. Returns the last event, and what to do. Raises as `_catch_up` and `_save`."""
        decision = decide(event.snapshot, self._facts(event.snapshot, taken))
        if decision.snapshot.state is not event.snapshot.state:
            # It may rest on a sandbox that this replica has not read yet, or has read as it was before.
            await self._catch_up()
            decision = decide(event.snapshot, self._facts(event.snapshot, taken))
        event = await self._save(event, decision.snapshot, memory)
        if decision.act is not Act.DISCARD or not event.snapshot.asked_to_go:
            return event, decision.act
        # From here on no sandbox can be made from it. Those that are to be are all known once this replica has read so far.
        await self._catch_up()
        decision = decide(event.snapshot, self._facts(event.snapshot, taken))
        return await self._save(event, decision.snapshot, memory), decision.act

    async def _catch_up(self) -> None:
        """Returns once this replica has read what the log of sandboxes has now.

        Raises `store.Stale` if that takes long, and `errors.Unavailable` if the log cannot be asked.
        """
        sequence = await self._store.read(lambda reader: reader.sequence(), store.Lane.RECONCILER)
        self._sandboxes.announce(sequence)
        try:
            async with asyncio.timeout(self._pace.health_within):
                await self._sandboxes.arrived(sequence)
        except TimeoutError as late:
            raise store.Stale from late

    async def _act(self, snapshot: Snapshot, act: Act) -> None:
        failpoints.hit("snapshot_before_act")
        if act is Act.DISCARD:
            await self._engine.discard(snapshot)
        elif (sandbox := self._sandbox(snapshot)) is not None:
            await self._engine.take(snapshot, sandbox)
        failpoints.hit("snapshot_after_act")

    async def _save(self, event: SnapshotEvent, after: Snapshot, memory: _Memory) -> SnapshotEvent:
        """Records what has changed of a snapshot. Raises `store.Stale`."""
        if after == event.snapshot:
            return event
        written = await self._snapshots.save(after, event.sequence, memory.epoch)
        if after.state is not event.snapshot.state:
            log.info(
                "snapshot_changed",
                snapshot=after.id,
                namespace=after.namespace,
                state=after.state.name,
                reason=after.reason.name,
                sequence=written.sequence,
            )
        if event.snapshot.verifies and after.verification is not None and not after.verifies:
            log.info(
                "snapshot_verified",
                snapshot=after.id,
                namespace=after.namespace,
                state=after.verification.state.name,
                reason=after.verification.reason.name,
                sequence=written.sequence,
            )
        return written

    async def _say_busy(self, event: SnapshotEvent, memory: _Memory, message: str) -> None:
        """Records that the storage cannot do what is due, if that has lasted."""
        now = time.monotonic()
        if memory.busy_since is None:
            memory.busy_since = now
        left = memory.busy_since + self._pace.busy_after - now
        if left > 0:
            self._queue.add_after(event.snapshot.key, left)
        elif event.snapshot.state in (State.CREATING, State.DELETING):
            busy = moved(event.snapshot, event.snapshot.state, SnapshotReason.BUSY, message, self._now())
            await self._save(event, busy, memory)
        else:
            await self._save(event, verifications.busy(event.snapshot, message), memory)

    def _memory(self, snapshot: Snapshot, epoch: int) -> _Memory:
        memory = self._memories.get(snapshot.key)
        if memory is None or (memory.uid, memory.epoch) != (snapshot.uid, epoch):
            memory = _Memory(snapshot.uid, epoch)
            self._memories[snapshot.key] = memory
        return memory

    def _facts(self, snapshot: Snapshot, taken: Taken) -> Facts:
        needed_by = ""
        if snapshot.asked_to_go:
            makers = (one.id for one in self._sandboxes.catalogue.sandboxes() if needs(one, snapshot.uid))
            needed_by = next(makers, "")
        return Facts(taken=taken, sandbox=self._sandbox(snapshot), needed_by=needed_by, now=self._now())

    def _sandbox(self, snapshot: Snapshot) -> Sandbox | None:
        """Returns the sandbox that a snapshot is of; None if it has ended."""
        known = self._sandboxes.catalogue.get(Key(snapshot.namespace, snapshot.sandbox_id))
        if known is None or known.event.sandbox.uid != snapshot.sandbox_uid:
            return None
        return known.event.sandbox

    def _is_under_way(self, snapshot: Snapshot) -> bool:
        """Whether the storage is at work on a snapshot, which nothing announces."""
        verifies = snapshot.verifies and snapshot.key in self._turns
        return verifies or snapshot.state in (State.CREATING, State.DELETING)
