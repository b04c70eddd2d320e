"""Look, decide, act, record: what is done for one sandbox, by a few workers, until the engine agrees."""

import asyncio
import collections
import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from sandbox_server import engines, feed, store
from sandbox_server.domain import errors, lifecycle, status, words
from sandbox_server.domain.event import OBSERVED, Event, Kind
from sandbox_server.domain.observed import Fault, Observed
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.reconciler import attempts, queue, runs
from sandbox_server.settings import Settings

log = structlog.get_logger()

LOOK_OUT_EVERY = 0.1
"""Seconds between two looks at whether a namespace that was out of sight is seen again."""

TOUCH_EVERY = 20.0
"""Seconds for which a pod may be missing before the controller of its workload is made to try again, and between two such
times. So a cause that goes away is noticed within half a minute, as by `queue.BACKOFF_MOST`."""

QUIET = 60.0
"""Seconds between two log lines about engine failures for the same reason."""

AFTER_THE_ANSWER = 0.002
"""Seconds between a wish's commit and the work on it: the caller's answer goes first."""


class Reconciler:
    """Drives the engine to what the store holds. Wake-ups are hints; the store and the resync are the truth.

    `outcomes` counts the passes over a sandbox by how they ended, with the reason of a refusal.
    """

    def __init__(
        self,
        feed: feed.Feed,
        store: store.Store,
        engine: engines.Engine,
        settings: Settings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._feed = feed
        self._store = store
        self._engine = engine
        self._workers = settings.workers
        self._resync = settings.resync
        self._runs = runs.Runs(timedelta(seconds=settings.ready_for))
        self._start_deadline = timedelta(seconds=settings.start_deadline)
        self._now = now
        self._queue = queue.Queue()
        self.outcomes = collections.Counter[tuple[str, str]]()
        self._unseen: dict[tuple[str, Fault | None], set[Key]] = {}
        self._quiet_until: dict[str, float] = {}
        self._attempts: collections.defaultdict[Key, attempts.Attempts] = collections.defaultdict(attempts.Attempts)
        feed.on_event(self._heard)

    def wake(self, key: Key) -> None:
        """A hint that something about `key` may have changed."""
        self._queue.add(key)

    @property
    def backlog(self) -> int:
        """Sandboxes that wait for a worker or have one."""
        return len(self._queue)

    def _heard(self, event: Event) -> None:
        key = event.sandbox.key
        if event.cause.kind is Kind.MUTATION:
            self._queue.succeeded(key)
            self._queue.add_after(key, AFTER_THE_ANSWER)
        elif event.terminated:
            self._queue.forget(key)
            self._attempts.pop(key, None)
            self._runs.forget(key)

    async def run(self) -> None:
        """Works until it is cancelled. Everything live is queued at once: there is no other recovery."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._resyncing())
                tasks.create_task(self._looking_out())
                for _ in range(self._workers):
                    tasks.create_task(self._work())
        finally:
            self._queue.close()

    async def _resyncing(self) -> None:
        while True:
            for sandbox in self._feed.live():
                self._queue.add(sandbox.key)
            await asyncio.sleep(self._resync)

    async def _looking_out(self) -> None:
        """Brings back, all at once, who waits for sight of a namespace, or to be told why there is none."""
        while True:
            await asyncio.sleep(LOOK_OUT_EVERY)
            for namespace, why in list(self._unseen):
                if self._engine.sees(namespace) or self._engine.blind(namespace) != why:
                    for key in self._unseen.pop((namespace, why)):
                        self._queue.add(key)

    async def _work(self) -> None:
        while True:
            key, pause = await self._queue.get(), 0.0
            try:
                await self._reconcile(key)
            except store.Stale:
                # A wish came meanwhile. This replica's have woken the key; those of others it has yet to hear of.
                outcome = "stale", ""
            except engines.Refused as refused:
                outcome = "refused", refused.fault.reason.name
                self._warn(refused.fault.reason.name, key, str(refused))
            except engines.Unreachable as unreachable:
                outcome, pause = ("unreachable", ""), unreachable.retry_after
                self._warn("UNREACHABLE", key, str(unreachable))
            except errors.Unavailable:
                # The store has said why.
                outcome = "unavailable", ""
            except Exception:
                outcome = "failed", ""
                log.exception("reconcile_failed", sandbox=key.id, namespace=key.namespace)
            else:
                outcome = "done", ""
            self.outcomes[outcome] += 1
            if outcome[0] == "done":
                self._queue.succeeded(key)
            else:
                self._queue.retry(key, pause)
            self._queue.done(key)

    async def _reconcile(self, key: Key) -> None:
        known = self._feed.get(key)
        if known is None:
            self._queue.forget(key)
            return
        event = known.event
        if not self._engine.sees(key.namespace):
            why = self._engine.blind(key.namespace)
            self._unseen.setdefault((key.namespace, why), set()).add(key)
            if why is not None:
                await self._write(event, lifecycle.on_blindness(event.sandbox, why, self._now()))
            return
        attempt = self._attempts[key]
        observed, decision = await self._look(event)
        # Before the act: a deadline holds however long the engine fails.
        self._recheck(key, decision)
        if decision.action is not None:
            # What is in error stays so until its pod is ready, or the act has shown whether the cause is gone.
            if decision.phase is Phase.RUNNING or event.sandbox.status.phase not in (decision.phase, Phase.ERROR):
                event = await self._record(event, observed, decision)
            try:
                event = await self._act(event, decision.action)
            except engines.Refused as refused:
                await self._record(event, *await self._look(event, refused.fault))
                raise
            except engines.Busy as busy:
                now = time.monotonic()
                if attempt.busy_since is None:
                    attempt.busy_since = now
                if left := busy.passing_for(now - attempt.busy_since):
                    # The back-off may be longer by then: watches that wake the key count as failures.
                    self._queue.add_after(key, left)
                else:
                    await self._record(event, *await self._look(event, busy.fault))
                raise
            attempt.busy_since = None
            observed, decision = await self._look(event)
            self._recheck(key, decision)
        event = await self._record(event, observed, decision)
        if decision.awaits_pod:
            await self._touch(event)
        else:
            attempt.touch_at = None

    async def _touch(self, event: Event) -> None:
        """Has the controller of the workload try again to make the pod, if it is time, and comes back when it will be."""
        sandbox = event.sandbox
        now, attempt = time.monotonic(), self._attempts[sandbox.key]
        if attempt.touch_at is None:
            attempt.touch_at = now + TOUCH_EVERY
        elif now >= attempt.touch_at:
            attempt.touch_at = now + TOUCH_EVERY
            with attempt.asking():
                revision = await self._engine.touch(sandbox)
            await self._write(event, dataclasses.replace(sandbox, applied_revision=revision))
        self._queue.add_after(sandbox.key, attempt.touch_at - now)

    def _recheck(self, key: Key, decision: lifecycle.Decision) -> None:
        """Comes back when time alone may change the decision."""
        if decision.recheck_at is not None:
            self._queue.add_after(key, max(0.0, (decision.recheck_at - self._now()).total_seconds()))

    async def _look(self, event: Event, fault: Fault | None = None) -> tuple[Observed, lifecycle.Decision]:
        """What there is of it now, and what follows. `fault`: why the engine refused to act just now."""
        sandbox = event.sandbox
        observed = self._observe(sandbox, fault)
        if lifecycle.unexplained(sandbox, observed, self._now()):
            await self._engine.examine(sandbox.namespace)
            observed = self._observe(sandbox, fault)
        observed = await self._redacted(event, observed)
        return observed, lifecycle.decide(sandbox, observed, self._now(), self._start_deadline)

    def _observe(self, sandbox: Sandbox, fault: Fault | None) -> Observed:
        observed = self._runs.timed(sandbox, self._engine.observe(sandbox), self._now())
        return observed if fault is None else dataclasses.replace(observed, fault=fault)

    async def _act(self, event: Event, action: lifecycle.Action) -> Event:
        """Returns `event` with what was applied, which is yet to be written. Raises what the engine raises."""
        sandbox = event.sandbox
        revision = sandbox.applied_revision
        with self._attempts[sandbox.key].asking():
            match action:
                case lifecycle.Apply(replicas):
                    revision = await self._engine.apply(sandbox, await self._env(event), replicas)
                case lifecycle.RemoveWorkload():
                    await self._engine.remove_workload(sandbox)
                case lifecycle.Delete():
                    await self._engine.delete(sandbox)
        applied = dataclasses.replace(sandbox, applied_generation=sandbox.generation, applied_revision=revision)
        return dataclasses.replace(event, sandbox=applied)

    async def _env(self, event: Event) -> dict[str, str]:
        """The environment as of the event. Raises `store.Stale` where there is a newer event: this pass is out of date."""
        key = event.sandbox.key

        def query(reader: store.Reader) -> dict[str, str]:
            last = reader.last(key)
            if last is None or last.sequence != event.sequence:
                raise store.Stale
            return reader.env(key)

        return await self._store.read(query, store.Lane.RECONCILER)

    async def _record(self, event: Event, observed: Observed, decision: lifecycle.Decision) -> Event:
        """Writes what changed of the status; returns the sandbox's last event."""
        return await self._write(event, status.record(event.sandbox, observed, decision, self._now()))

    async def _redacted(self, event: Event, observed: Observed) -> Observed:
        """What is observed, with words of the pod's containers that have no value of the environment.

        What the values of another generation were is not known any more, so that nothing new is taken from its pod.
        """
        sandbox = event.sandbox
        pod = observed.pod
        last = pod.last_exit if pod else None
        if pod is None or pod.owner != sandbox.uid or not (pod.quoted or (last and last.message)):
            return observed
        known, quoted, message = sandbox.status.last_exit, "", ""
        if pod.generation == sandbox.generation:
            values = (await self._env(event)).values()
            quoted, message = words.last(pod.quoted, values), words.last(last.message, values) if last else ""
        elif known and last and (known.code, known.reason) == (last.code, last.reason):
            message = known.message
        return dataclasses.replace(observed, pod=pod.quoting(quoted, message))

    async def _write(self, event: Event, after: Sandbox) -> Event:
        """Writes `after`, which was decided on `event`, unless the sandbox stands so. Raises `store.Stale`."""
        known = self._feed.get(after.key)
        if known is not None and known.event.sequence == event.sequence and known.event.sandbox == after:
            return known.event
        # What is gone needs no environment any more.
        env: dict[str, str] | None = {} if after.status.phase is Phase.TERMINATED else None
        written = await self._store.write(lambda _: store.Write(after, event.sequence, OBSERVED, env))
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
        """One line for each reason in a while: many sandboxes may share a cause, and each is tried again and again."""
        now = time.monotonic()
        if now >= self._quiet_until.get(reason, now):
            self._quiet_until[reason] = now + QUIET
            log.warning("engine_failed", reason=reason, sandbox=key.id, namespace=key.namespace, message=message)
