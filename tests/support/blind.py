"""An engine that is passed to `app.service` where no sandbox has to run."""

from collections.abc import Callable, Iterable, Mapping

from sandbox_server.domain.observed import Fault, Observed
from sandbox_server.domain.sandbox import Addresses, Key, Origin, Sandbox
from sandbox_server.domain.snapshot import Scratch, Snapshot, Taken


class BlindEngine:
    """Is synced with no namespace, so that nothing is reconciled and each sandbox stays as the store has it."""

    any_synced = False

    async def open(self, live: Iterable[Sandbox], changed: Callable[[Key], None], held: Callable[[str], int]) -> None:
        """Has nothing to observe."""

    def follow(self, namespaces: Iterable[str]) -> None:
        """Has nothing to observe."""

    async def close(self) -> None:
        """Has nothing to close."""

    async def reachable(self) -> bool:
        return True

    def synced(self, namespace: str) -> bool:
        return False

    def unobservable(self, namespace: str) -> Fault | None:
        return None

    async def examine(self, namespace: str) -> None:
        """Finds nothing."""

    def readable(self, namespace: str) -> bool | None:
        return True

    async def growth_obstacle(self, sandbox: Sandbox) -> str:
        return ""

    async def restore_obstacle(self, origin: Origin, storage_class: str) -> str:
        return ""

    async def resizes_in_place(self, namespace: str) -> bool:
        return False

    async def granted(self, namespace: str) -> bool | None:
        return True

    def addresses(self, sandbox: Sandbox) -> Addresses:
        return Addresses()

    def observe(self, sandbox: Sandbox) -> Observed:
        return Observed()

    async def apply(self, sandbox: Sandbox, env: Mapping[str, str], replicas: int) -> int:
        raise NotImplementedError

    async def touch(self, sandbox: Sandbox) -> int:
        raise NotImplementedError

    async def remove_workload(self, sandbox: Sandbox) -> None:
        raise NotImplementedError

    async def remove_superseded(self, sandbox: Sandbox) -> None:
        """Has made nothing."""

    async def delete(self, sandbox: Sandbox) -> None:
        raise NotImplementedError

    def leftovers(self, key: Key, living: Sandbox | None) -> set[str]:
        return set()

    async def remove_leftovers(self, former: Sandbox) -> None:
        raise NotImplementedError

    async def snapshots_missing(self, namespace: str) -> str:
        return ""

    async def take(self, snapshot: Snapshot, sandbox: Sandbox) -> None:
        raise NotImplementedError

    async def taken(self, snapshot: Snapshot) -> Taken:
        raise NotImplementedError

    async def discard(self, snapshot: Snapshot) -> None:
        raise NotImplementedError

    async def verify(self, snapshot: Snapshot) -> None:
        raise NotImplementedError

    async def scratch(self, snapshot: Snapshot) -> Scratch:
        raise NotImplementedError

    async def clear(self, snapshot: Snapshot) -> None:
        raise NotImplementedError
