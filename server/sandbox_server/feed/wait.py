"""A wait for an event of one sandbox: a watch for callers that cannot hold a stream."""

from sandbox_server.feed.feed import Feed
from sandbox_server.feed.topic import Encoded, Filter
from sandbox_server.feed.waits import Remaining, Wait


async def until(feed: Feed, selection: Filter, remaining: Remaining) -> Encoded:
    """Returns the first event after which nothing remains of the wait, beginning with the last event of the sandbox.

    The filter must name one sandbox. A service that stops ends the wait with the last event. Raises `errors.NotFound`.
    """
    while True:
        # Open the wait before the read: it judges every event that comes after it.
        with Wait(feed.waits, selection, remaining) as wait:
            (last,) = (await feed.named(selection)).events
            if feed.closed:
                return last
            wait.judge(last)
            found = await wait.found
        if found is not None:
            return found
