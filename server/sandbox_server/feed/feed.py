"""The log's reader on this replica, and the watches that it serves."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import structlog

from sandbox_server import store
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import not_found
from sandbox_server.feed import history
from sandbox_server.feed.catalogue import Catalogue
from sandbox_server.feed.topic import Encoded, Encoder, Filter, Send, Topic, newer
from sandbox_server.feed.topics import Topics

RECENT = 4096
"""Events kept in memory for watches that resume: some seconds of a busy service, about 8 MB."""
ENDED_PAGE = 100
"""Sandboxes that have ended which a snapshot reads at once."""
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
    """Follows the log and serves watches. All methods must be called on the event loop.

    `catalogue` has the live sandboxes as of `sequence`, the last event that this replica has read. `closed` is set when the
    service stops.
    """

    def __init__(self, store: store.Store, encoder: Encoder, pace: Pace) -> None:
        self.sequence = 0
        self.catalogue = Catalogue()
        self._store = store
        self._encoder = encoder
        self._history = history.History(store, encoder, RECENT)
        self._heartbeat = pace.heartbeat
        self._read_again = pace.read_again
        self._topics = Topics(pace.heartbeat)
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
        return Encoded(event, self._encoder)

    def publish(self, committed: Sequence[Event]) -> None:
        """Takes the events of a commit, in order.

        Events before them can be missing: those of another replica, or of a commit whose outcome was lost. The log is
        then read at once.
        """
        following: list[Event] = []
        for event in committed:
            expected = self.sequence + len(following) + 1
            if event.sequence > expected:
                self._published = max(self._published, committed[-1].sequence)
                if self._gap is None or self._gap.done():
                    self._gap = asyncio.create_task(self._close_gap())
                break
            if event.sequence == expected:
                following.append(event)
        self._take(following)

    async def follow(self) -> None:
        """Reads the events of the log after `sequence`."""
        # One caller at a time: what the first caller has read, the others need not read again.
        async with self._following:
            try:
                while page := await self._store.events(self.sequence, PAGE):
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
        sequence, live = await self._store.load()
        if sequence <= self.sequence:
            return
        self.load(sequence, live)
        self._history.forget()
        self._topics.skip(sequence)
        for event in live:
            for listener in self._listeners:
                listener(event)
        self._grow()

    def _append(self, event: Event) -> set[Topic]:
        """Takes the next event of the log. Returns the topics that have it and are to be woken."""
        encoded = self.encoded(event)
        self.sequence = event.sequence
        self._history.append(encoded)
        self.catalogue.take(encoded)
        matching = self._topics.append(encoded)
        for listener in self._listeners:
            listener(event)
        return matching

    async def arrived(self, sequence: int) -> None:
        """Returns once this replica has read `sequence`. Raises `errors.Unavailable` when the service stops."""
        while sequence > self.sequence:
            if self.closed:
                raise _closing()
            await self._grown.wait()

    async def beat(self) -> None:
        """Gives all topics their heartbeats. Runs until it is cancelled."""
        await self._topics.beat()

    async def watch(self, selection: Filter, after: int | None, send: Send, ended: bool = False) -> None:
        """Sends every matching event after `after`; without `after` a snapshot, and every matching event since.

        A snapshot has the sandboxes that have ended if the filter names them, and with `ended` all that match.

        Returns after TERMINATED of the only sandbox that the filter names. Raises `errors.NotFound` with all sandboxes
        that are named and missing, `errors.OutOfRange` where history was trimmed or is not reached, and
        `errors.Unavailable` when the service stops.
        """
        # Subscribe before the snapshot: the topic has every event that comes after it.
        with self.subscribed(selection) as topic:
            named = await self.named(selection) if selection.keys else None
            if after is None:
                snapshot = named.matching(selection) if named else self._live(selection)
                cursor = snapshot.sequence
                await self._send_snapshot(snapshot, selection if ended and not named else None, send)
            else:
                cursor = after
            if named is not None and named.ends(cursor):
                return
            if after is not None:
                await self._reach(after)
            await self._events(topic, cursor, send)

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
            sequence, stored = await self._store.last(keys)
            found = [self.encoded(one) for one in stored]
        known = {one.event.sandbox.key for one in found if one.event.sandbox.tenant == selection.tenant.name}
        if missing := [key.id for key in keys if key not in known]:
            raise not_found(*missing)
        return Snapshot(sequence, found)

    def _live(self, selection: Filter) -> Snapshot:
        """Returns the last events of the live sandboxes that a filter matches."""
        return Snapshot(self.sequence, list(self.catalogue.matching(selection)))

    async def _send_snapshot(self, snapshot: Snapshot, ended: Filter | None, send: Send) -> None:
        """Sends a snapshot, and the sandboxes that had ended by then and that `ended` matches."""
        count = len(snapshot.events)
        for one in snapshot.events:
            await send(one.message)
        if ended is not None:
            async for event in self._ended(ended, snapshot.sequence):
                await send(self._encoder.event(event))
                count += 1
        await send(self._encoder.snapshot_complete(snapshot.sequence, count, self._heartbeat))

    async def _ended(self, selection: Filter, sequence: int) -> AsyncIterator[Event]:
        """Yields the last events of the matching sandboxes that had ended by a sequence.

        They are read in pages, while others may end. What comes after the sequence is left to the events of the watch.
        """
        search = selection.search(frozenset({Phase.TERMINATED}))
        last: Key | None = None

        def page(reader: store.Reader) -> list[Event]:
            return list(itertools.islice(reader.search(search, last), ENDED_PAGE))

        while found := await self._store.read(page, store.Lane.LISTS):
            for event in found:
                if event.sequence <= sequence:
                    yield event
            last = found[-1].sandbox.key

    async def _reach(self, sequence: int) -> None:
        """Reads the log up to a sequence. Raises `errors.OutOfRange` if the log ends before it."""
        if sequence > self.sequence:
            # Another replica may have sent events that this one is yet to read.
            await self.follow()
        if sequence > self.sequence:
            raise errors.OutOfRange(
                "SEQUENCE_AHEAD", "after_sequence lies past the newest event: open again without it"
            )

    async def _events(self, topic: Topic, cursor: int, send: Send) -> None:
        """Sends the events after `cursor` and the heartbeats of a topic, until the last event of the watch.

        Each `send` waits until the connection takes the message. Meanwhile nothing is queued for the watch: the topic goes
        on and drops its oldest events, and a watch that comes back behind its floor reads them from the history.
        """
        beats = topic.beats
        while not self.closed:
            if cursor < topic.floor:
                reached = await self._catch_up(topic, cursor, send)
                if reached is None:
                    return
                cursor = reached
                continue
            woken = topic.woken
            events = newer(topic.events, cursor)
            cursor = max(cursor, self.sequence)
            if await topic.send(events, send):
                return
            if not events and beats != topic.beats:
                await send(self._encoder.heartbeat(cursor))
            beats = topic.beats
            if cursor >= topic.floor:
                await woken.wait()
        raise _closing()

    async def _catch_up(self, topic: Topic, cursor: int, send: Send) -> int | None:
        """Sends events that the topic no longer has, from the history.

        Returns the sequence that was reached, or None after the last event of the watch.
        """
        with self._history.reader(cursor):
            while cursor < topic.floor:
                beats = topic.beats
                async with self._history.turn() as most:
                    if self.closed:
                        raise _closing()
                    events, cursor = await self._history.matching(topic.filter, cursor, self.sequence, most)
                    sending = await history.begun(topic.send(events, send)) if events else None
                # A slow connection loses its turn before all is sent. It sends the rest outside of any turn.
                if sending is not None:
                    if await sending:
                        return None
                elif beats != topic.beats:
                    await send(self._encoder.heartbeat(cursor))
        return cursor

    def close(self) -> None:
        """Ends all watches and waits with `errors.Unavailable`, so that clients continue at another replica."""
        self.closed = True
        if self._gap is not None:
            self._gap.cancel()
        self._grown.set()
        self._topics.wake()


def _closing() -> errors.Unavailable:
    return errors.Unavailable(
        "SHUTTING_DOWN", "the service is stopping: ask again, a watch with the last sequence seen"
    )
