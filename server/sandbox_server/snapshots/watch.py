"""A watch of snapshots: those that its selection matches, and every matching event since, with nothing missing."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from sandbox_server import feed, store
from sandbox_server.domain import errors, selector, snapshot_mutations
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import Snapshot, SnapshotEvent, State
from sandbox_server.domain.tenant import ANY

PAGE = 500
"""Events that are read at once."""
EARLY = 0.9
"""The part of the heartbeat period after which a heartbeat is sent: callers must have it in time."""


class Send(Protocol):
    """Sends the messages of a watch. Each waits until the connection takes the message."""

    def event(self, event: SnapshotEvent) -> Awaitable[None]:
        """Sends a snapshot as it is with an event."""

    def complete(self, sequence: int, count: int, heartbeat: float) -> Awaitable[None]:
        """Says that the `count` snapshots that there are were sent. `heartbeat` is the longest silence in seconds."""

    def heartbeat(self, sequence: int) -> Awaitable[None]:
        """Says that the watch is alive, and has sent all up to a sequence."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects the snapshots that a principal sees and that match every field that is not empty.

    `key` names one snapshot.
    """

    principal: Principal
    key: Key | None = None
    namespace: str = ""
    sandbox_id: str = ""
    project: str = ""
    labels: selector.Selector = selector.EVERYTHING
    tenant: str = ANY

    def search(self, states: frozenset[State] = frozenset()) -> store.SnapshotSearch:
        """Returns the same selection for the store, but for the one snapshot that it names. No states are all but DELETED."""
        reach = self.principal.reach(self.namespace, self.tenant)
        return store.SnapshotSearch(reach.tenant, reach.namespaces, self.sandbox_id, self.project, self.labels, states)

    def matches(self, snapshot: Snapshot) -> bool:
        """Whether it selects a snapshot."""
        return (
            self.principal.sees(snapshot)
            and (self.key is None or snapshot.key == self.key)
            and (not self.tenant or snapshot.tenant == self.tenant)
            and (not self.namespace or snapshot.namespace == self.namespace)
            and (not self.sandbox_id or snapshot.sandbox_id == self.sandbox_id)
            and (not self.project or snapshot.project == self.project)
            and self.labels.matches(snapshot.labels)
        )


class Watch:
    """A watch of the snapshots that a selection matches."""

    def __init__(
        self, log: feed.Snapshots, store: store.Store, selection: Selection, send: Send, heartbeat: float
    ) -> None:
        """`heartbeat` is the longest silence in seconds."""
        self._log = log
        self._store = store
        self._selection = selection
        self._send = send
        self._heartbeat = heartbeat
        self._cursor = 0
        """The sequence up to which every matching event was sent."""

    async def run(self, after: int | None) -> None:
        """Sends every matching event after `after`; without `after` the snapshots that there are, and every event since.

        Returns after DELETED of the only snapshot that is selected. Raises `errors.NotFound` if there is no such snapshot,
        `errors.OutOfRange` where history was trimmed or is not reached, and `errors.Unavailable` when the service stops.
        """
        sequence, present = await self._store.read(self._present, store.Lane.LISTS)
        if after is None:
            self._cursor = sequence
            for event in present:
                await self._send.event(event)
            await self._send.complete(sequence, len(present), self._heartbeat)
        elif after > sequence:
            raise errors.OutOfRange(
                "SEQUENCE_AHEAD", "after_sequence lies past the newest event: open again without it"
            )
        else:
            self._cursor = after
        if self._selection.key is not None and any(self._ends(one) and one.sequence <= self._cursor for one in present):
            return
        if after is not None and not await self._log.events(after, 1):
            await self._send.heartbeat(after)
        await self._follow()

    def _present(self, reader: store.Reader) -> tuple[int, list[SnapshotEvent]]:
        """Returns the sequence of the log, and the last events of the snapshots that there are. Raises `errors.NotFound`."""
        key = self._selection.key
        if key is None:
            found = list(reader.snapshots.search(self._selection.search(), None))
        else:
            last = reader.snapshots.last(key)
            if last is None or not self._selection.principal.sees(last.snapshot):
                raise snapshot_mutations.not_found(key.id)
            found = [last]
        return reader.snapshots.sequence(), [one for one in found if self._selection.matches(one.snapshot)]

    def _ends(self, event: SnapshotEvent) -> bool:
        return self._selection.key is not None and event.snapshot.state is State.DELETED

    async def _follow(self) -> None:
        """Sends the events after the cursor, and heartbeats, until the last event of the watch."""
        period = self._heartbeat * EARLY
        due = time.monotonic() + period
        while True:
            for event in await self._log.events(self._cursor, PAGE):
                self._cursor = event.sequence
                if self._selection.matches(event.snapshot):
                    await self._send.event(event)
                    due = time.monotonic() + period
                    if self._ends(event):
                        return
            if time.monotonic() >= due:
                await self._send.heartbeat(self._cursor)
                due = time.monotonic() + period
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due - time.monotonic()):
                    await self._log.grown(self._cursor)
