"""The local engine: sandboxes as processes of this machine."""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from sandbox_server import engines
from sandbox_server.domain.sandbox import (
    Addresses,
    DesiredState,
    Fault,
    Key,
    Observed,
    Phase,
    Reason,
    Sandbox,
    Volume,
    Workload,
)
from sandbox_server.engines.local import folders, isolation, processes, programs, volumes
from sandbox_server.engines.local.ports import Ports
from sandbox_server.engines.local.unit import Unit, Wanted

log = structlog.get_logger()

PAUSE = 1.0
"""Seconds until a sandbox's task goes on after something unforeseen."""

LOOK_EVERY = 0.5
"""Seconds between two looks at whether the volumes are still there: nothing tells of a directory's removal."""


@dataclass(frozen=True, slots=True)
class Config:
    """`command` runs in a sandbox that names none (empty: serve its home over HTTP); `terminal` is a command line with
    `{port}` in it, `auto` for ttyd if it is on the PATH, or empty for none.
    """

    data_dir: Path
    command: tuple[str, ...] = ()
    terminal: str = "auto"
    ports: range = range(20000, 30000)
    isolate: bool = True


class LocalEngine:
    """See `engines.Engine`."""

    name = "local"

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ports = Ports(config.ports)
        self._units: dict[Key, Unit] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._volumes: dict[Key, tuple[str, str]] = {}
        self._going: dict[Key, bool] = {}
        self._stuck: dict[Key, str] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._in_sight = False
        self._lock = -1
        # Each service that opens the directory counts as a change, so that every sandbox is applied once and its
        # environment, which is not on disk, is known again.
        self._revision = time.time_ns()

    @property
    def in_sight(self) -> bool:
        """Whether the engine is open."""
        return self._in_sight

    async def open(self, live: Iterable[Sandbox], changed: Callable[[Key], None]) -> None:
        """Takes over what runs. Raises OSError if another service has the data directory."""
        self._changed = changed
        self._isolated = self._config.isolate and bool(isolation.program())
        self._terminal = programs.terminal(self._config.terminal)
        self._config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._config.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OSError(f"data-dir: {self._config.data_dir} is in use by another service") from None
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
            # What the service was started with is not its sandboxes': they would hold it open long after it.
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), int(name) < 3)
        log.info("isolation", state=isolation.describe(self._config.isolate))
        for sandbox in live:
            self._ports.take(sandbox.addresses.ports)
            self._adopt(sandbox)
        self._background.add(asyncio.create_task(self._look()))
        self._in_sight = True

    def _adopt(self, sandbox: Sandbox) -> None:
        folder = self._folder(sandbox.key)
        if (volume := folder.volume()) is not None:
            self._volumes[sandbox.key] = volume
        record = volumes.read(folder.record)
        if record is None and sandbox.desired is DesiredState.DELETED and folder.path.exists():
            # A removal was cut off at its last step.
            self._unit(sandbox, Wanted(0, 0, sandbox.spec, None))
        if record is None or record["owner"] != sandbox.uid:
            return
        unit = self._unit(sandbox, Wanted(record["generation"], record["replicas"], sandbox.spec, None))
        # Start times count from the boot: after another one they say nothing.
        if record["boot"] == processes.BOOT:
            unit.adopt(sandbox.status.phase is Phase.RUNNING)

    def _folder(self, key: Key) -> volumes.Folder:
        return volumes.Folder(self._config.data_dir, key)

    def _unit(self, sandbox: Sandbox, wanted: Wanted) -> Unit:
        key = sandbox.key
        unit = Unit(
            owner=sandbox.uid,
            folder=self._folder(key),
            ports=sandbox.addresses.ports,
            command=self._config.command or programs.serve_home(sandbox.addresses.ports[0]),
            terminal=self._terminal,
            isolated=self._isolated,
            changed=lambda: self._changed(key),
            wanted=wanted,
        )
        self._units[key] = unit
        self._tasks[key] = asyncio.create_task(self._run(key, unit))
        return unit

    async def _run(self, key: Key, unit: Unit) -> None:
        while True:
            try:
                await unit.run()
            except Exception:
                log.exception("local_sandbox_failed", sandbox=key.id, namespace=key.namespace)
                await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        """Stops observing. What runs goes on running."""
        self._in_sight = False
        tasks = [*self._tasks.values(), *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._lock >= 0:
            os.close(self._lock)

    def addresses(self, sandbox: Sandbox) -> Addresses:
        """Loopback URLs, on ports that are the sandbox's until it is deleted."""
        ports = tuple(self._ports.give() for _ in range(2 if self._terminal else 1))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        terminal = urls[1] if self._terminal else ""
        return Addresses(dns_name="127.0.0.1", public_url=urls[0], ttyd_url=terminal, ports=ports)

    def observe(self, sandbox: Sandbox) -> Observed:
        """What is there for this sandbox."""
        unit, found = self._units.get(sandbox.key), self._volumes.get(sandbox.key)
        if found is None and unit is None:
            # Nobody has looked yet: a former sandbox may have left its volume.
            found = self._folder(sandbox.key).volume()
        volume = None
        if found is not None:
            owner, uid = found
            volume = Volume(
                owner=owner,
                uid=uid,
                name=f"{sandbox.id}/volume",
                size=sandbox.spec.storage.size,
                bound=True,
                terminating=not self._going.get(sandbox.key, True),
            )
        if unit is None:
            return Observed(volume=volume)
        workload = Workload(
            owner=unit.owner,
            generation=unit.wanted.generation,
            replicas=unit.wanted.replicas,
            revision=self._revision,
            terminating=sandbox.key in self._going,
        )
        return Observed(workload=workload, pod=unit.pod(), volume=volume)

    async def apply(self, sandbox: Sandbox, env: Mapping[str, str], replicas: int) -> int:
        """Writes down what is wanted and has the sandbox's task see to it."""
        key = sandbox.key
        if key in self._going:
            raise engines.Unreachable("the former sandbox of this id is still being removed")
        wanted = Wanted(sandbox.generation, replicas, sandbox.spec, dict(env))
        folder = self._folder(key)
        self._ports.take(sandbox.addresses.ports)
        try:
            await asyncio.to_thread(folders.prepare, folder, sandbox, replicas)
        except OSError as error:
            told = f"{error.filename or folder.path}: {error.strerror}"
            raise engines.Refused(Fault(Reason.ENGINE_REFUSED, told)) from error
        finally:
            self._see(key)
        unit = self._units.get(key) or self._unit(sandbox, Wanted(0, 0, sandbox.spec, None))
        unit.want(wanted)
        return self._revision

    async def delete(self, sandbox: Sandbox, keep_volume: bool) -> None:
        """Begins the removal; processes end first."""
        key = sandbox.key
        if key in self._stuck:
            raise engines.Refused(Fault(Reason.ENGINE_REFUSED, self._stuck.pop(key)))
        if key not in self._going:
            self._going[key] = keep_volume
            task = asyncio.create_task(self._remove(sandbox, keep_volume))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _remove(self, sandbox: Sandbox, keep_volume: bool) -> None:
        key, unit = sandbox.key, self._units.get(sandbox.key)
        try:
            if unit is not None:
                unit.want(Wanted(sandbox.generation, 0, sandbox.spec, None))
                await unit.idle()
            await asyncio.to_thread(folders.clear, self._folder(key), sandbox, keep_volume)
            self._ports.free(sandbox.addresses.ports)
            if unit is not None:
                # Not before: while anything is left, the sandbox is not gone.
                self._tasks.pop(key).cancel()
                del self._units[key]
        except OSError as error:
            self._stuck[key] = f"the folder cannot be removed: {error}"
        finally:
            self._going.pop(key, None)
            self._see(key)
            self._changed(key)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for key in list(self._units):
                self._see(key)

    def _see(self, key: Key) -> None:
        """Looks whether the volume is there, and tells if that changed."""
        before, now = self._volumes.get(key), self._folder(key).volume()
        if now is None:
            self._volumes.pop(key, None)
        else:
            self._volumes[key] = now
        if now != before:
            self._changed(key)
