"""The local engine: sandboxes as processes of this machine."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog

from sandbox_server import engines, lock
from sandbox_server.domain.logs import Asked, EndReason, Part
from sandbox_server.domain.observed import Fault, Observed, Volume, Workload
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.domain.sandbox import Addresses, Key, Origin, Sandbox
from sandbox_server.domain.snapshot import Scratch, Snapshot, Taken
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.local import connections, launch, log_times, logs, processes
from sandbox_server.engines.local.copies import Copies
from sandbox_server.engines.local.entrance import Entrance
from sandbox_server.engines.local.folder import Folder
from sandbox_server.engines.local.ports import Ports
from sandbox_server.engines.local.processes import Process
from sandbox_server.engines.local.snapshots import Restores, Snapshots
from sandbox_server.engines.local.unit import Unit
from sandbox_server.engines.local.verifying import Verifying
from sandbox_server.settings import Local

log = structlog.get_logger()

APPLIED = 1
UNKNOWN = 0
"""Revisions of a workload. After a restart of the service it is UNKNOWN, so that the sandbox is applied once more: the
environment of a process is not on disk."""


class LocalEngine:
    """See `engines.Engine`."""

    def __init__(self, settings: Local, data_dir: Path, pace: Pace) -> None:
        """`data_dir`: where sandboxes have their folders."""
        self._settings = settings
        self._data_dir = data_dir
        self._pace = pace
        self._ports = Ports(settings.port_range, pace.local_port_promised)
        self._units: dict[Key, Unit] = {}
        self._entrance = Entrance(pace.local_turn)
        self._marks = log_times.Marks()
        self._copies = Copies()
        self._snapshots = Snapshots(data_dir, self._copies)
        self._verifying = Verifying(data_dir)
        self.any_synced = False

    async def open(self, live: Iterable[Sandbox], changed: Callable[[Key], None], held: Callable[[str], int]) -> None:
        """Adopts the processes that run. Raises OSError if another service has locked the data directory."""
        self._changed = changed
        self._held = held
        root = self._data_dir
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = lock.take(root / "lock", "data-dir", root)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
            # Sandboxes outlive the service and must not keep open what the service was started with.
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), int(name) < 3)
        self._verifying.open()
        self._restores = Restores(root, self._copies, changed)
        log.info("isolation", state=launch.describe(self._settings.local_isolation))
        for sandbox in live:
            self._ports.reserve(sandbox.addresses.ports)
            # A deleted sandbox needs a unit even without a folder, since `delete` releases its ports.
            folder = Folder(root, sandbox.key)
            if sandbox.desired is DesiredState.DELETED or (folder.path.exists() and not folder.awaits_copy(sandbox)):
                self._update(sandbox, 1 if sandbox.desired is DesiredState.RUNNING else 0)
        self._volume_watch = asyncio.create_task(self._look())
        # Lets every task take its first step, so that `observe` shows the processes that run.
        await asyncio.sleep(0)
        self.any_synced = True

    def _update(self, sandbox: Sandbox, replicas: int, env: Mapping[str, str] | None = None) -> None:
        """Updates the unit of a sandbox, and creates it first if there is none."""
        key = sandbox.key
        unit = self._units.get(key)
        if unit is None:
            unit = Unit(self._settings, self._data_dir, self._pace, sandbox, lambda: self._changed(key))
            self._units[key] = unit
        unit.update(sandbox, replicas, env)

    async def _look(self) -> None:
        before: dict[Key, bool] = {}
        while True:
            now = {key: unit.folder.has_volume for key, unit in self._units.items()}
            for key, _ in now.items() - before.items():
                self._changed(key)
            before = now
            for unit in self._units.values():
                # Without a process nothing is printed, and the folder may be being removed, or be that of another sandbox.
                if unit.pod is not None:
                    self._marks.look(unit.folder.log, time.time())
            await asyncio.sleep(self._pace.local_look_every)

    def follow(self, namespaces: Iterable[str]) -> None:
        """Does nothing: a namespace is a folder."""

    async def close(self) -> None:
        """Stops observing. Processes go on running."""
        self.any_synced = False
        tasks = [self._volume_watch, *(unit.task for unit in self._units.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._copies.close()
        await self._verifying.close()
        await self._entrance.close()
        os.close(self._lock)

    async def reachable(self) -> bool:
        """Returns True: it observes this machine."""
        return True

    def synced(self, namespace: str) -> bool:
        """Whether the engine is open: all namespaces are synced, or none."""
        return self.any_synced

    def unobservable(self, namespace: str) -> Fault | None:
        """Returns None: an engine that is open can observe every namespace."""
        return None

    async def examine(self, namespace: str) -> None:
        """Does nothing: a namespace is only a part of names here."""

    def readable(self, namespace: str) -> bool | None:
        """Returns True: a namespace is only a part of names here."""
        return True

    def addresses(self, sandbox: Sandbox) -> Addresses:
        """Returns loopback URLs with ports that belong to the sandbox until it is deleted.

        Raises `errors.Unavailable` if no port is free.
        """
        count = 2 if launch.terminal(self._settings) else 1
        ports = tuple(self._ports.allot() for _ in range(count))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        return Addresses(dns_name="127.0.0.1", public_url=urls[0], ttyd_url="".join(urls[1:]), ports=ports)

    def observe(self, sandbox: Sandbox) -> Observed:
        """Returns what there is of this sandbox. Looks for the volume on the disk each time."""
        unit = self._units.get(sandbox.key)
        folder = Folder(self._data_dir, sandbox.key)
        label = folder.label() if folder.has_volume else {}
        volume = workload = None
        if label or self._restores.under_way(sandbox):
            ends = sandbox.desired is DesiredState.DELETED and sandbox.last_snapshot is None
            volume = Volume(
                owner=label.get("owner", sandbox.uid),
                uid=label.get("uid", ""),
                name=f"{sandbox.id}/volume",
                size=sandbox.spec.storage.size,
                bound=bool(label),
                terminating=unit is not None and ends and not sandbox.keep_volume,
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
        """Prepares the folder; the task of the unit then starts or ends the process.

        A disk that is made from another takes long. Until it is there this begins or goes on with it, and starts nothing.
        """
        Fence(self._held, sandbox.namespace).check()
        folder = Folder(self._data_dir, sandbox.key)
        self._ports.reserve(sandbox.addresses.ports)
        if replicas and self._restores.under_way(sandbox):
            self._restores.begin(sandbox)
            return APPLIED
        if not await asyncio.to_thread(folder.prepare, sandbox, replicas):
            self._restores.begin(sandbox)
            return APPLIED
        self._update(sandbox, replicas, dict(env))
        return APPLIED

    async def growth_obstacle(self, sandbox: Sandbox) -> str:
        """Returns nothing: a folder may use all of its disk, and has whatever size is asked for."""
        return ""

    async def restore_obstacle(self, origin: Origin, storage_class: str) -> str:
        """Returns nothing: a disk is a copy, and has no class."""
        return ""

    async def resizes_in_place(self, namespace: str) -> bool:
        """Returns True: a process has whatever CPU and memory is asked for."""
        return True

    async def touch(self, sandbox: Sandbox) -> int:
        """Changes nothing: the task of the unit acts by itself."""
        Fence(self._held, sandbox.namespace).check()
        return APPLIED

    async def remove_workload(self, sandbox: Sandbox) -> None:
        """Changes nothing: the task of the unit acts by itself."""
        Fence(self._held, sandbox.namespace).check()

    async def remove_superseded(self, sandbox: Sandbox) -> None:
        """Does nothing: a generation leaves nothing."""

    async def delete(self, sandbox: Sandbox) -> None:
        """Ends the process. Called again when nothing runs, it removes the folder and releases the ports."""
        Fence(self._held, sandbox.namespace).check()
        await self._restores.forget(sandbox)
        unit = self._units.get(sandbox.key)
        if unit is None or not unit.idle:
            self._update(sandbox, 0)
            return
        await asyncio.to_thread(unit.folder.clear, sandbox)
        unit.task.cancel()
        del self._units[sandbox.key]
        self._marks.forget(unit.folder.log)
        self._ports.release(sandbox.addresses.ports)

    async def snapshots_missing(self, namespace: str) -> str:
        """Returns nothing: every disk can be copied."""
        return ""

    async def take(self, snapshot: Snapshot, sandbox: Sandbox) -> None:
        """Begins to copy the disk."""
        Fence(self._held, snapshot.namespace).check()
        self._snapshots.take(snapshot, sandbox.key)

    async def taken(self, snapshot: Snapshot) -> Taken:
        """Looks at the copy."""
        return self._snapshots.taken(snapshot)

    async def discard(self, snapshot: Snapshot) -> None:
        """Removes the copy. Returns when it is gone."""
        Fence(self._held, snapshot.namespace).check()
        await self._snapshots.discard(snapshot)

    async def verify(self, snapshot: Snapshot) -> None:
        """Begins to restore the copy into a scratch, and to count what is in that."""
        Fence(self._held, snapshot.namespace).check()
        self._verifying.begin(snapshot)

    async def scratch(self, snapshot: Snapshot) -> Scratch:
        """Looks at the scratch."""
        return self._verifying.scratch(snapshot)

    async def clear(self, snapshot: Snapshot) -> None:
        """Removes the scratch. Returns when it is gone."""
        Fence(self._held, snapshot.namespace).check()
        await self._verifying.clear(snapshot)

    def leftovers(self, key: Key, living: Sandbox | None) -> set[str]:
        """Returns nothing: no write of this machine arrives late."""
        return set()

    async def remove_leftovers(self, former: Sandbox) -> None:
        """Does nothing: there are none."""

    async def granted(self, namespace: str) -> bool | None:
        """Returns True: the processes are its own."""
        return True

    async def incarnation(self, sandbox: Sandbox) -> str:
        """Returns which start of the process runs."""
        process = self._process(sandbox)
        return process.incarnation if process.alive else ""

    async def ended_by(self, sandbox: Sandbox, incarnation: str) -> Reason | None:
        """Returns None: the local engine limits no memory, and has one node."""
        return None

    def enter(
        self, sandbox: Sandbox, incarnation: str, program: Sequence[str]
    ) -> AbstractAsyncContextManager[engines.Entered]:
        """Runs a program beside the process of the sandbox, in bubblewrap if that is."""
        return self._entrance.enter(self._process(sandbox), incarnation, program)

    def logs(self, sandbox: Sandbox, asked: Asked) -> AsyncGenerator[Part, None]:
        """Reads the log of the last process, or of the one before."""
        process = self._process(sandbox)

        def reason() -> EndReason:
            unit = self._units.get(sandbox.key)
            replaced = unit is not None and process.generation not in (0, unit.sandbox.pod_generation)
            return EndReason.POD_REPLACED if replaced else EndReason.PROCESS_ENDED

        return logs.read(process.log, asked, self._pace, lambda: self._process(sandbox).prints, reason)

    def connect(self, sandbox: Sandbox, incarnation: str, port: int) -> AbstractAsyncContextManager[engines.Connection]:
        """Connects to a loopback port that is the sandbox's."""

        def runs() -> bool:
            process = self._process(sandbox)
            return process.alive and process.incarnation == incarnation

        return connections.connect(sandbox, runs, port)

    def _process(self, sandbox: Sandbox) -> Process:
        return processes.find(Folder(self._data_dir, sandbox.key).process, sandbox.uid)
