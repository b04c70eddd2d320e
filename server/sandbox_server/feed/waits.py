"""The waits for an event of one sandbox, by sandbox."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Key
from sandbox_server.feed.topic import Encoded, Filter

Remaining = Callable[[Event], float]
"""Returns the seconds that a wait goes on after an event if no other follows. 0 or less ends it."""


class Waits:
    """The waits that are open. They have no heartbeats: a wait costs nothing while nothing happens to its sandbox."""

    def __init__(self) -> None:
        self._waits: dict[Key, set[Wait]] = {}

    def add(self, key: Key, wait: "Wait") -> None:
        """Adds a wait for an event of a sandbox."""
        self._waits.setdefault(key, set()).add(wait)

    def remove(self, key: Key, wait: "Wait") -> None:
        """Removes a wait that was added."""
        waits = self._waits[key]
        waits.remove(wait)
        if not waits:
            del self._waits[key]

    def append(self, encoded: Encoded) -> None:
        """Gives the next event of the log to the waits of its sandbox."""
        for wait in self._waits.get(encoded.event.sandbox.key, ()):
            wait.judge(encoded)

    def interrupt(self) -> None:
        """Has every wait read the last event of its sandbox again."""
        for waits in self._waits.values():
            for wait in waits:
                wait.interrupt()


class Wait:
    """A wait for an event of the sandbox that a filter names. While it is open it judges every event of the sandbox.

    `found` has the event after which nothing remained of the wait, or None if the last event must be read again.
    """

    __slots__ = ("_filter", "_key", "_loop", "_newest", "_remaining", "_timer", "_waits", "found")

    def __init__(self, waits: Waits, selection: Filter, remaining: Remaining) -> None:
        self._waits = waits
        self._filter = selection
        (self._key,) = selection.keys
        self._remaining = remaining
        self._newest: Encoded | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.found: asyncio.Future[Encoded | None] = self._loop.create_future()

    def __enter__(self) -> Self:
        self._waits.add(self._key, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._waits.remove(self._key, self)
        if self._timer is not None:
            self._timer.cancel()

    def judge(self, encoded: Encoded) -> None:
        """Judges an event that the filter matches, unless it is older than another that was judged."""
        newest = self._newest
        if newest is not None and encoded.event.sequence <= newest.event.sequence:
            return
        if self._filter.matches(encoded.event.sandbox):
            self._newest = encoded
            self._judge()

    def _judge(self) -> None:
        """Ends the wait, or judges the newest event again when what remains of the wait is over."""
        if self._timer is not None:
            self._timer.cancel()
        if self._newest is None or self.found.done():
            return
        seconds = self._remaining(self._newest.event)
        if seconds <= 0:
            self.found.set_result(self._newest)
        else:
            self._timer = self._loop.call_later(seconds, self._judge)

    def interrupt(self) -> None:
        """Ends the wait with None."""
        if not self.found.done():
            self.found.set_result(None)
