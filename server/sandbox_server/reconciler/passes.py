"""A pass over a sandbox: observe, decide, act, record."""

import dataclasses
import functools
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from sandbox_server import engines, failpoints, feed, store
from sandbox_server.domain import lifecycle, status
from sandbox_server.domain.event import OBSERVED, Event
from sandbox_server.domain.observed import Fault, Observed
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.usage import Usage
from sandbox_server.leases import Leases
from sandbox_server.reconciler import quotes
from sandbox_server.reconciler.memory import Memory
from sandbox_server.reconciler.queue import Queue

log = structlog.get_logger()


class Passes:
    """Makes passes over sandboxes, and remembers of each what the next pass needs.

    `unsynced` has the sandboxes over which no pass could be made, by their namespace and why it is not synced; None: that is
    not known.
    """

    def __init__(
        self,
        feed: feed.Feed,
        store: store.Store,
        engine: engines.Cluster,
        leases: Leases,
        queue: Queue,
        pace: Pace,
        now: Callable[[], datetime],
    ) -> None:
        """`queue` gets the sandboxes over which another pass has to be made at a time that is known."""
        self._feed = feed
        self._store = store
        self._engine = engine
        self._leases = leases
        self._queue = queue
        self._pace = pace
        self._now = now
        self._memories: dict[Key, Memory] = {}
        self.unsynced: dict[tuple[str, Fault | None], set[Key]] = {}

    def forget(self, key: Key) -> None:
        """Forgets a sandbox that has ended, or whose namespace this replica does not hold."""
        self._queue.forget(key)
        self._memories.pop(key, None)

    async def make(self, key: Key) -> None:
        """Makes a pass over a sandbox. One whose namespace this replica does not hold is forgotten.

        What an act has done, or why it was refused, is observed and decided on before it is recorded. Raises what the engine
        and the store raise.
        """
        known = self._feed.catalogue.get(key)
        epoch = self._leases.held(key.namespace)
        if known is None or not epoch:
            self.forget(key)
            if epoch:
                await self._remove_leftovers(key, None)
            return
        event = known.event
        memory = self._memory(event.sandbox, epoch)
        observed = await self._observe(event, memory)
        if observed is None:
            return
        replacing = lifecycle.replacing(event.sandbox, observed)
        if replacing is not event.sandbox:
            # Before the act: the pod that it makes is of another generation.
            event = await self._write(event, memory, replacing)
        decision = self._decide(event.sandbox, memory, observed)
        failure: engines.Refused | engines.Busy | None = None
        if decision.action is not None:
            # Before the act, which may take long or never be answered.
            if decision.phase is Phase.RUNNING or decision.phase is not event.sandbox.status.phase:
                event = await self._record(event, memory, observed, decision)
            event, failure = await self._act(event, memory, decision.action)
            observed = await self._look(event, memory)
            decision = self._decide(event.sandbox, memory, observed)
        event = await self._record(event, memory, observed, decision)
        await self._remove_leftovers(key, event.sandbox)
        if failure is not None:
            raise failure
        await self._engine.remove_superseded(event.sandbox)
        if decision.awaits_pod:
            await self._touch(event, memory)
        else:
            memory.touch_at = None

    def measured(self, sandbox: Sandbox, usage: Usage | None) -> bool:
        """Takes how full the disk of a sandbox is, None if it could not be measured. Returns whether the status changes.

        What is measured of a sandbox that has ended, or whose namespace this replica does not hold, is not taken.
        """
        known = self._feed.catalogue.get(sandbox.key)
        epoch = self._leases.held(sandbox.namespace)
        if known is None or known.event.sandbox.uid != sandbox.uid or not epoch:
            return False
        return self._memory(known.event.sandbox, epoch).disk.measured(sandbox, usage)

    def _memory(self, sandbox: Sandbox, epoch: int) -> Memory:
        """Returns what is remembered of a sandbox under a lease."""
        memory = self._memories.get(sandbox.key)
        if memory is None or memory.epoch != epoch:
            memory = self._memories[sandbox.key] = Memory.of(sandbox, epoch)
        return memory

    async def _remove_leftovers(self, key: Key, living: Sandbox | None) -> None:
        """Has the engine remove what was made for former sandboxes of the key, if the store knows that they have ended."""
        for uid in self._engine.leftovers(key, living):
            former = await self._store.read(functools.partial(_ended, key=key, uid=uid), store.Lane.RECONCILER)
            if former is not None:
                await self._engine.remove_leftovers(former)

    async def _observe(self, event: Event, memory: Memory) -> Observed | None:
        """Returns what there is of the sandbox now; None while its namespace is not synced and nothing says why."""
        key = event.sandbox.key
        if self._engine.synced(key.namespace):
            return await self._look(event, memory)
        why = self._engine.unobservable(key.namespace)
        self.unsynced.setdefault((key.namespace, why), set()).add(key)
        return None if why is None else Observed(unobservable=why)

    async def _look(self, event: Event, memory: Memory) -> Observed:
        """Returns what the engine shows of the sandbox. What the end of its namespace may explain is looked into."""
        sandbox = event.sandbox
        observed = self._engine.observe(sandbox)
        if lifecycle.unexplained(sandbox, observed, self._now(), memory.refusal(sandbox)):
            await self._engine.examine(sandbox.namespace)
            observed = self._engine.observe(sandbox)
        observed = dataclasses.replace(observed, restoring=memory.awaited)
        observed = memory.timer.timed(sandbox, observed, self._pace, self._now())
        if self._pace.usage_interval:
            observed = dataclasses.replace(observed, nearly_full=memory.disk.nearly_full(sandbox))
        return await quotes.redacted(sandbox, observed, lambda: self._env(event))

    def _decide(self, sandbox: Sandbox, memory: Memory, observed: Observed) -> lifecycle.Decision:
        """Decides, and comes back when time alone may change the decision."""
        now = self._now()
        decision = lifecycle.decide(sandbox, observed, now, self._pace, memory.refusal(sandbox))
        if decision.action is None and observed.unobservable is None:
            memory.nothing_due()
        if decision.recheck_at is not None:
            self._queue.add_after(sandbox.key, max(0.0, (decision.recheck_at - now).total_seconds()))
        return decision

    async def _act(
        self, event: Event, memory: Memory, action: lifecycle.Action
    ) -> tuple[Event, engines.Refused | engines.Busy | None]:
        """Returns `event` with what was applied, which is yet to be written, or the engine's answer that it cannot act.

        An answer that may still pass is not in the status, which otherwise follows what is observed. An act that was begun and
        waits is gone on with later. Raises `engines.Unreachable` where there is no answer, and the status stays as it is.
        """
        sandbox = event.sandbox
        if self._leases.held(sandbox.namespace) != memory.epoch:
            raise engines.NotHeld(f"another replica may hold {sandbox.namespace} by now")
        revision = sandbox.applied_revision
        try:
            failpoints.hit("before_act")
            with memory.asking():
                match action:
                    case lifecycle.Apply(replicas):
                        revision = await self._engine.apply(sandbox, await self._env(event), replicas)
                    case lifecycle.RemoveWorkload():
                        await self._engine.remove_workload(sandbox)
                    case lifecycle.Delete():
                        await self._engine.delete(sandbox)
            failpoints.hit("after_act")
        except engines.Awaited as awaited:
            memory.begun(str(awaited))
            self._queue.add_after(sandbox.key, awaited.retry_after)
            return event, None
        except engines.Refused as refused:
            memory.refuse(sandbox, refused.fault)
            return event, refused
        except engines.Busy as busy:
            if left := busy.passing_for(memory.busy_for(), self._pace.busy_after):
                # The back-off may be longer by then: watches that wake the key count as failures.
                self._queue.add_after(sandbox.key, left)
            else:
                memory.refuse(sandbox, busy.fault)
            return event, busy
        memory.nothing_due()
        applied = dataclasses.replace(sandbox, applied_generation=sandbox.generation, applied_revision=revision)
        return dataclasses.replace(event, sandbox=applied), None

    async def _touch(self, event: Event, memory: Memory) -> None:
        """Has the controller of the workload try again to make the pod, if it is time, and comes back when it will be."""
        sandbox = event.sandbox
        now = time.monotonic()
        if memory.touch_at is None:
            memory.touch_at = now + self._pace.touch_every
        elif now >= memory.touch_at:
            memory.touch_at = now + self._pace.touch_every
            with memory.asking():
                revision = await self._engine.touch(sandbox)
            await self._write(event, memory, dataclasses.replace(sandbox, applied_revision=revision))
        self._queue.add_after(sandbox.key, memory.touch_at - now)

    async def _env(self, event: Event) -> dict[str, str]:
        """Returns the environment as of the event. Raises `store.Stale` if there is a newer event where it has to be read."""
        if not event.sandbox.env_names:
            return {}
        env = await self._store.read(lambda reader: reader.env_of(event), store.Lane.RECONCILER)
        if env is None:
            raise store.Stale
        return env

    async def _record(self, event: Event, memory: Memory, observed: Observed, decision: lifecycle.Decision) -> Event:
        """Writes what changed of the status; returns the sandbox's last event."""
        return await self._write(event, memory, status.record(event.sandbox, observed, decision, self._now()))

    async def _write(self, event: Event, memory: Memory, after: Sandbox) -> Event:
        """Writes `after`, which was decided on `event`, unless the sandbox stands so.

        Raises `store.Stale`, also if another replica has taken the namespace meanwhile.
        """
        known = self._feed.catalogue.get(after.key)
        if known is not None and known.event.sequence == event.sequence and known.event.sandbox == after:
            return known.event
        # A sandbox that is gone needs no environment.
        env: dict[str, str] | None = {} if after.status.phase is Phase.TERMINATED else None
        written = await self._store.write(lambda _: store.Write(after, event.sequence, OBSERVED, env, memory.epoch))
        sandbox = written.sandbox
        if known is None or known.event.sandbox.status.phase is not sandbox.status.phase:
            log.info(
                "phase_changed",
                sandbox=sandbox.id,
                namespace=sandbox.namespace,
                phase=sandbox.status.phase.name,
                reason=sandbox.status.reason.name,
                generation=sandbox.generation,
                sequence=written.sequence,
            )
        return written


def _ended(reader: store.Reader, key: Key, uid: str) -> Sandbox | None:
    """Returns the TERMINATED sandbox with that key and uid; None if there is none, or the log has it no longer."""
    event = reader.last_of(key, uid)
    return event.sandbox if event is not None and event.terminated else None
