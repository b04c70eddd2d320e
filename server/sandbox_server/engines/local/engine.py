"""The local engine: sandboxes as processes of this machine."""

import asyncio
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from sandbox_server import engines
from sandbox_server.domain.sandbox import Addresses, Fault, Key, Observed, Phase, Reason, Sandbox, Volume, Workload
from sandbox_server.engines.local import isolation, processes, volumes
from sandbox_server.engines.local.ports import Ports
from sandbox_server.engines.local.unit import Unit, Wanted

log = structlog.get_logger()

STARTS = 8
"""Processes started at once: more would only wait for the same cores, and the service with them."""
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
        self._volumes: dict[Key, tuple[str, str] | None] = {}
        self._going: dict[Key, bool] = {}
        self._stuck: dict[Key, str] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._starts = asyncio.Semaphore(STARTS)
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
        self._terminal = self._terminal_command()
        self._config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._config.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OSError(f"data-dir: {self._config.data_dir} is in use by another service") from None
        log.info("isolation", state=isolation.describe(self._config.isolate))
        for sandbox in live:
            self._ports.take(sandbox.addresses.ports)
            self._adopt(sandbox)
        self._background.add(asyncio.create_task(self._look()))
        self._in_sight = True

    def _terminal_command(self) -> tuple[str, ...]:
        if self._config.terminal == "auto":
            found = shutil.which("ttyd")
            return (found, "--port", "{port}", "--interface", "127.0.0.1", "--writable", "sh") if found else ()
        return tuple(self._config.terminal.split())

    def _adopt(self, sandbox: Sandbox) -> None:
        folder = self._folder(sandbox.key)
        self._volumes[sandbox.key] = folder.volume()
        record = volumes.read(folder.record)
        if record is None or record["owner"] != sandbox.uid:
            return
        wanted = Wanted(record["generation"], record["replicas"], sandbox.spec, None)
        unit = self._unit(sandbox, wanted)
        # Start times count from the boot: after another one they say nothing.
        if record["boot"] == processes.BOOT:
            started = volumes.read(folder.started) or {"generation": 0}
            unit.adopt(started["generation"], sandbox.status.phase is Phase.RUNNING)

    def _folder(self, key: Key) -> volumes.Folder:
        return volumes.Folder(self._config.data_dir, key)

    def _unit(self, sandbox: Sandbox, wanted: Wanted) -> Unit:
        key = sandbox.key
        unit = Unit(
            owner=sandbox.uid,
            folder=self._folder(key),
            ports=sandbox.addresses.ports,
            command=self._config.command or _serve_home(sandbox.addresses.ports[0]),
            terminal=self._terminal,
            isolated=self._isolated,
            changed=lambda: self._changed(key),
            starts=self._starts,
            wanted=wanted,
        )
        self._units[key] = unit
        self._tasks[key] = asyncio.create_task(self._run(key, unit))
        return unit

    async def _run(self, key: Key, unit: Unit) -> None:
        try:
            await unit.run()
        except Exception:
            log.exception("local_sandbox_failed", sandbox=key.id, namespace=key.namespace)

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
        try:
            await asyncio.to_thread(self._prepare, folder, sandbox, replicas)
        except OSError as error:
            raise engines.Refused(Fault(Reason.ENGINE_REFUSED, f"{folder.path}: {error.strerror}")) from error
        self._see(key)
        unit = self._units.get(key) or self._unit(sandbox, Wanted(0, 0, sandbox.spec, None))
        unit.want(wanted)
        return self._revision

    def _prepare(self, folder: volumes.Folder, sandbox: Sandbox, replicas: int) -> None:
        """Makes the folder, the first time the volume, and writes down what is wanted."""
        folder.make()
        if replicas and not sandbox.volume_uid:
            folder.make_volume(sandbox.uid)
        wanted = {"owner": sandbox.uid, "generation": sandbox.generation, "replicas": replicas, "boot": processes.BOOT}
        volumes.write(folder.record, wanted)

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
                self._tasks.pop(key).cancel()
                del self._units[key]
            await asyncio.to_thread(self._folder(key).remove, keep_volume)
            self._ports.free(sandbox.addresses.ports)
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


def _serve_home(port: int) -> tuple[str, ...]:
    """The default command. It is the interpreter itself, not that of a virtual environment, which bubblewrap hides."""
    python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    return (python, "-I", "-m", "http.server", "--bind", "127.0.0.1", str(port))
