"""One sandbox on this machine: its wanted state, and the one task that brings its process there."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from sandbox_server.domain.sandbox import Exit, Pod, Reason, SandboxSpec
from sandbox_server.engines.local import isolation, processes, programs, readiness, volumes

log = structlog.get_logger()

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 30.0
STEADY = 10.0
"""Seconds that a process must run for its earlier ends to be forgotten."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
PROBE_UNTIL_READY, PROBE_AFTER, PROBE_AGAIN = 0.2, 5.0, 1.0
MISSES = 3
"""Probes in a row that a sandbox that was ready must miss to be so no more, as the kubelet's default."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `apply` asked for last. Without an environment (right after a restart of the service) nothing is started."""

    generation: int
    replicas: int
    spec: SandboxSpec
    env: Mapping[str, str] | None


@dataclass(slots=True)
class Unit:
    """A sandbox's process and terminal. `changed` is called when what `pod` says may have changed.

    A sandbox that was made where there was no terminal program has no port for one.
    """

    owner: str
    folder: volumes.Folder
    ports: tuple[int, ...]
    command: tuple[str, ...]
    terminal: tuple[str, ...]
    isolated: bool
    changed: Callable[[], None]
    wanted: Wanted
    process: processes.Process | None = None
    generation: int = 0
    ready: bool = False
    stopping: bool = False
    restarts: int = 0
    quick: int = 0
    began: float = 0.0
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

    def adopt(self, ready: bool) -> None:
        """Takes over the process that an earlier service started, or its exit code if it ended meanwhile.

        `ready`: whether it was so when last seen; it is asked again at once.
        """
        told = volumes.read(self.folder.started) or {}
        self.generation = told.get("generation", 0)
        self.restarts, self.quick = told.get("restarts", 0), told.get("quick", 0)
        self._shell, _ = self._find("terminal")
        self.process, ended = self._find("main")
        if self.process is not None:
            self.ready, self.began = ready, time.monotonic()
        elif ended is not None and self.wanted.replicas == 1 and self.generation == self.wanted.generation:
            self._count(ended.exit(), ended.ran)

    def _find(self, name: str) -> tuple[processes.Process | None, processes.Process | None]:
        """What was started last under that name: still running, or ended."""
        found = processes.find(self.folder.path / name)
        if found is None or found.alive:
            return found, None
        # What wrapped it may have been killed alone: the rest must not run beside the next one.
        found.kill()
        return None, found

    def pod(self) -> Pod | None:
        """The process as a pod; None where there is none and none is wanted."""
        if self.process is None and self._shell is None and self.wanted.replicas == 0:
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
            fits = wanted.replicas == 1 and self.generation == wanted.generation
            if not fits and (self.process is not None or self._shell is not None):
                await self._stop()
            elif self.process is not None:
                await self._attend(wanted.spec)
            elif wanted.replicas == 1 and wanted.env is not None:
                await self._start(wanted, wanted.env)
            else:
                if wanted.replicas == 0:
                    # By the time that another service looks, these pids may be anybody's.
                    processes.forget(self.folder.path / "main")
                    processes.forget(self.folder.path / "terminal")
                self._idle.set()
                await self._poke.wait()

    async def _start(self, wanted: Wanted, env: Mapping[str, str]) -> None:
        self.generation, self.ready = wanted.generation, False
        started = {"generation": wanted.generation, "restarts": self.restarts, "quick": self.quick}
        command = (*wanted.spec.command, *wanted.spec.args) if wanted.spec.command else self.command
        try:
            await asyncio.to_thread(volumes.write, self.folder.started, started)
            self.process = await self._spawn("main", command, env)
        except OSError as error:
            self.fault = f"the process cannot be started: {error.strerror or error}"
            self.changed()
            await self._pause(BACKOFF_MOST)
            return
        self.fault, self.began, self.ready = "", time.monotonic(), not readiness.needed(wanted.spec)
        self.changed()

    async def _spawn(self, name: str, command: tuple[str, ...], env: Mapping[str, str]) -> processes.Process:
        home = self.folder.home
        hide = self.folder.root if self.isolated else None
        everything = programs.environment(env, isolation.HOME if hide else str(home), self.ports[0])
        return await processes.start(self.folder.path / name, home, command, everything, hide)

    async def _attend(self, spec: SandboxSpec) -> None:
        """Watches the process until it ends or something else is wanted, and asks it whether it is ready."""
        assert self.process is not None  # noqa: S101 - for the type checker
        ended = asyncio.ensure_future(self.process.ended())
        poked = asyncio.ensure_future(self._poke.wait())
        missed = 0
        try:
            while not ended.done() and not poked.done():
                await self._tend_terminal()
                answers = not readiness.needed(spec) or await readiness.answers(spec, self.ports[0])
                missed = 0 if answers else missed + 1
                ready = answers or (self.ready and missed < MISSES)
                if ready != self.ready:
                    self.ready = ready
                    self.changed()
                pause = self._until_next_look(spec, missed)
                await asyncio.wait((ended, poked), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            poked.cancel()
            if not ended.done():
                ended.cancel()
        if ended.done() and not ended.cancelled():
            ended.result()
            await self._ended()

    def _until_next_look(self, spec: SandboxSpec, missed: int) -> float | None:
        """Seconds; None if nothing has to be asked again."""
        if not self.ready:
            return PROBE_UNTIL_READY
        if missed:
            return PROBE_AGAIN
        return PROBE_AFTER if readiness.needed(spec) or self.terminal else None

    async def _ended(self) -> None:
        """The process ended by itself: says so, and waits before it may be started again."""
        assert self.process is not None  # noqa: S101 - for the type checker
        self._count(self.process.exit(), time.monotonic() - self.began)
        self.process, self.ready = None, False
        self.changed()
        # A long crash loop must not make a number that is no float any more.
        await self._pause(min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(self.quick - 1, 16)))

    def _count(self, exit_: Exit, ran: float) -> None:
        self.last_exit = exit_
        self.quick = 1 if ran >= STEADY else self.quick + 1
        self.restarts += 1

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._poke.wait()

    async def _stop(self) -> None:
        """Ends the process and its terminal, with all they started."""
        self.stopping, self.ready = True, False
        self.changed()
        standing = [process for process in (self.process, self._shell) if process is not None]
        for process in standing:
            process.terminate()
        await asyncio.gather(*(self._end(process) for process in standing))
        self.process = self._shell = None
        self.stopping, self.generation, self.quick, self.restarts, self.fault = False, 0, 0, 0, ""
        self.changed()

    async def _end(self, process: processes.Process) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await process.ended()
        process.kill()
        await process.ended()

    async def _tend_terminal(self) -> None:
        """Starts the terminal program beside the process, and again if it ended."""
        if not self.terminal or len(self.ports) < 2 or self.wanted.env is None:
            return
        if self._shell is not None and self._shell.alive:
            return
        if self._shell is not None:
            await self._shell.ended()
        command = tuple(word.replace("{port}", str(self.ports[1])) for word in self.terminal)
        try:
            self._shell = await self._spawn("terminal", command, self.wanted.env)
        except OSError as error:
            log.warning("terminal_not_started", folder=str(self.folder.path), message=str(error))
