"""The log's reader on this replica."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence

import structlog

from sandbox_server import store
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.feed import history
from sandbox_server.feed.live import Live
from sandbox_server.feed.topic import Encoded, Encoder, Filter, Send, Topic, newer

RECENT = 4096
"""Events kept in memory for those who resume: some seconds of a busy service, about 8 MB."""
PAGE = 500
AGAIN = 0.5
"""Seconds until a log that could not be read is read again."""
TICK = 0.01
"""Seconds: the shortest sleep between two rounds of heartbeats."""
EARLY = 0.9
"""The part of the heartbeat period after which a topic has its next heartbeat, so that a watcher has it in time."""
ROUNDS = 50
"""Rounds of heartbeats in a period: topics that are due in the same round have their heartbeats together."""

log = structlog.get_logger()


class Feed:
    """See the package. All methods belong to the event loop."""

    def __init__(self, store: store.Store, encoder: Encoder, heartbeat: float) -> None:
        """`heartbeat`: seconds that a stream is silent at most."""
        self.sequence = 0
        self._store = store
        self._encoder = encoder
        self._history = history.History(store, encoder, RECENT)
        self._heartbeat = heartbeat
        self._live = Live()
        self._topics: dict[Filter, Topic] = {}
        self._topics_by_subject: dict[Key | str, set[Topic]] = {}
        self._grown = asyncio.Event()
        self._listeners: list[Callable[[Event], None]] = []
        self._closed = False
        self._published = 0
        """The newest sequence of which this replica knows that the log has it."""
        self._gap: asyncio.Task[None] | None = None
        self._following = asyncio.Lock()

    def load(self, sequence: int, live: Sequence[Event]) -> None:
        """Begins at `sequence` with the last events of the sandboxes that are not TERMINATED."""
        self.sequence = sequence
        self._live = Live(self.encoded(one) for one in live)

    def on_event(self, listener: Callable[[Event], None]) -> None:
        """`listener` is called with every event, after the feed has it."""
        self._listeners.append(listener)

    def get(self, key: Key) -> Encoded | None:
        """The last event of a live sandbox; None if the sandbox is unknown or TERMINATED."""
        return self._live.get(key)

    def encoded(self, event: Event) -> Encoded:
        """An event that is not in memory, with its messages."""
        return Encoded(event, self._encoder)

    def matching(self, selection: Filter, after: Key | None = None) -> Iterator[Encoded]:
        """The last events of the live sandboxes that a filter matches, in the order of their keys, after `after`."""
        return self._live.matching(selection, after)

    def live(self, after: Key | None = None) -> Iterator[Sandbox]:
        """The live sandboxes of all tenants in the order of their keys, after `after`."""
        return (one.event.sandbox for one in self._live.all(after))

    def publish(self, committed: Sequence[Event]) -> None:
        """Takes the events of a commit, in order.

        Where events before them are missing, another replica's or those of a commit whose outcome was lost, the log is
        read at once.
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
        """Reads what the log has after this replica's sequence."""
        # One at a time: what the first has read, the others need not read again.
        async with self._following:
            try:
                while page := await self._store.events(self.sequence, PAGE):
                    # A commit may have been published meanwhile.
                    self._take([one for one in page if one.sequence > self.sequence])
            except errors.OutOfRange:
                await self._reload()

    def _take(self, following: Sequence[Event]) -> None:
        """Takes the events that follow in the log, in order."""
        woken: set[Topic] = set()
        for event in following:
            woken |= self._append(event)
        for topic in woken:
            topic.wake()
        self._grow()

    def _grow(self) -> None:
        """Has all look again who wait for a sequence."""
        self._grown.set()
        self._grown = asyncio.Event()

    async def _close_gap(self) -> None:
        while self.sequence < self._published and not self._closed:
            try:
                await self.follow()
            except Exception as error:
                log.warning("log_not_read", error=type(error).__name__, message=str(error))
            if self.sequence < self._published:
                await asyncio.sleep(AGAIN)

    async def _reload(self) -> None:
        """Takes the live sandboxes anew, where the log no longer has what this replica missed.

        A watch that has not seen all of what is gone ends as one that resumes too late.
        """
        sequence, live = await self._store.load()
        if sequence <= self.sequence:
            return
        self.load(sequence, live)
        self._history.forget()
        for topic in self._topics.values():
            topic.skip(sequence)
        for event in live:
            for listener in self._listeners:
                listener(event)
        self._grow()

    def _append(self, event: Event) -> set[Topic]:
        """Takes the next event of the log; returns the topics that have it."""
        encoded = self.encoded(event)
        sandbox = event.sandbox
        self.sequence = event.sequence
        self._history.append(encoded)
        self._live.take(encoded)
        by_subject = self._topics_by_subject
        candidates = by_subject.get(sandbox.key, set()) | by_subject.get(sandbox.tenant, set())
        matching = {topic for topic in candidates if topic.filter.matches(sandbox)}
        for topic in matching:
            topic.append(encoded)
        for listener in self._listeners:
            listener(event)
        return matching

    async def arrived(self, sequence: int) -> None:
        """Returns when this replica has seen `sequence`. Raises `errors.Unavailable` when the service stops."""
        while sequence > self.sequence:
            if self._closed:
                raise _closing()
            await self._grown.wait()

    async def watch(self, selection: Filter, snapshot: Sequence[Encoded] | None, after: int, send: Send) -> None:
        """Sends a snapshot, if given, and every matching event after `after`; returns after TERMINATED on one key.

        `snapshot` must have been taken in the same turn of the loop. Raises `errors.OutOfRange` where history was
        trimmed or is not reached, and `errors.Unavailable` when the service stops.
        """
        if after > self.sequence:
            # Another replica may have sent events that this one is yet to read.
            await self.follow()
        if after > self.sequence:
            raise errors.OutOfRange(
                "SEQUENCE_AHEAD", "after_sequence lies past the newest event: open again without it"
            )
        with self._subscribed(selection) as topic:
            if snapshot is not None:
                for one in snapshot:
                    await send(one.message)
                await send(self._encoder.snapshot_complete(after, len(snapshot), self._heartbeat))
                if len(selection.keys) == 1 and any(one.event.terminated for one in snapshot):
                    return
            await self._events(topic, after, send)

    async def _events(self, topic: Topic, cursor: int, send: Send) -> None:
        beats = topic.beats
        while not self._closed:
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
        """Sends what the topic no longer has; returns the sequence reached, or None after the last event of a watch."""
        with self._history.reader(cursor):
            while cursor < topic.floor:
                beats = topic.beats
                async with self._history.turn() as most:
                    if self._closed:
                        raise _closing()
                    events, cursor = await self._history.matching(topic.filter, cursor, self.sequence, most)
                    sending = await history.begun(topic.send(events, send)) if events else None
                if sending is not None:
                    if await sending:
                        return None
                elif beats != topic.beats:
                    await send(self._encoder.heartbeat(cursor))
        return cursor

    @contextlib.contextmanager
    def _subscribed(self, selection: Filter) -> Iterator[Topic]:
        """The topic of a filter, which lasts while somebody reads it."""
        topic = self._topics.get(selection)
        if topic is None:
            # Topics that begin at once have their heartbeats spread over half of the period.
            first = self._heartbeat * EARLY * random.uniform(0.5, 1)
            topic = self._topics[selection] = Topic(selection, self.sequence, time.monotonic() + first)
            for subject in topic.subjects:
                self._topics_by_subject.setdefault(subject, set()).add(topic)
        topic.readers += 1
        try:
            yield topic
        finally:
            topic.readers -= 1
            if not topic.readers:
                del self._topics[selection]
                for subject in topic.subjects:
                    self._topics_by_subject[subject].discard(topic)
                    if not self._topics_by_subject[subject]:
                        del self._topics_by_subject[subject]

    async def beat(self) -> None:
        """Gives every topic a heartbeat before a period has passed since its begin or its last one; runs for ever."""
        pause = max(TICK, self._heartbeat / ROUNDS)
        while True:
            now = time.monotonic()
            for topic in list(self._topics.values()):
                if topic.due <= now + pause:
                    topic.due = now + self._heartbeat * EARLY
                    topic.beats += 1
                    topic.wake()
            await asyncio.sleep(pause)

    def close(self) -> None:
        """Ends all that waits with `errors.Unavailable`, so that the client goes on elsewhere."""
        self._closed = True
        if self._gap is not None:
            self._gap.cancel()
        self._grown.set()
        for topic in self._topics.values():
            topic.wake()


def _closing() -> errors.Unavailable:
    return errors.Unavailable(
        "SHUTTING_DOWN", "the service is stopping: ask again, a watch with the last sequence seen"
    )
