"""The topics that are read, and their heartbeats."""

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator

from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.tenant import ANY
from sandbox_server.feed.topic import Encoded, Filter, Topic

TICK = 0.01
"""Seconds: the shortest sleep between two rounds of heartbeats."""
EARLY = 0.9
"""The part of the heartbeat period after which a topic has its next heartbeat: watchers must have it in time."""
ROUNDS = 50
"""Rounds of heartbeats in a period. Topics that are due in the same round have their heartbeats together."""


class Topics:
    """One topic for each filter that has readers."""

    def __init__(self, heartbeat: float) -> None:
        """`heartbeat` is the longest silence of a topic in seconds."""
        self._heartbeat = heartbeat
        self._topics: dict[Filter, Topic] = {}
        self._topics_by_subject: dict[Key | str, set[Topic]] = {}

    @contextlib.contextmanager
    def subscribed(self, selection: Filter, sequence: int) -> Iterator[Topic]:
        """Yields the topic of a filter, which exists while it has readers. A new topic begins after `sequence`."""
        topic = self._topics.get(selection)
        if topic is None:
            # The heartbeats of topics that begin at the same time are spread over half of the period.
            first = self._heartbeat * EARLY * random.uniform(0.5, 1)
            topic = self._topics[selection] = Topic(selection, sequence, time.monotonic() + first)
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

    def append(self, encoded: Encoded) -> set[Topic]:
        """Gives the next event of the log to the topics whose filter matches; returns these, which are to be woken."""
        sandbox = encoded.event.sandbox
        by_subject = self._topics_by_subject
        subjects = (sandbox.key, sandbox.tenant, ANY)
        candidates = set[Topic]().union(*(by_subject.get(one, ()) for one in subjects))
        matching = {topic for topic in candidates if topic.filter.matches(sandbox)}
        for topic in matching:
            topic.append(encoded)
        return matching

    def skip(self, sequence: int) -> None:
        """Restarts every topic at a sequence."""
        for topic in self._topics.values():
            topic.skip(sequence)

    def wake(self) -> None:
        """Wakes the watchers of every topic."""
        for topic in self._topics.values():
            topic.wake()

    async def beat(self) -> None:
        """Gives every topic a heartbeat before a period has passed since its beginning or its last heartbeat.

        Runs until it is cancelled.
        """
        pause = max(TICK, self._heartbeat / ROUNDS)
        while True:
            now = time.monotonic()
            for topic in list(self._topics.values()):
                if topic.due <= now + pause:
                    topic.due = now + self._heartbeat * EARLY
                    topic.beats += 1
                    topic.wake()
            await asyncio.sleep(pause)
