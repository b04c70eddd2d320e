"""The log for watches that are behind: they read it in pages, and in turns.

The newest events are in memory, all others in the store. Watches of the same scope, such as a tenant, share a page wherever
it covers their place; after the first page they are at the same place. One watch at a time has a turn, so that any other
call waits for one turn at most. The next turn of a watch comes after those of all others.
"""

import asyncio
import bisect
import collections
import contextlib
import itertools
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass

from sandbox_server import store
from sandbox_server.domain import errors
from sandbox_server.domain.tenant import ANY
from sandbox_server.feed.topic import Encoded, Encoder, Filter, newer

PAGE = 100
"""Events that are read at once."""
AT_ONCE = 4
"""Events that are made at once, in about 0.05 ms: a fifth of what a read of one status takes."""
PAGES = 128
"""Pages kept in memory: about 20 MB."""
PAGES_A_TURN = 16
"""Pages that a watch looks through in a turn."""
READERS_MOST = 1000
"""Watches that may be behind at the same time."""
TURN = 0.02
"""Seconds of a turn. A client that does not read loses its turn after that, and has the next one once it has read."""
SENT_MOST = 100_000
"""Messages sent until each waiting watch has had a turn. That takes some seconds: less than a heartbeat period."""


_Place = tuple[store.Scope, int]
"""What a page is of, and the sequence after which it begins."""


@dataclass(frozen=True, eq=False)
class Page:
    """All events of a scope, or of all sandboxes, after `after` and up to `until`."""

    after: int
    until: int
    events: Sequence[Encoded]

    def matching(self, selection: Filter, cursor: int) -> list[Encoded]:
        """Returns the events after `cursor` that a filter matches."""
        events = newer(self.events, cursor) if cursor > self.after else self.events
        return [one for one in events if selection.matches(one.event.sandbox)]


class History:
    """The log, page by page."""

    def __init__(self, store: store.Store, encoder: Encoder, recent: int) -> None:
        """`recent` is the number of events that are kept in memory."""
        self._recent = collections.deque[Encoded](maxlen=recent)
        self._store = store
        self._encoder = encoder
        self._pages = collections.OrderedDict[_Place, Page]()
        """By their beginning; the most recently used page is the last."""
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._readers = 0

    def append(self, encoded: Encoded) -> None:
        """Takes the next event of the log."""
        self._recent.append(encoded)

    def forget(self) -> None:
        """Forgets the events in memory, because some between them and the next event are missing."""
        self._recent.clear()

    def _remembers(self, cursor: int) -> bool:
        """Returns whether memory has all events after a sequence."""
        return bool(self._recent) and self._recent[0].event.sequence <= cursor + 1

    @contextlib.contextmanager
    def reader(self, cursor: int) -> Iterator[None]:
        """Counts a watch that has to read the store. Raises `errors.Unavailable` if too many have to."""
        if self._remembers(cursor):
            yield
            return
        if self._readers >= READERS_MOST:
            message = "too many watches catch up at once: open again later with the last sequence seen"
            raise errors.Unavailable("TOO_FAR_BEHIND", message)
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[int]:
        """Waits for a turn; yields the number of messages that may be sent in it."""
        self._waiting += 1
        try:
            async with self._turn:
                yield max(1, min(PAGE, SENT_MOST // self._waiting))
        finally:
            self._waiting -= 1

    async def matching(self, selection: Filter, cursor: int, stands: int, most: int) -> tuple[list[Encoded], int]:
        """Returns at most `most` matching events after `cursor`, and the sequence up to which none is missing.

        The caller must have the turn. `stands` is the end of the log, past `cursor`. Raises `errors.OutOfRange` if the
        history was trimmed.
        """
        found: list[Encoded] = []
        for _ in range(PAGES_A_TURN):
            page = self._recent_page(cursor, stands) or await self._page(selection, cursor, stands)
            found += page.matching(selection, cursor)
            cursor = page.until
            if len(found) > most:
                del found[most:]
                return found, found[-1].event.sequence
            if cursor >= stands:
                break
        return found, cursor

    def _recent_page(self, cursor: int, stands: int) -> Page | None:
        if not self._remembers(cursor):
            return None
        begin = bisect.bisect_right(self._recent, cursor, key=lambda one: one.event.sequence)
        events = list(itertools.islice(self._recent, begin, begin + PAGE))
        return Page(cursor, _reached(events, stands), events)

    async def _page(self, selection: Filter, cursor: int, stands: int) -> Page:
        scope = store.Scope(selection.only_tenant)
        if selection.keys:
            scope = store.Scope(selection.only_tenant, selection.keys)
        elif selection.only_tenant != ANY:
            scope = store.Scope(selection.only_tenant, project=selection.project)
        elif selection.namespace:
            scope = store.Scope(ANY, namespace=selection.namespace)
        if (found := self._known(scope, cursor)) is not None:
            return found
        events = []
        for event in await self._store.history(scope, cursor, stands, PAGE):
            events.append(Encoded(event, self._encoder))
            if len(events) % AT_ONCE == 0:
                # Other calls go on between.
                await asyncio.sleep(0)
        made = self._pages[scope, cursor] = Page(cursor, _reached(events, stands), events)
        if len(self._pages) > PAGES:
            self._pages.popitem(last=False)
        return made

    def _known(self, scope: store.Scope, cursor: int) -> Page | None:
        found = self._pages.get((scope, cursor))
        if found is None:
            # Look for a page that covers the place: the watch has just begun, or could not send all of a page.
            covering = (page for of, page in self._pages.items() if page.after < cursor < page.until and of[0] == scope)
            found = next(covering, None)
        if found is not None:
            self._pages.move_to_end((scope, found.after))
        return found


def _reached(events: Sequence[Encoded], stands: int) -> int:
    """Returns the sequence up to which a page is complete. A page that is not full reaches the end of the log."""
    return events[-1].event.sequence if len(events) == PAGE else stands


async def begun(sending: Coroutine[None, None, bool]) -> asyncio.Task[bool]:
    """Begins to send. Returns when all is sent or the turn is over."""
    task = asyncio.create_task(sending)
    try:
        await asyncio.wait((task,), timeout=TURN)
    except asyncio.CancelledError:
        task.cancel()
        raise
    return task
