"""What watchers share: one filter's events, each with messages that are written once."""

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Reversible
from dataclasses import dataclass
from typing import Protocol

from sandbox_server.domain import selector
from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.tenant import Tenant

SHARED = 256
"""Events a topic keeps for its readers; a reader that is further behind catches up from the recent events or the store."""

Send = Callable[[bytes], Awaitable[None]]


class Encoder(Protocol):
    """How messages are written; each is made once and shared by all watchers."""

    def status(self, event: Event) -> bytes:
        """The answer to GetStatus."""

    def event(self, event: Event) -> bytes:
        """One event of a watch."""

    def snapshot_complete(self, sequence: int, count: int, heartbeat: float) -> bytes:
        """The end of a snapshot of `count` sandboxes; `heartbeat`: seconds that the stream is silent at most."""

    def heartbeat(self, sequence: int) -> bytes:
        """A sign of life."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which sandboxes: those of a tenant in its namespaces that match all that is given."""

    tenant: Tenant
    keys: frozenset[Key] = frozenset()
    namespace: str = ""
    project: str = ""
    labels: selector.Selector = selector.EVERYTHING

    def matches(self, sandbox: Sandbox) -> bool:
        """Whether the sandbox is one of these."""
        return (
            sandbox.tenant == self.tenant.name
            and sandbox.namespace in self.tenant.namespaces
            and (not self.keys or sandbox.key in self.keys)
            and (not self.namespace or sandbox.namespace == self.namespace)
            and (not self.project or sandbox.spec.project == self.project)
            and self.labels.matches(sandbox.spec.labels)
        )


@dataclass(frozen=True, eq=False)
class Encoded:
    """An event and its messages, each written at most once."""

    event: Event
    _encoder: Encoder

    @functools.cached_property
    def message(self) -> bytes:
        """The message of a watch."""
        return self._encoder.event(self.event)

    @functools.cached_property
    def status(self) -> bytes:
        """The answer to GetStatus."""
        return self._encoder.status(self.event)


def newer(events: Reversible[Encoded], sequence: int) -> list[Encoded]:
    """Those of `events`, which are in order, that come after `sequence`."""
    found = list(itertools.takewhile(lambda one: one.event.sequence > sequence, reversed(events)))
    found.reverse()
    return found


class Topic:
    """What the watchers of one filter share: the matching events after `floor`, and one wake-up.

    `subjects`: the keys that the filter names, or its tenant. `due`: when the topic has its next heartbeat, by the monotonic
    clock.
    """

    __slots__ = ("beats", "due", "events", "filter", "floor", "readers", "subjects", "woken")

    def __init__(self, selection: Filter, floor: int, due: float) -> None:
        self.filter = selection
        self.subjects = selection.keys or {selection.tenant.name}
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
        """Sends events; returns whether the last was TERMINATED of the one sandbox that the filter names."""
        for one in events:
            await send(one.message)
            if one.event.terminated and len(self.filter.keys) == 1:
                return True
        return False

    def skip(self, sequence: int) -> None:
        """Begins anew at a sequence: what came before is read from the log."""
        self.events.clear()
        self.floor = sequence
        self.wake()

    def wake(self) -> None:
        """Has every reader look again."""
        self.woken.set()
        self.woken = asyncio.Event()
