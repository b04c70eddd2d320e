"""A topic: the events of one filter, which all its watchers share, with messages that are encoded once."""

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Reversible
from dataclasses import dataclass
from typing import Protocol

from sandbox_server import store
from sandbox_server.domain import selector
from sandbox_server.domain.event import Event
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.tenant import ANY

SHARED = 256
"""Events a topic keeps for its readers; a reader that is further behind catches up from the recent events or the store."""

Send = Callable[[bytes], Awaitable[None]]


class Encoder(Protocol):
    """Encodes messages. Each message is encoded once and shared by all watchers."""

    def status(self, event: Event) -> bytes:
        """Returns the answer to GetStatus."""

    def event(self, event: Event) -> bytes:
        """Returns the message of a watch that has an event."""

    def snapshot(self, event: Event) -> bytes:
        """Returns the message of a watch that has the last event of a sandbox before the watch began."""

    def snapshot_complete(self, sequence: int, count: int, heartbeat: float) -> bytes:
        """Returns the message after a snapshot of `count` sandboxes. `heartbeat` is the longest silence in seconds."""

    def heartbeat(self, sequence: int) -> bytes:
        """Returns the message for a time without events."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects the sandboxes that a principal sees and that match every field that is not empty."""

    principal: Principal
    keys: frozenset[Key] = frozenset()
    namespace: str = ""
    project: str = ""
    labels: selector.Selector = selector.EVERYTHING
    tenant: str = ANY

    @property
    def only_tenant(self) -> str:
        """The tenant whose sandboxes alone can match, or `ANY`."""
        return self.principal.tenant or self.tenant

    def search(self, phases: frozenset[Phase], volume_kept: bool = False) -> store.Search:
        """Returns the same filter for the store. It must not name sandboxes."""
        reach = self.principal.reach(self.namespace, self.tenant)
        return store.Search(reach.tenant, reach.namespaces, phases, self.project, self.labels, volume_kept)

    def matches(self, sandbox: Sandbox) -> bool:
        """Returns whether the filter selects the sandbox."""
        return (
            self.principal.sees(sandbox)
            and (not self.tenant or sandbox.tenant == self.tenant)
            and (not self.keys or sandbox.key in self.keys)
            and (not self.namespace or sandbox.namespace == self.namespace)
            and (not self.project or sandbox.spec.project == self.project)
            and self.labels.matches(sandbox.spec.labels)
        )


@dataclass(frozen=True, eq=False)
class Encoded:
    """An event and its messages, each encoded at most once."""

    event: Event
    _encoder: Encoder

    @functools.cached_property
    def message(self) -> bytes:
        """The message of a watch."""
        return self._encoder.event(self.event)

    @functools.cached_property
    def snapshot(self) -> bytes:
        """The message of a snapshot."""
        return self._encoder.snapshot(self.event)

    @functools.cached_property
    def status(self) -> bytes:
        """The answer to GetStatus."""
        return self._encoder.status(self.event)


def newer(events: Reversible[Encoded], sequence: int) -> list[Encoded]:
    """Returns the events after `sequence`. `events` are in the order of the log."""
    found = list(itertools.takewhile(lambda one: one.event.sequence > sequence, reversed(events)))
    found.reverse()
    return found


class Topic:
    """The matching events after the sequence `floor`, and the wake-up of the watchers.

    `subjects` are the keys that the filter names, or its only tenant, which can be `ANY`. `beats` counts heartbeats; `due`
    is the time of the next one on the monotonic clock. `woken` is set, and replaced, when there is something to send.
    """

    __slots__ = ("beats", "due", "events", "filter", "floor", "readers", "subjects", "woken")

    def __init__(self, selection: Filter, floor: int, due: float) -> None:
        self.filter = selection
        self.subjects = selection.keys or {selection.only_tenant}
        self.events: deque[Encoded] = deque()
        self.floor = floor
        self.readers = 0
        self.beats = 0
        self.due = due
        self.woken = asyncio.Event()

    def append(self, encoded: Encoded) -> None:
        """Takes the newest event."""
        self.events.append(encoded)
        if len(self.events) > SHARED:
            self.floor = self.events.popleft().event.sequence

    async def send(self, events: Iterable[Encoded], send: Send) -> bool:
        """Sends events. Returns whether the last is TERMINATED of the only sandbox that the filter names."""
        for one in events:
            await send(one.message)
            if one.event.terminated and len(self.filter.keys) == 1:
                return True
        return False

    def skip(self, sequence: int) -> None:
        """Restarts the topic at a sequence. Watchers read earlier events from the log."""
        self.events.clear()
        self.floor = sequence
        self.wake()

    def wake(self) -> None:
        """Wakes every watcher."""
        self.woken.set()
        self.woken = asyncio.Event()
