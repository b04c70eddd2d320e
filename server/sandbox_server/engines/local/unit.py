"""One sandbox on this machine, and the one task that brings its process and its folder to what is wanted."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sandbox_server import engines
from sandbox_server.domain.observed import Exit, Fault, Pod
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.local import launch, processes, readiness
from sandbox_server.engines.local.folder import Folder
from sandbox_server.engines.local.processes import Attempt, Process
from sandbox_server.settings import Settings

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 30.0
STEADY = 10.0
"""Seconds that a process must run for its earlier ends to be forgotten."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
PROBE_UNTIL_READY, PROBE_AFTER, PROBE_AGAIN = 0.2, 5.0, 1.0
ALIVE = 0.15
"""Seconds that a process must run to be ready where nothing has to answer: one whose command is not there has ended."""
MISSES = 3
"""Probes in a row that a sandbox that was ready must miss to be so no more, as the kubelet's default."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the engine was told last.

    Without an environment, right after a restart of the service, nothing is started. `keep_volume` is None unless the
    sandbox is to go.
    """

    sandbox: Sandbox
    replicas: int
    env: Mapping[str, str] | None = None
    keep_volume: bool | None = None


class Unit:
    """`pod` is the process, and `fault` why the folder cannot be removed; `changed` is called when they change."""

    def __init__(self, settings: Settings, wanted: Wanted, changed: Callable[[], None]) -> None:
        self.wanted = wanted
        self.folder = Folder(settings.data_dir, wanted.sandbox.key)
        self.pod: Pod | None = None
        self.fault: Fault | None = None
        self._settings = settings
        self._changed = changed
        self._poke = asyncio.Event()

    @property
    def going(self) -> bool:
        """Whether it is being removed, and nothing is in the way."""
        return self.wanted.keep_volume is not None and self.fault is None

    def want(self, wanted: Wanted) -> None:
        """Changes what is wanted; the task sees to it."""
        self.wanted = wanted
        self._poke.set()

    async def run(self) -> None:
        """Works until the sandbox has been removed, or this is cancelled: what runs goes on running then."""
        owner = self.wanted.sandbox.uid
        process, attempt = processes.find(self.folder.process, owner), Attempt(owner, 0)
        # As it was when last seen; it is asked again at once.
        ready = self.wanted.sandbox.status.phase is Phase.RUNNING
        while True:
            self._poke.clear()
            wanted = self.wanted
            generation = wanted.sandbox.generation if wanted.replicas else 0
            if process is not None and not process.alive:
                await process.ended()
                attempt = process.after(STEADY)
                process = None
            elif process is not None and process.attempt.generation != generation:
                await self._stop(process)
            elif process is not None:
                ready = await self._attend(process, wanted.sandbox, ready)
            elif attempt.generation != generation:
                attempt = Attempt(owner, generation)
            elif generation:
                process, ready = await self._start(wanted, attempt), False
            elif await self._rest(wanted):
                return

    def _show(self, attempt: Attempt, reason: Reason, message: str, *, terminating: bool = False) -> None:
        code = attempt.code
        self._tell(
            Pod(
                owner=attempt.owner,
                generation=attempt.generation,
                ready=reason is Reason.READY,
                reason=reason,
                message=message,
                terminating=terminating,
                scheduled=True,
                image_pulled=True,
                restart_count=attempt.restarts,
                last_exit=None if code is None else Exit(code, _word(code)),
            )
        )

    def _tell(self, pod: Pod | None, fault: Fault | None = None) -> None:
        if (pod, fault) != (self.pod, self.fault):
            self.pod, self.fault = pod, fault
            self._changed()

    async def _start(self, wanted: Wanted, attempt: Attempt) -> Process | None:
        """Starts the process, later each time that it ended by itself too soon; None if it did not come to that."""
        quick = attempt.quick
        if quick:
            told = f"the process ended with exit code {attempt.code}; it is being started again"
            self._show(attempt, Reason.CRASH_LOOP if quick > 1 else Reason.RESTARTING, told)
        if wanted.env is None:
            await self._poked(None)
        # A long crash loop must not make a number that is no float any more.
        elif not quick or not await self._poked(min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(quick - 1, 16))):
            try:
                started = launch.launch(wanted.sandbox, wanted.env, self.folder.home, self._settings)
                return processes.start(self.folder.process, started, attempt)
            except OSError as error:
                told = f"the process cannot be started: {error.strerror or error}"
                self._show(attempt, Reason.CONTAINER_CONFIG, told)
                await self._poked(BACKOFF_MOST)
        return None

    async def _attend(self, process: Process, sandbox: Sandbox, ready: bool) -> bool:
        """Shows whether the process is ready, and returns that when it ends or something else is wanted."""
        spec, port, missed = launch.expected(sandbox.spec, self._settings), sandbox.addresses.ports[0], 0

        def show() -> None:
            told = (Reason.READY, "the process runs") if ready else (Reason.NOT_READY, "not answering yet")
            self._show(process.attempt, *told)

        async def ask() -> None:
            nonlocal ready, missed
            if not ready and not readiness.needed(spec):
                await asyncio.sleep(ALIVE)
                ready = True
                show()
            while readiness.needed(spec):
                answers = await readiness.answers(spec, port)
                missed = 0 if answers else missed + 1
                ready = answers or (ready and missed < MISSES)
                show()
                await asyncio.sleep(PROBE_UNTIL_READY if not ready else PROBE_AGAIN if missed else PROBE_AFTER)
            await self._poke.wait()

        show()
        tasks = [asyncio.ensure_future(one) for one in (process.ended(), self._poke.wait(), ask())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*done)
        finally:
            for one in tasks:
                one.cancel()
        return ready

    async def _stop(self, process: Process) -> None:
        """Ends the process with all that it started."""
        self._show(process.attempt, Reason.NOT_READY, "the process is being ended", terminating=True)
        process.terminate()
        try:
            async with asyncio.timeout(GRACE):
                await process.ended()
        except TimeoutError:
            process.kill()
            await process.ended()

    async def _rest(self, wanted: Wanted) -> bool:
        """With nothing running: removes the folder if the sandbox is to go, and says so; else waits for another wish."""
        if processes.find(self.folder.process, wanted.sandbox.uid) is not None:
            # By the time that another service looks, its pid may be anybody's.
            processes.forget(self.folder.process)
        self._tell(None, self.fault)
        if wanted.keep_volume is not None:
            try:
                await asyncio.to_thread(self.folder.clear, wanted.sandbox, wanted.keep_volume)
                return True
            except engines.Refused as refused:
                self._tell(None, refused.fault)
        await self._poke.wait()
        return False

    async def _poked(self, within: float | None) -> bool:
        """Whether something else is wanted within so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._poke.wait()
        return self._poke.is_set()


def _word(code: int) -> str:
    return "Completed" if code == 0 else f"Signal {code - 128}" if code > 128 else "Error"
