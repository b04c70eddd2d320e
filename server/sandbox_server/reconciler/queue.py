"""A queue of keys for several workers.

To add a key that already waits in a line changes nothing. A key that is added while a worker has it is put in line when that
worker is done, so that no two workers have the same key.

Keys wait in three lines, each with workers of its own, so that slow work in one line delays no other line. In a line the
namespaces take turns, so that a thousand sandboxes of one tenant do not delay the single one of another.
"""

import asyncio
import collections
import enum
import random

from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key


class Line(enum.Enum):
    """Why a key waits."""

    ASKED = enum.auto()
    """A caller has asked for a change. The engine makes it, which may take long, and a thousand may be asked for at once."""
    SHOWN = enum.auto()
    """The engine has shown a change, or it is time to look: most often there is only a status to record."""
    REPEATED = enum.auto()
    """Everything is looked at again, or what failed is tried again."""


class _Turns:
    """The keys of a line: those of a namespace in the order of their arrival, the namespaces by turns."""

    def __init__(self) -> None:
        self._namespaces: dict[str, collections.deque[Key]] = {}
        """Those whose keys wait. The first one has the turn."""
        self._count = asyncio.Semaphore(0)

    def put(self, key: Key) -> None:
        self._namespaces.setdefault(key.namespace, collections.deque()).append(key)
        self._count.release()

    async def get(self) -> Key:
        """Waits for a key and takes it."""
        await self._count.acquire()
        namespace = next(iter(self._namespaces))
        keys = self._namespaces.pop(namespace)
        key = keys.popleft()
        if keys:
            self._namespaces[namespace] = keys
        return key


class Queue:
    """All methods belong to the event loop."""

    def __init__(self, pace: Pace) -> None:
        self._retry_first = pace.retry_first
        self._retry_most = pace.retry_most
        self._lines = {line: _Turns() for line in Line}
        """A key that was taken from one line is left in the others, and passed over there."""
        self._added: dict[Key, set[Line]] = {}
        self._working: set[Key] = set()
        self._timers: dict[Key, tuple[float, asyncio.Handle]] = {}
        """When each key is due, by the clock of the loop. The handle cannot be asked: uvloop's of a short delay has no time."""
        self._failures: dict[Key, int] = {}

    def __len__(self) -> int:
        """Keys that wait or are being worked; those with a delay do not count."""
        return len(self._added.keys() | self._working)

    def add(self, key: Key, line: Line = Line.SHOWN) -> None:
        """Have `key` worked soon: when its turn comes in the first of the lines in which it waits."""
        lines = self._added.setdefault(key, set())
        if line not in lines:
            lines.add(line)
            # A worker that has it puts it in line when it is done.
            if key not in self._working:
                self._lines[line].put(key)

    def add_after(self, key: Key, seconds: float, line: Line = Line.SHOWN) -> None:
        """Have `key` wait in `line` in `seconds`, unless it is to wait in a line from an earlier time on."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if key in self._timers:
            earlier, timer = self._timers[key]
            if earlier <= due:
                return
            timer.cancel()
        self._timers[key] = due, loop.call_later(seconds, self._due, key, line)

    def _due(self, key: Key, line: Line) -> None:
        del self._timers[key]
        self.add(key, line)

    def retry(self, key: Key, at_least: float = 0.0) -> None:
        """Have a key that failed worked after a delay that doubles with each failure, with jitter.

        `at_least`: seconds before which it would fail again.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self._retry_most, self._retry_first * 2 ** min(failures, 16))
        self.add_after(key, max(at_least, delay * random.uniform(0.5, 1.0)), Line.REPEATED)

    def succeeded(self, key: Key) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a key that is no more."""
        self.succeeded(key)
        if key in self._timers:
            _, timer = self._timers.pop(key)
            timer.cancel()

    async def get(self, line: Line = Line.SHOWN) -> Key:
        """The next key of a line. It must be given back with `done`."""
        while True:
            key = await self._lines[line].get()
            if key in self._added and key not in self._working:
                del self._added[key]
                self._working.add(key)
                return key

    def done(self, key: Key) -> None:
        """Gives a key back that was worked. If it was added while it was worked, it is put in line again."""
        self._working.discard(key)
        for line in self._added.pop(key, ()):
            self.add(key, line)

    def close(self) -> None:
        """Cancels every delay."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
