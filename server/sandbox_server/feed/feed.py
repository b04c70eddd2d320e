"""The log's reader on this replica."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from sandbox_server import store
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.tenant import not_found
from sandbox_server.feed import history
from sandbox_server.feed.catalogue import Catalogue
from sandbox_server.feed.topic import Encoded, Encoder, Filter, Topic
from sandbox_server.feed.topics import Topics
from sandbox_server.feed.waits import Waits

RECENT = 4096
"""Events kept in memory for watches that resume: some seconds of a busy service, about 8 MB."""
PAGE = 500
"""Events that are read from the log at once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last events of some sandboxes as of a sequence of the log."""

    sequence: int
    events: Sequence[Encoded]

    def matching(self, selection: Filter) -> "Snapshot":
        """Returns the part that a filter matches."""
        return Snapshot(self.sequence, [one for one in self.events if selection.matches(one.event.sandbox)])

    def ends(self, cursor: int) -> bool:
        """Returns whether the snapshot has exactly one sandbox, and this had ended by the sequence `cursor`."""
        if len(self.events) != 1:
            return False
        event = self.events[0].event
        return event.terminated and event.sequence <= cursor


class Feed:
    """Follows the log. All methods must be called on the event loop.

    `catalogue` has the live sandboxes as of `sequence`, the last event that this replica has read. `history` has the events
    before it, and `heartbeat` is the longest silence of a watch in seconds. `waits` are those for an event of one sandbox.
    `closed` is set when the service stops.
    """

    def __init__(self, store: store.Store, encoder: Encoder, pace: Pace) -> None:
        self.sequence = 0
        self.catalogue = Catalogue()
        self.store = store
        self.encoder = encoder
        self.history = history.History(store, encoder, RECENT)
        self.heartbeat = pace.heartbeat
        self._read_again = pace.read_again
        self._topics = Topics(pace.heartbeat)
        self.waits = Waits()
        self._grown = asyncio.Event()
        self._listeners: list[Callable[[Event], None]] = []
        self.closed = False
        self._published = 0
        """The newest sequence that the log is known to have."""
        self._gap: asyncio.Task[None] | None = None
        self._following = asyncio.Lock()

    def load(self, sequence: int, live: Sequence[Event]) -> None:
        """Sets the place in the log, and the last events of all sandboxes that are not TERMINATED."""
        self.sequence = sequence
        self.catalogue.load(map(self.encoded, live))

    def on_event(self, listener: Callable[[Event], None]) -> None:
        """Calls `listener` with every event, after the catalogue has it."""
        self._listeners.append(listener)

    def encoded(self, event: Event) -> Encoded:
        """Returns an event with its messages."""
        return Encoded(event, self.encoder)

    def publish(self, committed: Sequence[Event]) -> None:
        """Takes the events of a commit, in order.

        Events before them can be missing: those of another replica, or of a commit whose outcome was lost. The log is
        then read at once.
        """
        following: list[Event] = []
        for event in committed:
            expected = self.sequence + len(following) + 1
            if event.sequence > expected:
                self.announce(committed[-1].sequence)
                break
            if event.sequence == expected:
                following.append(event)
        self._take(following)

    def announce(self, sequence: int) -> None:
        """Reads the log at once if this replica has not read `sequence` yet, which the log is known to have."""
        self._published = max(self._published, sequence)
        if self._published > self.sequence and (self._gap is None or self._gap.done()):
            self._gap = asyncio.create_task(self._close_gap())

    async def follow(self) -> None:
        """Reads the events of the log after `sequence`."""
        # One caller at a time: what the first caller has read, the others need not read again.
        async with self._following:
            try:
                while page := await self.store.events(self.sequence, PAGE):
                    # A commit may have been published while the page was read.
                    self._take([one for one in page if one.sequence > self.sequence])
            except errors.OutOfRange:
                await self._reload()

    def _take(self, following: Sequence[Event]) -> None:
        """Takes the next events of the log, in order."""
        woken: set[Topic] = set()
        for event in following:
            woken |= self._append(event)
        for topic in woken:
            topic.wake()
        self._grow()

    def _grow(self) -> None:
        """Wakes all callers of `arrived`."""
        self._grown.set()
        self._grown = asyncio.Event()

    async def _close_gap(self) -> None:
        """Reads the log, again after a failure, until it has all that was published."""
        while self.sequence < self._published and not self.closed:
            try:
                await self.follow()
            except Exception as error:
                log.warning("log_not_read", error=type(error).__name__, message=str(error))
            if self.sequence < self._published:
                await asyncio.sleep(self._read_again)

    async def _reload(self) -> None:
        """Loads the live sandboxes again, because the log no longer has the events that this replica missed.

        A watch that had not been sent all of the missed events ends with HISTORY_TRIMMED.
        """
        sequence, live = await self.store.load()
        if sequence <= self.sequence:
            return
        self.load(sequence, live)
        self.history.forget()
        self._topics.skip(sequence)
        self.waits.interrupt()
        for event in live:
            for listener in self._listeners:
                listener(event)
        self._grow()

    def _append(self, event: Event) -> set[Topic]:
        """Takes the next event of the log. Returns the topics that have it and are to be woken."""
        encoded = self.encoded(event)
        self.sequence = event.sequence
        self.history.append(encoded)
        self.catalogue.take(encoded)
        matching = self._topics.append(encoded)
        self.waits.append(encoded)
        for listener in self._listeners:
            listener(event)
        return matching

    async def arrived(self, sequence: int) -> None:
        """Returns once this replica has read `sequence`. Raises `errors.Unavailable` when the service stops."""
        while sequence > self.sequence:
            if self.closed:
                raise closing()
            await self._grown.wait()

    async def beat(self) -> None:
        """Gives all topics their heartbeats. Runs until it is cancelled."""
        await self._topics.beat()

    def subscribed(self, selection: Filter) -> contextlib.AbstractContextManager[Topic]:
        """Yields the topic of a filter. It has the matching events from now on."""
        return self._topics.subscribed(selection, self.sequence)

    async def named(self, selection: Filter) -> Snapshot:
        """Returns the last events of the sandboxes that a filter names, of TERMINATED ones too.

        Raises `errors.NotFound` with all that are missing.
        """
        keys = sorted(selection.keys)
        sequence = self.sequence
        found = [one for key in keys if (one := self.catalogue.get(key)) is not None]
        if len(found) < len(keys):
            # The store alone has the sandboxes that have ended. It can be ahead of the feed, and then has others as well.
            sequence, stored = await self.store.last(keys)
            found = [self.encoded(one) for one in stored]
        known = {one.event.sandbox.key for one in found if selection.principal.sees(one.event.sandbox)}
        if missing := [key.id for key in keys if key not in known]:
            raise not_found(*missing)
        return Snapshot(sequence, found)

    def close(self) -> None:
        """Ends all watches with `errors.Unavailable`, so that clients continue at another replica, and all waits with what
        there is."""
        self.closed = True
        if self._gap is not None:
            self._gap.cancel()
        self._grown.set()
        self._topics.wake()
        self.waits.interrupt()


def closing() -> errors.Unavailable:
    """Returns the error with which a service that stops ends watches, and calls that wait for a sequence."""
    return errors.Unavailable(
        "SHUTTING_DOWN", "the service is stopping: ask again, a watch with the last sequence seen"
    )
