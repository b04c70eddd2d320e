"""Observe, decide, act, record: a few workers do so for each sandbox until the engine agrees with the store."""

import asyncio
import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from sandbox_server import engines, failpoints, feed, store
from sandbox_server.domain import errors, lifecycle, status
from sandbox_server.domain.event import OBSERVED, Event, Kind
from sandbox_server.domain.observed import Fault, Observed
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.leases import Leases
from sandbox_server.reconciler import queue, quotes
from sandbox_server.reconciler.memory import Memory

log = structlog.get_logger()

AFTER_THE_ANSWER = 0.002
"""Seconds between the commit of a mutation and the work on it: the caller's answer goes first."""


class _Outcome(NamedTuple):
    """How a pass over a sandbox ended. `retry_after`: seconds for which the engine asked to be left alone."""

    name: str
    reason: str = ""
    retry_after: float = 0.0


class Reconciler:
    """Drives the engine to what the store holds. Wake-ups are hints; the store and the resync are the truth.

    `outcomes` counts the passes over a sandbox by how they ended, with the reason of a refusal.
    """

    def __init__(
        self,
        feed: feed.Feed,
        store: store.Store,
        engine: engines.Cluster,
        leases: Leases,
        workers: int,
        pace: Pace,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._feed = feed
        self._store = store
        self._engine = engine
        self._leases = leases
        self._workers = workers
        self._pace = pace
        self._now = now
        self._queue = queue.Queue(pace)
        self.outcomes = collections.Counter[tuple[str, str]]()
        self._unsynced: dict[tuple[str, Fault | None], set[Key]] = {}
        self._quiet_until: dict[str, float] = {}
        self._memories: dict[Key, Memory] = {}
        feed.on_event(self._heard)
        leases.on_taken(self._taken)

    def wake(self, key: Key) -> None:
        """Queues a sandbox that may have changed."""
        self._queue.add(key)

    def _taken(self, namespaces: Collection[str]) -> None:
        """Queues every sandbox of namespaces that another replica held."""
        for sandbox in self._feed.catalogue.sandboxes():
            if sandbox.namespace in namespaces:
                self._queue.add(sandbox.key)

    @property
    def backlog(self) -> int:
        """Sandboxes that wait for a worker or have one."""
        return len(self._queue)

    def _heard(self, event: Event) -> None:
        key = event.sandbox.key
        if event.cause.kind is Kind.MUTATION and self._leases.held(key.namespace):
            self._queue.succeeded(key)
            self._queue.add_after(key, AFTER_THE_ANSWER)
        elif event.terminated:
            self._forget(key)

    def _forget(self, key: Key) -> None:
        self._queue.forget(key)
        self._memories.pop(key, None)

    async def run(self) -> None:
        """Works until it is cancelled. Every live sandbox is queued at once: there is no other recovery.

        A sandbox of a namespace that another replica holds is dropped when its turn comes.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._resyncing())
                tasks.create_task(self._wait_for_sync())
                for _ in range(self._workers):
                    tasks.create_task(self._work())
        finally:
            self._queue.close()

    async def _resyncing(self) -> None:
        while True:
            for sandbox in self._feed.catalogue.sandboxes():
                self._queue.add(sandbox.key)
            await asyncio.sleep(self._pace.resync)

    async def _wait_for_sync(self) -> None:
        """Queues the sandboxes of a namespace, all at once, when it is synced or it is unobservable for another reason."""
        while True:
            await asyncio.sleep(self._pace.sync_check_every)
            for namespace, why in list(self._unsynced):
                if self._engine.synced(namespace) or self._engine.unobservable(namespace) != why:
                    for key in self._unsynced.pop((namespace, why)):
                        self._queue.add(key)

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            outcome = await self._outcome(key)
            self.outcomes[outcome.name, outcome.reason] += 1
            if outcome.name == "done":
                self._queue.succeeded(key)
            elif outcome.name == "not_held":
                # Whoever holds the namespace queues all of its sandboxes, and so does this replica if it holds it again.
                self._forget(key)
            else:
                self._queue.retry(key, outcome.retry_after)
            self._queue.done(key)

    async def _outcome(self, key: Key) -> _Outcome:
        """Makes a pass over a sandbox and returns how it ended."""
        try:
            await self._reconcile(key)
        except store.Stale:
            # There is a newer event, and it wakes the key: a mutation of this replica has done so, another replica's will when
            # the feed reads it.
            return _Outcome("stale")
        except engines.Outdated:
            # What has changed wakes the key as well, if it can change the decision.
            return _Outcome("outdated")
        except engines.NotHeld:
            return _Outcome("not_held")
        except engines.Refused as refused:
            self._warn(refused.fault.reason.name, key, str(refused))
            return _Outcome("refused", refused.fault.reason.name)
        except engines.Unreachable as unreachable:
            self._warn("UNREACHABLE", key, str(unreachable))
            return _Outcome("unreachable", retry_after=unreachable.retry_after)
        except errors.Unavailable:
            # The store has said why.
            return _Outcome("unavailable")
        except Exception:
            log.exception("reconcile_failed", sandbox=key.id, namespace=key.namespace)
            return _Outcome("failed")
        return _Outcome("done")

    async def _reconcile(self, key: Key) -> None:
        """One pass over a sandbox whose namespace this replica holds: observe, decide, act, record.

        What an act has done, or why it was refused, is observed and decided on before it is recorded.
        """
        known = self._feed.catalogue.get(key)
        epoch = self._leases.held(key.namespace)
        if known is None or not epoch:
            self._forget(key)
            if epoch:
                await self._remove_leftovers(key, None)
            return
        event = known.event
        memory = self._memories.get(key)
        if memory is None or memory.epoch != epoch:
            memory = self._memories[key] = Memory.of(event.sandbox, epoch)
        observed = await self._observe(event, memory)
        if observed is None:
            return
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
        if decision.awaits_pod:
            await self._touch(event, memory)
        else:
            memory.touch_at = None

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
        self._unsynced.setdefault((key.namespace, why), set()).add(key)
        return None if why is None else Observed(unobservable=why)

    async def _look(self, event: Event, memory: Memory) -> Observed:
        """Returns what the engine shows of the sandbox. What the end of its namespace may explain is looked into."""
        sandbox = event.sandbox
        observed = self._engine.observe(sandbox)
        if lifecycle.unexplained(sandbox, observed, self._now(), memory.refusal(sandbox)):
            await self._engine.examine(sandbox.namespace)
            observed = self._engine.observe(sandbox)
        observed = memory.timer.timed(sandbox, observed, self._pace, self._now())
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

        An answer that may still pass is not in the status, which otherwise follows what is observed. Raises
        `engines.Unreachable` where there is no answer, and the status stays as it is.
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
        """Returns the environment as of the event. Raises `store.Stale` if there is a newer event."""
        key = event.sandbox.key

        def query(reader: store.Reader) -> dict[str, str]:
            last = reader.last(key)
            if last is None or last.sequence != event.sequence:
                raise store.Stale
            return reader.env(key)

        return await self._store.read(query, store.Lane.RECONCILER)

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

    def _warn(self, reason: str, key: Key, message: str) -> None:
        """Logs one line for each reason in `Pace.log_every`: many sandboxes may share a cause, and each is tried many times."""
        now = time.monotonic()
        if now >= self._quiet_until.get(reason, now):
            self._quiet_until[reason] = now + self._pace.log_every
            log.warning("engine_failed", reason=reason, sandbox=key.id, namespace=key.namespace, message=message)


def _ended(reader: store.Reader, key: Key, uid: str) -> Sandbox | None:
    """Returns the TERMINATED sandbox with that key and uid; None if there is none, or the log has it no longer."""
    event = reader.last_of(key, uid)
    return event.sandbox if event is not None and event.terminated else None
