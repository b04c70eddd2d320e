"""A list and a watch of one kind of object, which keep a cache true: what is remembered is what the API server shows.

Every way for a watch to end leads back to the one loop in `run`: watch on from the last version, or list anew where that
version is gone or in doubt. A list replaces all that was remembered, so whatever a watch missed is learned then.

A watch from a version that is yet to come says nothing, so silence is doubt, and so is an API server that was away, or the
answer to a write with a version that has passed (see `cache`). And every now and then there is a list without any doubt.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import aiohttp
import structlog

from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import client
from sandbox_server.engines.kubernetes.cache import Cache, Entry
from sandbox_server.engines.kubernetes.contact import Contact
from sandbox_server.engines.kubernetes.objects import EVENT, OBJECT, PAGE, Event, Page

log = structlog.get_logger()

PAGE_SIZE = "500"
EARLY = 0.75
"""A list comes after this share of `Pace.resync` at the soonest, by chance, so that not all come at once."""


class Informer:
    """Keeps `cache` true to the objects at `path` that `selector`, query parameters, chooses."""

    def __init__(
        self,
        api: client.Client,
        path: str,
        selector: Mapping[str, str],
        cache: Cache[object],
        pace: Pace,
        examine: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`examine` looks at the namespace, whose end would explain a refusal, before the refusal is shown."""
        self.contact = Contact(pace)
        self._api = api
        self._path = path
        self._selector = selector
        self._cache = cache
        self._pace = pace
        self._examine = examine
        # By the monotonic clock; None: now.
        self._list_at: float | None = None
        self._reading: asyncio.Timeout | None = None
        self._logged_at: float | None = None

    def list_anew(self) -> None:
        """Ends the present watch for a list."""
        self._list_at = None
        if self._reading is not None and not self._reading.expired():
            self._reading.reschedule(asyncio.get_running_loop().time())

    # Retry: list when it is time to, and watch in between. Whatever fails is tried again after longer and longer delays.

    async def run(self) -> None:
        """Lists and watches until it is cancelled."""
        while True:
            try:
                if self._until_list() <= 0:
                    await self._list()
                else:
                    await self._watch()
            except Exception as error:
                await self._back_off(error)

    def _until_list(self) -> float:
        """Returns the seconds until it is time to list, none if it is."""
        return 0.0 if self._list_at is None else max(0.0, self._list_at - time.monotonic())

    async def _back_off(self, error: Exception) -> None:
        self.contact.failed()
        if self._examine is not None and isinstance(error, engines.Refused):
            await self._examine()
        self.contact.explain(error)
        if isinstance(error, client.Gone | client.Silent | client.Away):
            self._list_at = None
        if not isinstance(error, client.Gone | client.Silent):
            self._log(error)
        await asyncio.sleep(self.contact.delay(error))

    def _log(self, error: Exception) -> None:
        """Logs what is no single failure, and whatever is no failure of the API server, once in a while."""
        foreseen = isinstance(error, engines.Refused | engines.Unreachable)
        now = time.monotonic()
        quiet = self._logged_at is not None and now - self._logged_at < self._pace.log_every
        if quiet or (foreseen and self.contact.failures == 1):
            return
        self._logged_at = now
        log.warning("watch_failing", path=self._path, message=str(error)[:300], exc_info=not foreseen)

    # List: read every page, and only then replace what is remembered. A page that fails leaves everything as it was.

    async def _list(self) -> None:
        newest = self._cache.newest
        entries: list[tuple[str, Entry[object]]] = []
        version = 0
        async for page in self._pages():
            entries += map(self._cache.read, page.objects)
            version = int(page.metadata.resourceVersion)
        self._cache.listed(entries, version, newest)
        self._list_at = time.monotonic() + self._pace.resync * random.uniform(EARLY, 1.0)
        self.contact.listed = True
        self.contact.answered()

    async def _pages(self) -> AsyncIterator[Page]:
        """Yields the pages of one list, which all show one version."""
        parameters = {**self._selector, "limit": PAGE_SIZE}
        while True:
            async with self._api.call("GET", self._path, parameters=parameters) as response:
                page = PAGE.decode(await response.read())
            yield page
            if not page.metadata.continue_:
                return
            parameters["continue"] = page.metadata.continue_

    # Watch: take every event until the API server ends the watch, as it does every few minutes, or it is time to list.

    async def _watch(self) -> None:
        parameters = {
            **self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(self._cache.version),
            "timeoutSeconds": str(math.ceil(self._pace.watch_most * random.uniform(0.5, 1.0))),
        }
        async with self._api.call("GET", self._path, parameters=parameters, watch=True) as response:
            began = time.monotonic()
            self.contact.answered()
            try:
                await self._read(response)
            finally:
                lasted = time.monotonic() - began >= self._pace.watch_lasting
                if lasted:
                    self.contact.lasted()
        if not lasted and self._until_list() > 0:
            raise engines.Unreachable(f"watch {self._path}: ended at once")

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        """Takes the events of one watch until its answer ends or it is time to list."""
        self._reading = deadline = asyncio.timeout(self._until_list())
        try:
            async with deadline:
                async for event in self._events(response):
                    self._take(event)
        except TimeoutError:
            if not deadline.expired():
                raise
            self._list_at = None
        finally:
            self._reading = None

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
        """Yields the events of one watch, each a line of its answer."""
        rest = b""
        while chunk := await response.content.readany():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line:
                    yield EVENT.decode(line)

    def _take(self, event: Event) -> None:
        if event.type == "ERROR":
            raise client.failure(f"watch {self._path}", event.object)
        found = OBJECT.decode(event.object)
        match event.type:
            case "DELETED":
                self._cache.removed(found)
            case "BOOKMARK":
                self._cache.passed(found)
            case _:
                self._cache.shown(found)
