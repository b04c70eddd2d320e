"""Copies of disks, which take minutes: each in a thread of a few, and ended with the service."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

AT_ONCE = 2
"""Copies at once. More of them make one disk slower, and not the copies sooner."""


class Ended(Exception):
    """A copy was ended before it was whole."""


@dataclass(eq=False)
class _Copy:
    task: asyncio.Task[None]
    made: Future[None]
    ended: threading.Event


class Copies:
    """The copies that wait or are being made, each by the folder that it fills. All methods belong to the event loop."""

    def __init__(self, at_once: int = AT_ONCE, niceness: int = 0) -> None:
        """`niceness`: of the threads, by which what is more urgent goes before them."""
        self._threads = ThreadPoolExecutor(at_once, "copy", _yield_by, (niceness,))
        self._copies: dict[Path, _Copy] = {}

    def __contains__(self, folder: Path) -> bool:
        return folder in self._copies

    def begin(
        self, folder: Path, work: Callable[[Callable[[], None]], None], done: Callable[[Exception | None], None]
    ) -> None:
        """Has `work` make a copy into `folder`, into which none is being made now.

        `work` is given a function that it calls often, and that raises `Ended` if the copy is to end. `done` is called with
        what `work` raised, and not if the copy was ended.
        """
        ended = threading.Event()

        def check() -> None:
            if ended.is_set():
                raise Ended

        made = self._threads.submit(work, check)

        async def run() -> None:
            waited = asyncio.wrap_future(made)
            try:
                await asyncio.wait([waited])
            finally:
                del self._copies[folder]
            if waited.cancelled():
                # It had not begun.
                return
            failure: Exception | None = None
            try:
                waited.result()
            except Ended:
                return
            except Exception as error:
                failure = error
            done(failure)

        self._copies[folder] = _Copy(asyncio.create_task(run()), made, ended)

    async def end(self, folder: Path) -> None:
        """Ends the copy into a folder. Returns when nothing writes there any more: one that waits for a thread never begins."""
        copy = self._copies.get(folder)
        if copy is not None:
            copy.ended.set()
            copy.made.cancel()
            await asyncio.wait([copy.task])

    async def close(self) -> None:
        """Ends all copies."""
        for folder in list(self._copies):
            self._copies[folder].ended.set()
        await asyncio.gather(*(self.end(folder) for folder in list(self._copies)))
        self._threads.shutdown()


def _yield_by(niceness: int) -> None:
    """Sets the niceness of this thread: on Linux, each has one of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
