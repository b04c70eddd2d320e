"""What watchers share: one filter's changes, each with messages that are written once."""

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Reversible
from dataclasses import dataclass
from typing import Protocol

from sandbox_server.domain import selector
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.tenant import Tenant

SHARED = 256
"""Changes a topic keeps for its readers; one that is further behind catches up from the recent ones or the store."""

Send = Callable[[bytes], Awaitable[None]]


class Encoder(Protocol):
    """How messages are written; each is made once and shared by all watchers."""

    def status(self, sandbox: Sandbox) -> bytes:
        """The answer to GetStatus."""

    def change(self, sandbox: Sandbox) -> bytes:
        """One change of a watch."""

    def snapshot_complete(self, sequence: int, count: int, heartbeat: float) -> bytes:
        """The end of a snapshot of `count` sandboxes; `heartbeat`: seconds that the stream is silent at most."""

    def heartbeat(self, sequence: int) -> bytes:
        """A sign of life."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which sandboxes: a tenant's in the namespaces he has, and of those the ones that match all that is given."""

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
class Change:
    """One entry of the log and its messages, each written at most once."""

    sandbox: Sandbox
    _encoder: Encoder

    @functools.cached_property
    def message(self) -> bytes:
        """The message of a watch."""
        return self._encoder.change(self.sandbox)

    @functools.cached_property
    def status(self) -> bytes:
        """The answer to GetStatus."""
        return self._encoder.status(self.sandbox)

    @property
    def terminated(self) -> bool:
        """Whether it was the sandbox's last."""
        return self.sandbox.status.phase is Phase.TERMINATED


def newer(changes: Reversible[Change], sequence: int) -> list[Change]:
    """Those of `changes`, which are in order, that come after `sequence`."""
    found = list(itertools.takewhile(lambda one: one.sandbox.sequence > sequence, reversed(changes)))
    found.reverse()
    return found


class Topic:
    """What the watchers of one filter share: the matching changes after `floor`, and one wake-up.

    `due`: when it has its next heartbeat, by the monotonic clock.
    """

    __slots__ = ("beats", "changes", "concerns", "due", "filter", "floor", "readers", "woken")

    def __init__(self, wanted: Filter, floor: int, due: float) -> None:
        self.filter = wanted
        self.concerns = wanted.keys or {wanted.tenant.name}
        self.changes: deque[Change] = deque()
        self.floor = floor
        self.readers = 0
        self.beats = 0
        self.due = due
        self.woken = asyncio.Event()

    def append(self, change: Change) -> None:
        """Takes the newest change."""
        self.changes.append(change)
        if len(self.changes) > SHARED:
            self.floor = self.changes.popleft().sandbox.sequence

    async def send(self, changes: Iterable[Change], send: Send) -> bool:
        """Sends changes; returns whether the last was TERMINATED of the one sandbox that the filter names."""
        for change in changes:
            await send(change.message)
            if change.terminated and len(self.filter.keys) == 1:
                return True
        return False

    def skip(self, sequence: int) -> None:
        """Begins anew at a sequence: what came before is read from the log."""
        self.changes.clear()
        self.floor = sequence
        self.wake()

    def wake(self) -> None:
        """Has every reader look again."""
        self.woken.set()
        self.woken = asyncio.Event()
