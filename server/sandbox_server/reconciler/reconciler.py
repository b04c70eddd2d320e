"""When a pass over a sandbox is made: a few workers make passes until the engine agrees with the store."""

import asyncio
import collections
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from sandbox_server import engines, feed, store
from sandbox_server.domain.event import Event, Kind
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.usage import Usage
from sandbox_server.leases import Leases
from sandbox_server.reconciler import queue
from sandbox_server.reconciler.passes import Passes
from sandbox_server.reconciler.workers import Workers

AFTER_THE_ANSWER = 0.002
"""Seconds between the commit of a mutation and the work on it: the caller's answer goes first."""


class Reconciler:
    """Drives the engine to what the store holds. Wake-ups are hints; the store and the resync are the truth."""

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
        self._pace = pace
        self._queue = queue.Queue(pace)
        self._passes = Passes(feed, store, engine, leases, self._queue, pace, now)
        self._workers = Workers("sandbox", self._queue, self._passes.make, self._passes.forget, workers, pace)
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
                self._queue.add(sandbox.key, queue.Line.REPEATED)

    @property
    def outcomes(self) -> collections.Counter[tuple[str, str]]:
        """Counts the passes over a sandbox by how they ended, with the reason of a refusal."""
        return self._workers.outcomes

    @property
    def backlog(self) -> int:
        """Sandboxes that wait for a worker or have one."""
        return len(self._queue)

    def _heard(self, event: Event) -> None:
        key = event.sandbox.key
        if event.cause.kind is Kind.MUTATION and self._leases.held(key.namespace):
            self._queue.succeeded(key)
            self._queue.add_after(key, AFTER_THE_ANSWER, queue.Line.ASKED)
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
                tasks.create_task(self._workers.run())
        finally:
            self._queue.close()

    async def _resyncing(self) -> None:
        while True:
            for sandbox in self._feed.catalogue.sandboxes():
                self._queue.add(sandbox.key, queue.Line.REPEATED)
            await asyncio.sleep(self._pace.resync)

    async def _wait_for_sync(self) -> None:
        """Queues the sandboxes of a namespace, all at once, when it is synced or it is unobservable for another reason."""
        while True:
            await asyncio.sleep(self._pace.sync_check_every)
            unsynced = self._passes.unsynced
            for namespace, why in list(unsynced):
                if self._engine.synced(namespace) or self._engine.unobservable(namespace) != why:
                    for key in unsynced.pop((namespace, why)):
                        self._queue.add(key, queue.Line.REPEATED)
