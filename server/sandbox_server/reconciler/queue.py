"""A queue of keys: one that waits twice is worked once, never by two workers, and again if added meanwhile."""

import asyncio
import random

from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key


class Queue:
    """All methods belong to the event loop."""

    def __init__(self, pace: Pace) -> None:
        self._retry_first = pace.retry_first
        self._retry_most = pace.retry_most
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._added: set[Key] = set()
        self._working: set[Key] = set()
        self._timers: dict[Key, tuple[float, asyncio.Handle]] = {}
        """When each key is due, by the clock of the loop. The handle cannot be asked: uvloop's of a short delay has no time."""
        self._failures: dict[Key, int] = {}

    def __len__(self) -> int:
        """Keys that wait or are being worked; those with a delay do not count."""
        return len(self._added | self._working)

    def add(self, key: Key) -> None:
        """Have `key` worked soon."""
        if key not in self._added:
            self._added.add(key)
            # A worker that has it puts it in line when it is done.
            if key not in self._working:
                self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Have `key` worked in `seconds`, or at the earlier time that was asked for before."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if key in self._timers:
            earlier, timer = self._timers[key]
            if earlier <= due:
                return
            timer.cancel()
        self._timers[key] = due, loop.call_later(seconds, self._due, key)

    def _due(self, key: Key) -> None:
        del self._timers[key]
        self.add(key)

    def retry(self, key: Key, at_least: float = 0.0) -> None:
        """Have a key that failed worked after a delay that doubles with each failure, with jitter.

        `at_least`: seconds before which it would fail again.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self._retry_most, self._retry_first * 2 ** min(failures, 16))
        self.add_after(key, max(at_least, delay * random.uniform(0.5, 1.0)))

    def succeeded(self, key: Key) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a key that is no more."""
        self.succeeded(key)
        if key in self._timers:
            _, timer = self._timers.pop(key)
            timer.cancel()

    async def get(self) -> Key:
        """The next key. It must be given back with `done`."""
        key = await self._ready.get()
        self._added.discard(key)
        self._working.add(key)
        return key

    def done(self, key: Key) -> None:
        """`key` was worked; if it was added meanwhile, it is next in line again."""
        self._working.discard(key)
        if key in self._added:
            self._added.discard(key)
            self.add(key)

    def close(self) -> None:
        """Cancels every delay."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
