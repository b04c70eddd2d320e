"""A sandbox on this machine, and the task that starts and ends its process."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from sandbox_server.domain.observed import Exit, Pod
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.local import launch, processes, readiness
from sandbox_server.engines.local.folder import Folder
from sandbox_server.engines.local.processes import Process
from sandbox_server.settings import Local

log = structlog.get_logger()


class Unit:
    """Runs the process of a sandbox.

    `pod` is the process, None if there is none. `idle` is whether nothing runs and nothing will until the next `update`.
    `changed` is called when either changes. The process goes on running when `task` is cancelled.
    """

    def __init__(
        self, settings: Local, data_dir: Path, pace: Pace, sandbox: Sandbox, changed: Callable[[], None]
    ) -> None:
        self.folder = Folder(data_dir, sandbox.key)
        self.pod: Pod | None = None
        self._settings = settings
        self._data_dir = data_dir
        self._pace = pace
        self._changed = changed
        self._updated = asyncio.Event()
        self.update(sandbox, 0)
        self.task = asyncio.create_task(self._run())

    def update(self, sandbox: Sandbox, replicas: int, env: Mapping[str, str] | None = None) -> None:
        """Sets what should run; the task starts and ends processes accordingly.

        Without `env`, which is not known after a restart of the service, no process is started.
        """
        self.sandbox = sandbox
        self.replicas = replicas
        self.env = env
        self.idle = False
        self._updated.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._work()
            except Exception:
                log.exception("local_sandbox_failed", sandbox=self.sandbox.id, namespace=self.sandbox.namespace)
                await asyncio.sleep(self._pace.local_after_error)

    async def _work(self) -> None:
        """Takes one step after another from the process that there is to the one that should run."""
        files = self.folder.process
        owner = self.sandbox.uid
        process = processes.find(files, owner)
        # Until the first probe, which follows at once.
        self._ready = process.ready
        while True:
            self._updated.clear()
            generation = self.sandbox.pod_generation if self.replicas else 0
            started = process.pid != 0
            if started and not process.alive:
                await process.ended()
                await process.drained(self._pace.local_drained_within)
                process = process.after(self._pace.local_steady)
            elif process.generation != generation:
                if started:
                    await self._stop(process)
                process = Process(files, owner, generation)
            elif started:
                await self._attend(process)
            elif generation != 0:
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
            probed=readiness.has_probe(self.sandbox, self._settings),
            restart_count=process.restarts,
            last_exit=None if code is None else Exit(code, _exit_reason(code), process.words),
        )
        if pod != self.pod:
            self.pod = pod
            self._changed()

    async def _start(self, process: Process) -> Process:
        """Starts the process, after a delay if earlier ones ended too soon, and returns it as started.

        Returns it unchanged if it was not started: there was an update, or it could not be started.
        """
        if process.quick > 0:
            reason = Reason.CRASH_LOOP if process.quick > 1 else Reason.RESTARTING
            self._show(process, reason, f"the process ended with exit code {process.code}; it is being started again")
        if self.env is None:
            await self._updated.wait()
            return process
        if process.quick > 0 and await self._updated_within(self._delay(process.quick)):
            return process
        self._ready = False
        try:
            return process.start(
                launch.launch(self.sandbox, self.env, self.folder.home, self._settings, hide=self._data_dir)
            )
        except OSError as error:
            message = f"the process cannot be started: {error.strerror or error}"
            self._show(process, Reason.CONTAINER_CONFIG, message)
            await self._updated_within(self._pace.local_restart_most)
            return process

    def _delay(self, quick: int) -> float:
        """Returns the seconds until the next start, after `quick` processes in a row that ended too soon."""
        # The exponent is bounded: after a long crash loop the power would be too large for a float.
        return min(self._pace.local_restart_most, self._pace.local_restart_first * 2.0 ** min(quick - 1, 16))

    async def _attend(self, process: Process) -> None:
        """Shows whether the process is ready, until it ends or there is an update."""

        def show(ready: bool) -> None:
            if ready is not self._ready:
                process.note(ready)
            self._ready = ready
            if ready:
                self._show(process, Reason.READY, "the process runs")
            else:
                self._show(process, Reason.NOT_READY, "not answering yet")

        async def probe() -> None:
            async for ready in readiness.watch(self.sandbox, self._settings, self._pace, self._ready):
                show(ready)
            await self._updated.wait()

        show(self._ready)
        tasks = [asyncio.ensure_future(one) for one in (process.ended(), self._updated.wait(), probe())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*done)
        finally:
            for task in tasks:
                task.cancel()

    async def _stop(self, process: Process) -> None:
        """Ends the process and all that it has started: SIGTERM first, and after the grace period SIGKILL."""
        self._show(process, Reason.NOT_READY, "the process is being ended", terminating=True)
        process.terminate()
        try:
            async with asyncio.timeout(self.sandbox.spec.grace_period_seconds):
                await process.ended()
        except TimeoutError:
            process.kill()
            await process.ended()
        await process.drained(self._pace.local_drained_within)

    async def _rest(self) -> None:
        """Shows that nothing runs, and waits for an update."""
        last = processes.find(self.folder.process, self.sandbox.uid)
        if last.pid != 0:
            # Forgotten, because another process may have the pid when the next service looks for it. If the files
            # cannot be removed, the next start will fail and show the error.
            with contextlib.suppress(OSError):
                last.forget()
        self.pod = None
        self.idle = True
        self._changed()
        await self._updated.wait()

    async def _updated_within(self, seconds: float) -> bool:
        """Waits for an update for so many seconds, and returns whether there was one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._updated.wait()
        return self._updated.is_set()


def _exit_reason(code: int) -> str:
    if code == 0:
        return "Completed"
    return f"Signal {code - 128}" if code - 128 in signal.valid_signals() else "Error"
