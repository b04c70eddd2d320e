"""The local engine: sandboxes as processes of this machine."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping

import structlog

from sandbox_server import lock
from sandbox_server.domain.observed import Fault, Observed, Volume, Workload
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.sandbox import Addresses, Key, Sandbox
from sandbox_server.engines.local import launch
from sandbox_server.engines.local.folder import Folder
from sandbox_server.engines.local.ports import Ports
from sandbox_server.engines.local.unit import Unit
from sandbox_server.settings import Settings

log = structlog.get_logger()

APPLIED, UNKNOWN = 1, 0
"""Revisions. A service that has just started does not know what a process's environment is, which is not on disk: it has
to be applied once."""


class LocalEngine:
    """See `engines.Engine`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ports = Ports(settings.port_range)
        self._units: dict[Key, Unit] = {}
        self.any_synced = False

    async def open(self, live: Iterable[Sandbox], changed: Callable[[Key], None]) -> None:
        """Takes over what runs. Raises OSError if another service has the data directory."""
        self._changed = changed
        root = self._settings.data_dir
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = lock.take(root / "lock", "data-dir", root)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
            # What the service was started with is not its sandboxes': they would hold it open long after it.
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), int(name) < 3)
        log.info("isolation", state=launch.describe(self._settings.local_isolation))
        for sandbox in live:
            self._ports.take(sandbox.addresses.ports)
            # One that was deleted gives its ports back when its removal is asked for once more, its folder gone or not.
            if sandbox.desired is DesiredState.DELETED or Folder(root, sandbox.key).path.exists():
                self._want(sandbox, 1 if sandbox.desired is DesiredState.RUNNING else 0)
        self._looking = asyncio.create_task(self._look())
        # Every task takes its first step, and shows what it found.
        await asyncio.sleep(0)
        self.any_synced = True

    def _want(self, sandbox: Sandbox, replicas: int, env: Mapping[str, str] | None = None) -> None:
        """Has a unit, made where there is none, see to what is wanted."""
        key = sandbox.key
        if (unit := self._units.get(key)) is None:
            unit = self._units[key] = Unit(self._settings, sandbox, lambda: self._changed(key))
        unit.want(sandbox, replicas, env)

    async def _look(self) -> None:
        before: dict[Key, bool] = {}
        while True:
            now = {key: unit.folder.stands for key, unit in self._units.items()}
            for key, _ in now.items() - before.items():
                self._changed(key)
            before = now
            await asyncio.sleep(self._settings.pace.local_look_every)

    def follow(self, namespaces: Iterable[str]) -> None:
        """Nothing to do: a namespace is a folder."""

    async def close(self) -> None:
        """Stops observing. What runs goes on running."""
        self.any_synced = False
        tasks = [self._looking, *(unit.task for unit in self._units.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        os.close(self._lock)

    def synced(self, namespace: str) -> bool:
        """All namespaces, or none."""
        return self.any_synced

    def unobservable(self, namespace: str) -> Fault | None:
        """Nothing that would not pass by itself."""
        return None

    async def examine(self, namespace: str) -> None:
        """Nothing: a namespace is only part of a name here."""

    def addresses(self, sandbox: Sandbox) -> Addresses:
        """Loopback URLs, on ports that are the sandbox's until it is deleted."""
        ports = tuple(self._ports.give() for _ in range(2 if launch.terminal(self._settings) else 1))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        return Addresses(dns_name="127.0.0.1", public_url=urls[0], ttyd_url="".join(urls[1:]), ports=ports)

    def observe(self, sandbox: Sandbox) -> Observed:
        """What is there for this sandbox. Whether its disk is there, the disk itself is asked."""
        unit, folder = self._units.get(sandbox.key), Folder(self._settings.data_dir, sandbox.key)
        volume = workload = None
        if folder.stands and (label := folder.label()):
            volume = Volume(
                owner=label["owner"],
                uid=label["uid"],
                name=f"{sandbox.id}/volume",
                size=sandbox.spec.storage.size,
                bound=True,
                terminating=unit is not None and sandbox.desired is DesiredState.DELETED and not sandbox.keep_volume,
            )
        if unit is not None:
            workload = Workload(
                owner=unit.sandbox.uid,
                generation=unit.sandbox.generation,
                replicas=unit.replicas,
                revision=APPLIED if unit.env is not None or not unit.replicas else UNKNOWN,
            )
        return Observed(workload=workload, pod=unit.pod if unit else None, volume=volume)

    async def apply(self, sandbox: Sandbox, env: Mapping[str, str], replicas: int) -> int:
        """Prepares the folder and has the sandbox's task see to the rest."""
        folder = Folder(self._settings.data_dir, sandbox.key)
        self._ports.take(sandbox.addresses.ports)
        await asyncio.to_thread(folder.prepare, sandbox, replicas)
        self._want(sandbox, replicas, dict(env))
        return APPLIED

    async def touch(self, sandbox: Sandbox) -> int:
        """Nothing to do: the sandbox's task waits for nobody."""
        return APPLIED

    async def remove_workload(self, sandbox: Sandbox) -> None:
        """Nothing to do: the sandbox's task acts by itself."""

    async def delete(self, sandbox: Sandbox) -> None:
        """Ends what runs; asked again when nothing does any more, removes the folder."""
        unit = self._units.get(sandbox.key)
        if unit is None or not unit.rests:
            self._want(sandbox, 0)
            return
        await asyncio.to_thread(unit.folder.clear, sandbox)
        unit.task.cancel()
        del self._units[sandbox.key]
        self._ports.free(sandbox.addresses.ports)
