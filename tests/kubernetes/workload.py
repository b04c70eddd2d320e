"""The sandbox's container of one pod as a real process, started again whenever it ends, as a kubelet does."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from tests.kubernetes import kubelet
from tests.kubernetes.containers import Containers, StartError

BACK_OFF = 10.0
"""Seconds between the end of a container and its next start, but for the first restart, which comes at once."""
Report = Callable[[kubelet.Container], Awaitable[None]]


class Workload:
    """`state` is what `report` was last told; None before the first start."""

    def __init__(
        self, containers: Containers, pod: dict[str, Any], env: Mapping[str, str], home: Path, report: Report
    ) -> None:
        self._containers = containers
        self._pod = pod
        self._env = env
        self._home = home
        self._report = report
        self._id = ""
        self.state: kubelet.Container | None = None
        self._task = asyncio.create_task(self._run())

    async def stop(self, grace: float) -> None:
        """Ends the process: asks it to, and kills it after a time of grace."""
        await self._leave()
        if self._id:
            await self._containers.stop(self._id, grace)

    async def end(self) -> None:
        """Ends the process alone, as it may by itself."""
        await self._containers.stop(self._id, 1)

    async def remove(self) -> None:
        """Kills the process, and forgets its logs."""
        await self._leave()
        await self._containers.remove(self._pod["metadata"]["uid"])

    async def _leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        own = kubelet.own(self._pod)
        before = {one["name"]: one for one in self._pod.get("status", {}).get("containerStatuses", [])}.get(own["name"])
        # A container that ran under another kubelet of these tests has ended with it.
        restarts = before["restartCount"] + 1 if before and "waiting" not in before["state"] else 0
        last: dict[str, Any] = {}
        while True:
            try:
                self._id = await self._containers.start(self._pod, own, self._env, self._home, restarts)
            except StartError as error:
                end = kubelet.ended(128, "StartError", str(error))
                await self._show(
                    kubelet.waits("RunContainerError", str(error), pulled=True, last=last, restarts=restarts)
                )
            else:
                await self._show(kubelet.runs(restarts=restarts, last=last))
                code = await self._containers.ended(self._id)
                end = kubelet.ended(code, "Completed" if code == 0 else "Error")
            await self._show(kubelet.Container(end, last, restarts=restarts))
            if restarts:
                await self._show(kubelet.backs_off(end, restarts))
                await asyncio.sleep(BACK_OFF)
            last, restarts = end, restarts + 1

    async def _show(self, state: kubelet.Container) -> None:
        self.state = state
        with contextlib.suppress(OSError):
            # The node reports the state again, whenever the pod shows another one.
            await self._report(state)
