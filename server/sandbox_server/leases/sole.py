"""The leases of a service that has its database for itself: it holds everything while it runs."""

import asyncio
from collections.abc import Callable, Iterable

from sandbox_server import engines


class Sole:
    """See `leases.Leases`. What it says of a namespace is what its engine says at that moment."""

    def __init__(self, cluster: engines.Cluster) -> None:
        self._cluster = cluster

    def on_taken(self, listener: Callable[[str], None]) -> None:
        """Nothing is ever taken from another replica."""

    def serve(self, namespaces: Iterable[str]) -> None:
        """Has the engine follow the namespaces."""
        self._cluster.follow(namespaces)

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

    async def readable(self, namespace: str) -> bool | None:
        """Asks the engine."""
        if self._cluster.readable(namespace) is None:
            await self._cluster.examine(namespace)
        return self._cluster.readable(namespace)

    async def open(self) -> None:
        """Does nothing."""

    async def run(self) -> None:
        """Waits until it is cancelled."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Does nothing."""
