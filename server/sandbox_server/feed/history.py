"""What watches read that are behind: pages of the log, and turns in which they are read and sent.

The newest events are in memory, all others in the store. Watches of the same tenant, or of the same sandboxes, share a
page wherever it covers their place: the first read aligns those that begin at different places. One watch has its turn at
a time, so that all other calls wait for one of them at most, and has its next turn after all others had theirs.
"""

import asyncio
import bisect
import collections
import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass

from sandbox_server import store
from sandbox_server.domain import errors
from sandbox_server.domain.sandbox import Key
from sandbox_server.feed.topic import Encoded, Encoder, Filter, newer

PAGE = 100
"""Events that are read at once."""
PAGES = 128
"""Pages kept: about 20 MB."""
PAGES_A_TURN = 16
READERS_MOST = 1000
"""Watches that may read the history at once."""
TURN = 0.02
"""Seconds of a turn: a caller that does not read loses it then, and has another only after it has read."""
SENT_MOST = 100_000
"""Messages that all who wait for a turn may send before each comes again: some seconds, less than a heartbeat period."""


_Place = tuple[str, frozenset[Key], int]
"""A tenant, some of its sandboxes or none for all, and a sequence."""


@dataclass(frozen=True, eq=False)
class Page:
    """All events of some sandboxes after `after` and up to `until`."""

    after: int
    until: int
    events: Sequence[Encoded]

    @functools.cached_property
    def _of_project(self) -> dict[str, list[Encoded]]:
        found = collections.defaultdict(list)
        for one in self.events:
            found[one.event.sandbox.spec.project].append(one)
        return found

    def matching(self, selection: Filter, cursor: int) -> list[Encoded]:
        """The events after `cursor` that a filter matches."""
        events = self._of_project.get(selection.project, ()) if selection.project else self.events
        if cursor > self.after:
            events = newer(events, cursor)
        return [one for one in events if selection.matches(one.event.sandbox)]


class History:
    """The log, page by page."""

    def __init__(self, store: store.Store, encoder: Encoder, recent: int) -> None:
        """`recent`: how many events are kept in memory."""
        self._recent = collections.deque[Encoded](maxlen=recent)
        self._store = store
        self._encoder = encoder
        self._pages = collections.OrderedDict[_Place, Page]()
        """By where they begin; the last that was used is the last."""
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._readers = 0

    def append(self, encoded: Encoded) -> None:
        """Takes the next event of the log."""
        self._recent.append(encoded)

    def forget(self) -> None:
        """Leaves all events to the store: there are some that memory does not have."""
        self._recent.clear()

    def _remembers(self, cursor: int) -> bool:
        """Whether memory has all events after a sequence."""
        return bool(self._recent) and self._recent[0].event.sequence <= cursor + 1

    @contextlib.contextmanager
    def reader(self, cursor: int) -> Iterator[None]:
        """Counts a watch that has to read the store. Raises `errors.Unavailable` where too many do."""
        if self._remembers(cursor):
            yield
            return
        if self._readers >= READERS_MOST:
            said = "too many watches catch up at once: open again later with the last sequence seen"
            raise errors.Unavailable("TOO_FAR_BEHIND", said)
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
        """At most `most` matching events after `cursor`, and the sequence up to which they are all.

        Only whoever has the turn may ask. `stands`: where the log stands, past `cursor`. Raises `errors.OutOfRange`
        where the history was trimmed.
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
        place = (selection.tenant.name, selection.keys, cursor)
        if (found := self._known(place)) is not None:
            return found
        scope = store.Scope(selection.tenant.name, selection.keys)
        events = [Encoded(one, self._encoder) for one in await self._store.history(scope, cursor, stands, PAGE)]
        made = self._pages[place] = Page(cursor, _reached(events, stands), events)
        if len(self._pages) > PAGES:
            self._pages.popitem(last=False)
        return made

    def _known(self, place: _Place) -> Page | None:
        if (found := self._pages.get(place)) is None:
            # Within a page: of a watch that begins, or that had too much to send at once.
            tenant, keys, cursor = place
            for one, page in self._pages.items():
                if one[2] < cursor < page.until and one[0] == tenant and one[1] == keys:
                    place, found = one, page
                    break
        if found is not None:
            self._pages.move_to_end(place)
        return found


def _reached(events: Sequence[Encoded], stands: int) -> int:
    """The sequence up to which a page has everything: one that is not full has all there is."""
    return events[-1].event.sequence if len(events) == PAGE else stands


async def begun(sending: Coroutine[None, None, bool]) -> asyncio.Task[bool]:
    """Begins to send, and returns when that has ended or a turn is over."""
    task = asyncio.create_task(sending)
    try:
        await asyncio.wait((task,), timeout=TURN)
    except asyncio.CancelledError:
        task.cancel()
        raise
    return task
