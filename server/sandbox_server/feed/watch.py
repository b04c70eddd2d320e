"""A watch: a snapshot of the sandboxes that its filter matches, and every matching event since, with nothing missing."""

import itertools
from collections.abc import AsyncIterator

from sandbox_server import store
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key
from sandbox_server.feed import history
from sandbox_server.feed.feed import Feed, Snapshot, closing
from sandbox_server.feed.topic import Filter, Send, Topic, newer

ENDED_PAGE = 100
"""Sandboxes that have ended which a snapshot reads at once."""


class Watch:
    """A watch of the sandboxes that a filter matches. `send` takes its messages."""

    __slots__ = ("_answered", "_cursor", "_feed", "_filter", "_send")

    def __init__(self, feed: Feed, selection: Filter, send: Send) -> None:
        self._feed = feed
        self._filter = selection
        self._send = send
        self._cursor = 0
        """The sequence up to which every matching event was sent."""
        self._answered = False
        """Whether the caller was sent a message, and so knows that the watch was accepted."""

    async def run(self, after: int | None, ended: bool = False) -> None:
        """Sends every matching event after `after`; without `after` a snapshot, and every matching event since.

        A watch with `after` that has no event to send begins with a heartbeat. A snapshot has the sandboxes that have ended if the filter names them, and with `ended` all that match.

        Returns after TERMINATED of the only sandbox that the filter names. Raises `errors.NotFound` with all sandboxes
        that are named and missing, `errors.OutOfRange` where history was trimmed or is not reached, and
        `errors.Unavailable` when the service stops.
        """
        # Subscribe before the snapshot: the topic has every event that comes after it.
        with self._feed.subscribed(self._filter) as topic:
            named = await self._feed.named(self._filter) if self._filter.keys else None
            if after is None:
                snapshot = named.matching(self._filter) if named is not None else self._live()
                self._cursor = snapshot.sequence
                await self._send_snapshot(snapshot, ended and named is None)
            else:
                self._cursor = after
            if named is not None and named.ends(self._cursor):
                return
            if after is not None:
                await self._reach(after)
            await self._follow(topic)

    def _live(self) -> Snapshot:
        """Returns the last events of the live sandboxes that the filter matches."""
        return Snapshot(self._feed.sequence, list(self._feed.catalogue.matching(self._filter)))

    async def _send_snapshot(self, snapshot: Snapshot, ended: bool) -> None:
        """Sends a snapshot; with `ended` also the matching sandboxes that had ended by then."""
        encoder = self._feed.encoder
        count = len(snapshot.events)
        for one in snapshot.events:
            await self._send(one.snapshot)
        if ended:
            async for event in self._ended(snapshot.sequence):
                await self._send(encoder.snapshot(event))
                count += 1
        await self._send(encoder.snapshot_complete(snapshot.sequence, count, self._feed.heartbeat))
        self._answered = True

    async def _ended(self, sequence: int) -> AsyncIterator[Event]:
        """Yields the last events of the matching sandboxes that had ended by a sequence.

        They are read in pages, while others may end. What comes after the sequence is left to the events of the watch.
        """
        search = self._filter.search(frozenset({Phase.TERMINATED}))
        last: Key | None = None

        def page(reader: store.Reader) -> list[Event]:
            return list(itertools.islice(reader.search(search, last), ENDED_PAGE))

        while found := await self._feed.store.read(page, store.Lane.LISTS):
            for event in found:
                if event.sequence <= sequence:
                    yield event
            last = found[-1].sandbox.key

    async def _reach(self, sequence: int) -> None:
        """Reads the log up to a sequence. Raises `errors.OutOfRange` if the log ends before it."""
        if sequence > self._feed.sequence:
            # Another replica may have sent events that this one is yet to read.
            await self._feed.follow()
        if sequence > self._feed.sequence:
            raise errors.OutOfRange(
                "SEQUENCE_AHEAD", "after_sequence lies past the newest event: open again without it"
            )

    async def _follow(self, topic: Topic) -> None:
        """Sends the events after the cursor and the heartbeats of a topic, until the last event of the watch.

        Each `send` waits until the connection takes the message. Meanwhile nothing is queued for the watch: the topic goes
        on and drops its oldest events, and a watch that comes back behind its floor reads them from the history.
        """
        feed = self._feed
        beats = topic.beats
        while not feed.closed:
            if self._cursor < topic.floor:
                if await self._catch_up(topic):
                    return
                continue
            woken = topic.woken
            events = newer(topic.events, self._cursor)
            self._cursor = max(self._cursor, feed.sequence)
            if await topic.send(events, self._send):
                return
            if not events and (beats != topic.beats or not self._answered):
                await self._send(feed.encoder.heartbeat(self._cursor))
            self._answered = True
            beats = topic.beats
            if self._cursor >= topic.floor:
                await woken.wait()
        raise closing()

    async def _catch_up(self, topic: Topic) -> bool:
        """Sends events that the topic no longer has, from the history. Returns whether the last event of the watch is sent."""
        feed = self._feed
        with feed.history.reader(self._cursor):
            while self._cursor < topic.floor:
                beats = topic.beats
                async with feed.history.turn() as most:
                    if feed.closed:
                        raise closing()
                    found = await feed.history.matching(self._filter, self._cursor, feed.sequence, most)
                    events, self._cursor = found
                    sending = await history.begun(topic.send(events, self._send)) if events else None
                # A slow connection loses its turn before all is sent. It sends the rest outside of any turn.
                if sending is not None:
                    if await sending:
                        return True
                elif beats != topic.beats or not self._answered:
                    await self._send(feed.encoder.heartbeat(self._cursor))
                self._answered = True
        return False
