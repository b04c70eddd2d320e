"""The leases of a service that has its database for itself: it holds everything while it runs."""

import asyncio
from collections.abc import Callable, Collection, Iterable

from sandbox_server import engines, leases
from sandbox_server.leases import Counts


class Sole:
    """See `leases.Leases`. What it says of a namespace is what its engine says at that moment."""

    def __init__(self, cluster: engines.Cluster) -> None:
        self._cluster = cluster
        self._served: frozenset[str] = frozenset()

    def on_taken(self, listener: Callable[[Collection[str]], None]) -> None:
        """Nothing is ever taken from another replica."""

    def serve(self, namespaces: Iterable[str]) -> None:
        """Has the engine follow the namespaces."""
        self._served = frozenset(namespaces)
        self._cluster.follow(self._served)

    def wake(self) -> None:
        """Does nothing."""

    def held(self, namespace: str) -> int:
        """Returns the one epoch."""
        return 1

    def synced(self, namespace: str) -> bool:
        """Whether the engine observes the present of the namespace."""
        return self._cluster.synced(namespace)

    @property
    def any_synced(self) -> bool:
        """Whether the engine observes the present of one namespace at least."""
        return self._cluster.any_synced

    @property
    def counts(self) -> Counts:
        """Nothing is ever renewed."""
        return Counts(len(self._served), 1, 0)

    @property
    def understood(self) -> bool:
        """There is no other replica."""
        return True

    async def readable(self, namespace: str) -> bool | None:
        """Asks the engine."""
        return await leases.readable(self._cluster, namespace)

    async def open(self) -> None:
        """Does nothing."""

    async def run(self) -> None:
        """Waits until it is cancelled."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Does nothing."""
