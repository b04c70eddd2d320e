"""One sandbox on this machine: its wanted state, and the one task that brings its process there."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from sandbox_server.domain.sandbox import Exit, Pod, Reason, SandboxSpec
from sandbox_server.engines.local import isolation, processes, readiness, volumes

log = structlog.get_logger()

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 30.0
STEADY = 10.0
"""Seconds that a process must run for its earlier ends to be forgotten."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
PROBE_UNTIL_READY, PROBE_AFTER = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `apply` asked for last. Without an environment (right after a restart of the service) nothing is started."""

    generation: int
    replicas: int
    spec: SandboxSpec
    env: Mapping[str, str] | None


@dataclass(slots=True)
class Unit:
    """A sandbox's process and terminal.

    `changed` is called when what `pod` says may have changed; `starts` bounds the starts of all units at once.
    """

    owner: str
    folder: volumes.Folder
    ports: tuple[int, ...]
    command: tuple[str, ...]
    terminal: tuple[str, ...]
    isolated: bool
    changed: Callable[[], None]
    starts: asyncio.Semaphore
    wanted: Wanted
    process: processes.Process | None = None
    generation: int = 0
    ready: bool = False
    stopping: bool = False
    restarts: int = 0
    quick: int = 0
    last_exit: Exit | None = None
    fault: str = ""
    _poke: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _shell: processes.Process | None = None

    def want(self, wanted: Wanted) -> None:
        """Changes what is wanted; the task sees to it."""
        if wanted.generation != self.wanted.generation:
            self.quick, self.restarts, self.last_exit, self.fault = 0, 0, None, ""
        self.wanted = wanted
        self._poke.set()

    def adopt(self, generation: int, ready: bool) -> None:
        """Takes over the process that an earlier service started, or its exit code if it ended meanwhile.

        `ready`: whether it was so when last seen; it is asked again at once.
        """
        found = processes.find(self.folder.path / "main")
        self._shell = processes.find(self.folder.path / "terminal")
        if found is not None and found.alive:
            self.process, self.generation, self.ready = found, generation, ready
        elif found is not None and self.wanted.replicas == 1:
            self.last_exit, self.restarts, self.quick = found.exit(), 1, 1

    def pod(self) -> Pod | None:
        """The process as a pod; None where there is none and none is wanted."""
        if self.process is None and (self.stopping or self.wanted.replicas == 0):
            return None
        reason, message = self._reason()
        return Pod(
            owner=self.owner,
            generation=self.generation or self.wanted.generation,
            ready=reason is Reason.READY,
            reason=reason,
            message=message,
            terminating=self.stopping,
            scheduled=True,
            image_pulled=True,
            restart_count=self.restarts,
            last_exit=self.last_exit,
        )

    def _reason(self) -> tuple[Reason, str]:
        if self.fault:
            return Reason.CONTAINER_CONFIG, self.fault
        if self.process is not None:
            return (Reason.READY, "the process runs") if self.ready else (Reason.NOT_READY, "not answering yet")
        if self.quick and self.last_exit:
            told = f"the process ended with exit code {self.last_exit.code}; it is being started again"
            return (Reason.CRASH_LOOP if self.quick > 1 else Reason.RESTARTING), told
        return Reason.CONTAINER_CREATING, "the process is being started"

    async def idle(self) -> None:
        """Returns when there is no process; something else than one must be wanted."""
        self._idle.clear()
        self._poke.set()
        await self._idle.wait()

    async def run(self) -> None:
        """Works until it is cancelled; what runs goes on running."""
        while True:
            self._poke.clear()
            wanted = self.wanted
            fits = self.process is not None and wanted.replicas == 1 and self.generation == wanted.generation
            if self.process is not None and not fits:
                await self._stop()
            elif self.process is not None:
                await self._attend(wanted.spec)
            elif wanted.replicas == 1 and wanted.env is not None:
                await self._start(wanted, wanted.env)
            else:
                self._idle.set()
                await self._poke.wait()

    async def _start(self, wanted: Wanted, env: Mapping[str, str]) -> None:
        self.generation, self.ready = wanted.generation, False
        await asyncio.to_thread(volumes.write, self.folder.started, {"generation": wanted.generation})
        environment = self._environment(env)
        command = (*wanted.spec.command, *wanted.spec.args) if wanted.spec.command else self.command
        try:
            self.process = await self._spawn("main", command, environment)
            self.fault = ""
        except OSError as error:
            self.fault, self.process = f"the process cannot be started: {error.strerror or error}", None
            self.changed()
            await self._pause(BACKOFF_MOST)
            return
        self.ready = not readiness.needed(wanted.spec)
        self.changed()

    async def _spawn(self, name: str, command: tuple[str, ...], env: Mapping[str, str]) -> processes.Process:
        async with self.starts:
            return await processes.start(self.folder.path / name, self.folder.home, command, env, self.isolated)

    def _environment(self, env: Mapping[str, str]) -> dict[str, str]:
        home = isolation.HOME if self.isolated else str(self.folder.home)
        usual = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "USER": "agent", "TERM": "xterm"}
        return usual | dict(env) | {"HOME": home, "PORT": str(self.ports[0])}

    async def _attend(self, spec: SandboxSpec) -> None:
        """Watches the process until it ends or something else is wanted, and asks it whether it is ready."""
        assert self.process is not None  # noqa: S101 - for the type checker
        began = time.monotonic()
        ended = asyncio.ensure_future(self.process.ended())
        poked = asyncio.ensure_future(self._poke.wait())
        try:
            while not ended.done() and not poked.done():
                await self._tend_terminal()
                ready = not readiness.needed(spec) or await readiness.answers(spec, self.ports[0])
                if ready != self.ready:
                    self.ready = ready
                    self.changed()
                pause = (PROBE_AFTER if ready else PROBE_UNTIL_READY) if readiness.needed(spec) else None
                await asyncio.wait((ended, poked), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            poked.cancel()
            if not ended.done():
                ended.cancel()
        if ended.done() and not ended.cancelled():
            await self._ended(time.monotonic() - began)

    async def _ended(self, ran: float) -> None:
        """The process ended by itself: says so, and waits before it may be started again."""
        assert self.process is not None  # noqa: S101 - for the type checker
        self.last_exit, self.process, self.ready = self.process.exit(), None, False
        self.quick = 1 if ran >= STEADY else self.quick + 1
        self.restarts += 1
        self.changed()
        await self._pause(min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** (self.quick - 1)))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._poke.wait()

    async def _stop(self) -> None:
        """Ends the process and its terminal, with all they started."""
        self.stopping, self.ready = True, False
        self.changed()
        for process in (self.process, self._shell):
            if process is not None:
                process.terminate()
        for process in (self.process, self._shell):
            if process is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GRACE):
                        await process.ended()
                process.kill()
                await process.ended()
        self.process = self._shell = None
        self.stopping, self.generation, self.quick, self.restarts, self.fault = False, 0, 0, 0, ""
        self.changed()

    async def _tend_terminal(self) -> None:
        """Starts the terminal program beside the process, and again if it ended."""
        if self.terminal and self.wanted.env is not None and (self._shell is None or not self._shell.alive):
            command = tuple(word.replace("{port}", str(self.ports[1])) for word in self.terminal)
            try:
                self._shell = await self._spawn("terminal", command, self._environment(self.wanted.env))
            except OSError as error:
                log.warning("terminal_not_started", folder=str(self.folder.path), message=str(error))
