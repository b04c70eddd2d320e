"""One sandbox on this machine, and the one task that brings its process to what is wanted."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping

import structlog

from sandbox_server.domain.observed import Exit, Pod
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.local import launch, processes, readiness
from sandbox_server.engines.local.folder import Folder
from sandbox_server.engines.local.processes import Process
from sandbox_server.settings import Settings

log = structlog.get_logger()

PAUSE = 1.0
"""Seconds until the task goes on after something unforeseen."""


class Unit:
    """`pod` is the process. `rests`: nothing runs, and nothing will until something else is wanted.

    `changed` is called when either changes. What runs goes on running when `task` is cancelled.
    """

    def __init__(self, settings: Settings, sandbox: Sandbox, changed: Callable[[], None]) -> None:
        self.folder = Folder(settings.data_dir, sandbox.key)
        self.pod: Pod | None = None
        self._settings = settings
        self._pace = settings.pace
        self._changed = changed
        self._poke = asyncio.Event()
        self.want(sandbox, 0)
        self.task = asyncio.create_task(self._run())

    def want(self, sandbox: Sandbox, replicas: int, env: Mapping[str, str] | None = None) -> None:
        """Changes what is wanted; the task sees to it. Without `env`, as after a restart, it starts nothing."""
        self.sandbox, self.replicas, self.env = sandbox, replicas, env
        self.rests = False
        self._poke.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._work()
            except Exception:
                log.exception("local_sandbox_failed", sandbox=self.sandbox.id, namespace=self.sandbox.namespace)
                await asyncio.sleep(PAUSE)

    async def _work(self) -> None:
        files, owner = self.folder.process, self.sandbox.uid
        process = processes.find(files, owner)
        # As it was when last seen; it is asked again at once.
        self._ready = self.sandbox.status.phase is Phase.RUNNING
        while True:
            self._poke.clear()
            generation = self.sandbox.generation if self.replicas else 0
            if process.pid and not process.alive:
                await process.ended()
                await process.drained()
                process = process.after(self._pace.local_steady)
            elif process.generation != generation:
                if process.pid:
                    await self._stop(process)
                process = Process(files, owner, generation)
            elif process.pid:
                await self._attend(process)
            elif generation:
                process = await self._start(process)
            else:
                await self._rest()

    def _show(self, process: Process, reason: Reason, message: str, *, terminating: bool = False) -> None:
        code = process.code
        pod = Pod(
            owner=process.owner,
            generation=process.generation,
            ready=reason is Reason.READY,
            reason=reason,
            message=message,
            terminating=terminating,
            scheduled=True,
            image_pulled=True,
            probed=readiness.asks(self.sandbox, self._settings),
            restart_count=process.restarts,
            last_exit=None if code is None else Exit(code, _word(code), process.words),
        )
        if pod != self.pod:
            self.pod = pod
            self._changed()

    async def _start(self, process: Process) -> Process:
        """Starts the process, later each time that it ended by itself too soon; as it was if it did not come to that."""
        quick = process.quick
        if quick:
            told = f"the process ended with exit code {process.code}; it is being started again"
            self._show(process, Reason.CRASH_LOOP if quick > 1 else Reason.RESTARTING, told)
        if self.env is None:
            await self._poke.wait()
        elif not quick or not await self._poked(self._pause(quick)):
            self._ready = False
            try:
                return process.start(launch.launch(self.sandbox, self.env, self.folder.home, self._settings))
            except OSError as error:
                told = f"the process cannot be started: {error.strerror or error}"
                self._show(process, Reason.CONTAINER_CONFIG, told)
                await self._poked(self._pace.local_restart_most)
        return process

    def _pause(self, quick: int) -> float:
        """Seconds until a process is started again that ended too soon so many times."""
        # A long crash loop must not make a number that is no float any more.
        return min(self._pace.local_restart_most, self._pace.local_restart_first * 2.0 ** min(quick - 1, 16))

    async def _attend(self, process: Process) -> None:
        """Shows whether the process is ready until it ends or something else is wanted."""

        def show(ready: bool) -> None:
            self._ready = ready
            told = (Reason.READY, "the process runs") if ready else (Reason.NOT_READY, "not answering yet")
            self._show(process, *told)

        async def ask() -> None:
            async for ready in readiness.watch(self.sandbox, self._settings, self._ready):
                show(ready)
            await self._poke.wait()

        show(self._ready)
        tasks = [asyncio.ensure_future(one) for one in (process.ended(), self._poke.wait(), ask())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*done)
        finally:
            for one in tasks:
                one.cancel()

    async def _stop(self, process: Process) -> None:
        """Ends the process with all that it started."""
        self._show(process, Reason.NOT_READY, "the process is being ended", terminating=True)
        process.terminate()
        try:
            async with asyncio.timeout(self.sandbox.spec.grace_period_seconds):
                await process.ended()
        except TimeoutError:
            process.kill()
            await process.ended()
        await process.drained()

    async def _rest(self) -> None:
        """Shows that nothing runs, and waits until something else is wanted."""
        if (last := processes.find(self.folder.process, self.sandbox.uid)).pid:
            # By the time that another service looks, its pid may be anybody's. A disk that does not let go of it is in the
            # way of the next start alone.
            with contextlib.suppress(OSError):
                last.forget()
        self.pod, self.rests = None, True
        self._changed()
        await self._poke.wait()

    async def _poked(self, within: float) -> bool:
        """Whether something else is wanted within so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._poke.wait()
        return self._poke.is_set()


def _word(code: int) -> str:
    if code == 0:
        return "Completed"
    return f"Signal {code - 128}" if code - 128 in signal.valid_signals() else "Error"
