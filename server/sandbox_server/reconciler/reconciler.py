"""When a pass over a sandbox is made: a few workers make passes until the engine agrees with the store."""

import asyncio
import collections
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from sandbox_server import engines, feed, store
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event, Kind
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.usage import Usage
from sandbox_server.leases import Leases
from sandbox_server.reconciler import queue
from sandbox_server.reconciler.passes import Passes

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
        self._engine = engine
        self._leases = leases
        self._workers = workers
        self._pace = pace
        self._queue = queue.Queue(pace)
        self.outcomes = collections.Counter[tuple[str, str]]()
        self._passes = Passes(feed, store, engine, leases, self._queue, pace, now)
        self._quiet_until: dict[str, float] = {}
        feed.on_event(self._heard)
        leases.on_taken(self._taken)

    def wake(self, key: Key) -> None:
        """Queues a sandbox that may have changed."""
        self._queue.add(key)

    def measured(self, sandbox: Sandbox, usage: Usage | None) -> None:
        """Takes how full the disk of a sandbox is, None if it could not be measured. Queues it if that changes its status."""
        if self._passes.measured(sandbox, usage):
            self._queue.add(sandbox.key)

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
            self._passes.forget(key)

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
            unsynced = self._passes.unsynced
            for namespace, why in list(unsynced):
                if self._engine.synced(namespace) or self._engine.unobservable(namespace) != why:
                    for key in unsynced.pop((namespace, why)):
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
                self._passes.forget(key)
            else:
                self._queue.retry(key, outcome.retry_after)
            self._queue.done(key)

    async def _outcome(self, key: Key) -> _Outcome:
        """Makes a pass over a sandbox and returns how it ended."""
        try:
            await self._passes.make(key)
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

    def _warn(self, reason: str, key: Key, message: str) -> None:
        """Logs one line for each reason in `Pace.log_every`: many sandboxes may share a cause, and each is tried many times."""
        now = time.monotonic()
        if now >= self._quiet_until.get(reason, now):
            self._quiet_until[reason] = now + self._pace.log_every
            log.warning("engine_failed", reason=reason, sandbox=key.id, namespace=key.namespace, message=message)
