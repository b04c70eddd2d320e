"""A wait for an event of one sandbox: a watch for callers that cannot hold a stream.

It reads the topic of its filter, as a watch does, and so costs nothing while nothing happens. It wants the present status,
and not every event: where the topic has lost events, it reads the last one again instead of the history.
"""

import asyncio
import contextlib
from collections.abc import Callable

from sandbox_server.domain.event import Event
from sandbox_server.feed.feed import Feed
from sandbox_server.feed.topic import Encoded, Filter, newer


async def until(feed: Feed, selection: Filter, remaining: Callable[[Event], float]) -> Encoded:
    """Returns the first event after which nothing remains of the wait, beginning with the last event of the sandbox.

    The filter must name one sandbox. `remaining` returns the seconds that the wait goes on after an event if no other
    follows; 0 or less ends it. A service that stops ends it too. Raises `errors.NotFound`.
    """
    # Subscribe before the read: the topic has every event that comes after it.
    with feed.subscribed(selection) as topic:
        last, cursor = await _last(feed, selection)
        while True:
            if cursor < topic.floor:
                last, cursor = await _last(feed, selection)
            for one in (last, *newer(topic.events, cursor)):
                last = one
                seconds = remaining(one.event)
                if seconds <= 0:
                    return one
            cursor = max(cursor, last.event.sequence)
            if feed.closed:
                return last
            woken = topic.woken
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await woken.wait()


async def _last(feed: Feed, selection: Filter) -> tuple[Encoded, int]:
    """Returns the last event of the sandbox, and the sequence up to which there is no later one."""
    snapshot = await feed.named(selection)
    (last,) = snapshot.events
    return last, snapshot.sequence
