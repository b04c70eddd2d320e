"""The log of snapshots as this replica reads it. Snapshots are few: what is asked of them is read from the store."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Collection

import structlog

from sandbox_server import store
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.snapshot import Snapshot, SnapshotEvent
from sandbox_server.feed.feed import closing

PAGE = 500
"""Events that are read from the log at once."""
RECENT = 512
"""Events kept in memory, so that not every watch reads each of them from the store."""

log = structlog.get_logger()


class Snapshots:
    """Follows the log of snapshots. All methods must be called on the event loop.

    `sequence` is that of the last event that this replica has read, and `closed` is set when the service stops.
    """

    def __init__(self, store: store.Store, pace: Pace) -> None:
        self.sequence = 0
        self.closed = False
        self._store = store
        self._read_again = pace.read_again
        self._published = 0
        """The newest sequence that the log is known to have."""
        self._recent: deque[SnapshotEvent] = deque(maxlen=RECENT)
        """The last events up to `sequence`, without gaps."""
        self._listeners: list[Callable[[SnapshotEvent], None]] = []
        self._grown = asyncio.Event()
        self._following = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Sets the place in the log: listeners are called with what comes after it."""
        self.sequence = await self._store.read(lambda reader: reader.snapshots.sequence())

    def on_event(self, listener: Callable[[SnapshotEvent], None]) -> None:
        """Calls `listener` with every event of any replica, in order. After a gap in the log, with the last event of every
        snapshot that is not DELETED."""
        self._listeners.append(listener)

    async def live(self, namespaces: Collection[str] | None = None) -> list[SnapshotEvent]:
        """Returns the last events of the snapshots of some namespaces, or of all, that are not DELETED."""
        return await self._store.read(lambda reader: reader.snapshots.live(namespaces), store.Lane.RECONCILER)

    async def last(self, key: Key) -> SnapshotEvent | None:
        """Returns the last event of a snapshot, DELETED or not; None if no snapshot has that key."""
        return await self._store.read(lambda reader: reader.snapshots.last(key), store.Lane.RECONCILER)

    async def save(self, snapshot: Snapshot, decided_on: int, epoch: int) -> SnapshotEvent:
        """Records what became of a snapshot since the event `decided_on`, under the lease of an epoch.

        Returns the event, or the one of before if nothing has changed. Raises `store.Stale` if there is a newer event, or
        another replica has taken the namespace: read and decide again. Raises `errors.Unavailable`.
        """
        return await self.write(lambda _: store.SnapshotWrite(snapshot, decided_on, epoch))

    async def write(self, mutation: store.SnapshotMutation, request: store.Request | None = None) -> SnapshotEvent:
        """Runs a mutation as `store.Store.write_snapshot`; listeners are called with its event soon."""
        event = await self._store.write_snapshot(mutation, request)
        self.announce(event.sequence)
        return event

    def announce(self, sequence: int) -> None:
        """Reads the log at once if this replica has not read `sequence` yet, which the log is known to have."""
        self._published = max(self._published, sequence)
        if self._published > self.sequence and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._reach())

    async def _reach(self) -> None:
        """Reads the log, again after a failure, until it has all that was published."""
        while self.sequence < self._published and not self.closed:
            try:
                await self.follow()
            except Exception as error:
                log.warning("snapshots_not_read", error=type(error).__name__, message=str(error))
                await asyncio.sleep(self._read_again)

    async def follow(self) -> None:
        """Reads the events of the log after `sequence`."""
        async with self._following:
            try:
                while page := await self._read(self.sequence, PAGE):
                    self._recent.extend(page)
                    self._take(page, page[-1].sequence)
            except errors.OutOfRange:
                sequence, live = await self._store.read(
                    lambda reader: (reader.snapshots.sequence(), reader.snapshots.live()), store.Lane.FEED
                )
                self._recent.clear()
                self._take(live, sequence)

    def _take(self, events: Collection[SnapshotEvent], sequence: int) -> None:
        self.sequence = sequence
        for event in events:
            for listener in self._listeners:
                listener(event)
        self._grown.set()
        self._grown = asyncio.Event()

    async def events(self, after: int, limit: int) -> list[SnapshotEvent]:
        """Returns at most `limit` events after a sequence: at least one if this replica has read any.

        Raises `errors.OutOfRange` if one of them was trimmed.
        """
        if after == self.sequence:
            return []
        if self._recent and self._recent[0].sequence <= after + 1 <= self.sequence:
            newer = itertools.takewhile(lambda one: one.sequence > after, reversed(self._recent))
            return list(newer)[::-1][:limit]
        return await self._read(after, limit)

    async def _read(self, after: int, limit: int) -> list[SnapshotEvent]:
        return await self._store.read(lambda reader: reader.snapshots.events(after, limit), store.Lane.FEED)

    async def grown(self, sequence: int) -> None:
        """Returns once this replica has read more than `sequence`. Raises `errors.Unavailable` when the service stops."""
        while sequence >= self.sequence:
            if self.closed:
                raise closing()
            await self._grown.wait()

    def close(self) -> None:
        """Ends what waits for more."""
        self.closed = True
        if self._reading is not None:
            self._reading.cancel()
        self._grown.set()
