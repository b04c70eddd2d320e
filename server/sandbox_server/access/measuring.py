"""Measures the disks of running sandboxes, each once in an interval."""

import asyncio
import collections
import time
from collections.abc import Callable, Iterator

import structlog

from sandbox_server import feed
from sandbox_server.access.files import Files
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.usage import Usage
from sandbox_server.leases import Leases

log = structlog.get_logger()

AT_ONCE = 8
"""Disks that are measured at once by a replica. Each costs a program in a sandbox, and on Kubernetes a connection through the API
server. At 0.2 s each, a replica measures 12,000 sandboxes in five minutes."""


class Measuring:
    """Measures the disks of the sandboxes that run in the namespaces of this replica, in turn and spread over the interval.

    `outcomes` counts the measurements by the reason of their failure; empty for those that succeeded.
    """

    def __init__(
        self, feed: feed.Feed, leases: Leases, files: Files, pace: Pace, heard: Callable[[Sandbox, Usage | None], None]
    ) -> None:
        """`heard` gets each sandbox with how full its disk is, or None if that could not be measured."""
        self._feed = feed
        self._leases = leases
        self._files = files
        self._pace = pace
        self._heard = heard
        self._free = asyncio.Semaphore(AT_ONCE)
        self._measured = set[Key]()
        self._usages: dict[str, Usage] = {}
        self.outcomes = collections.Counter[str]()

    def usages(self) -> Iterator[tuple[Key, Usage]]:
        """Yields how full the disk of each sandbox is that runs here and whose last measurement succeeded."""
        for one in self._feed.catalogue.sandboxes():
            if one.uid in self._usages and self._runs_here(one):
                yield one.key, self._usages[one.uid]

    async def run(self) -> None:
        """Measures until it is cancelled.

        The order stays the same, so that an interval lies between two measurements of a disk. Where more is to be measured
        than an interval has room for, the next round begins late.
        """
        async with asyncio.TaskGroup() as tasks:
            while True:
                begun = time.monotonic()
                here = [one for one in self._feed.catalogue.sandboxes() if self._runs_here(one)]
                self._usages = {one.uid: self._usages[one.uid] for one in here if one.uid in self._usages}
                keys = [one.key for one in here]
                for number, key in enumerate(keys):
                    await asyncio.sleep(begun + self._pace.usage_interval * number / len(keys) - time.monotonic())
                    await self._free.acquire()
                    tasks.create_task(self._measure(key))
                await asyncio.sleep(begun + self._pace.usage_interval - time.monotonic())

    def _runs_here(self, sandbox: Sandbox) -> bool:
        return sandbox.status.phase is Phase.RUNNING and self._leases.held(sandbox.namespace) != 0

    def _running(self, key: Key) -> Sandbox | None:
        """Returns a sandbox that runs in a namespace of this replica."""
        last = self._feed.catalogue.get(key)
        return last.event.sandbox if last is not None and self._runs_here(last.event.sandbox) else None

    async def _measure(self, key: Key) -> None:
        """Measures the disk of a sandbox if that still runs. Gives back what was acquired for it.

        A failure that the end of the sandbox explains says nothing of its disk.
        """
        try:
            sandbox = self._running(key)
            if sandbox is None or key in self._measured:
                return
            self._measured.add(key)
            try:
                usage = await self._usage(sandbox)
            finally:
                self._measured.discard(key)
            self._usages.pop(sandbox.uid, None)
            if usage is not None:
                self._usages[sandbox.uid] = usage
            if usage is not None or self._running(key) is not None:
                self._heard(sandbox, usage)
        except Exception:
            log.exception("usage_not_heard", sandbox=key.id, namespace=key.namespace)
        finally:
            self._free.release()

    async def _usage(self, sandbox: Sandbox) -> Usage | None:
        failure = "DEADLINE_EXCEEDED"
        try:
            async with asyncio.timeout(self._pace.usage_within):
                usage = await self._files.measured(sandbox)
            self.outcomes[""] += 1
            return usage
        except TimeoutError:
            pass
        except errors.ServiceError as error:
            failure = error.reason
        self.outcomes[failure] += 1
        return None
