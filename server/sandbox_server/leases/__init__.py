"""Which namespaces this replica holds. Only their holder observes and reconciles them; every replica answers calls for all."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from sandbox_server import engines


@dataclass(frozen=True, slots=True)
class Counts:
    """For the metrics: namespaces that this replica holds, live replicas, and attempts to renew the leases that failed."""

    held: int
    replicas: int
    failures: int


async def readable(cluster: engines.Cluster, namespace: str) -> bool | None:
    """Whether the service may get a namespace that its engine follows; the engine looks if it has not yet."""
    if cluster.readable(namespace) is None:
        await cluster.examine(namespace)
    return cluster.readable(namespace)


class Leases(Protocol):
    """All methods belong to the event loop."""

    def on_taken(self, listener: Callable[[Collection[str]], None]) -> None:
        """Calls `listener` with namespaces that this replica has taken, once its feed has read all that the former holders
        wrote."""

    def serve(self, namespaces: Iterable[str]) -> None:
        """Sets the namespaces of the tenants."""

    def wake(self) -> None:
        """Looks at the leases soon: another replica says that they have changed."""

    def held(self, namespace: str) -> int:
        """Returns the epoch under which this replica holds a namespace now; 0 if it does not hold it."""

    def synced(self, namespace: str) -> bool:
        """Whether the holder of a namespace observes the present: the same on every replica."""

    @property
    def any_synced(self) -> bool:
        """Whether the holder of one namespace at least observes the present."""

    @property
    def counts(self) -> Counts:
        """What the metrics show."""

    @property
    def understood(self) -> bool:
        """Whether every live replica understands the documents that this one writes, so that any may hold what is in them."""

    async def readable(self, namespace: str) -> bool | None:
        """Whether the service may get a namespace itself; None if that is not known now."""

    async def open(self) -> None:
        """Joins the other replicas. Raises OSError if this replica must not run beside them."""

    async def run(self) -> None:
        """Takes and keeps this replica's share. Runs until it is cancelled.

        Raises OSError as `open`, if others have come while this process was stopped, and if the database has lost events.
        """

    async def close(self) -> None:
        """Gives up everything, so that other replicas take it at once."""
