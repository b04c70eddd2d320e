"""A list and a watch of one kind of object, kept true: what is remembered is what the API server shows.

Every way for a watch to end leads back to the one loop: watch on from the last version, or list anew where that is gone
or in doubt. A list replaces all that was remembered, so whatever a watch missed is told then.

Versions go backwards where etcd is restored from a backup, or where a cluster is made anew behind the same address. A watch
from a version that is yet to come says nothing, so that silence is doubt, as is the answer to a write with a version that
has passed; and every now and then there is a list without any doubt.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import structlog

from sandbox_server import engines
from sandbox_server.domain.observed import Fault
from sandbox_server.engines.kubernetes import client, observe
from sandbox_server.engines.kubernetes.objects import EVENT, OBJECT, PAGE, Object

log = structlog.get_logger()

T = TypeVar("T")
PAGE_SIZE = "500"
WATCH_SECONDS = 240
BACKOFF_FIRST, BACKOFF_MOST = 0.2, 10.0
BLIND_AFTER = 3.0
"""Seconds without the API server after which what is remembered is called stale."""
LASTING = 1.0
"""Seconds; a watch that ended before failed."""
LOG_EVERY = 60.0
EARLY = 0.75
"""A list comes after this share of `relist` at the soonest, by chance, so that not all come at once."""


class _Known(NamedTuple, Generic[T]):
    version: int
    uid: str
    sandbox: str
    value: T


@dataclass(eq=False)
class Informer(Generic[T]):
    """Remembers what `value` makes of each object, and calls `changed` with the id of the sandbox whose it is.

    `selector`: the parameters that choose the objects. `relist`: seconds after which it lists anew at the latest.
    """

    api: client.Client
    path: str
    selector: dict[str, str]
    value: Callable[[Object], T]
    changed: Callable[[str], None]
    relist: float
    rewound: Callable[[], None]
    """Called when versions went backwards: what other informers of the cluster remember is in doubt as well."""
    examine: Callable[[], Awaitable[None]] | None = None
    """Looks at the namespace, whose end would explain a refusal, before the refusal is shown."""

    refused: Fault | None = None
    """Why the API server showed nothing when it was last asked, if it said no."""

    emptied: bool = False
    """Whether the last object that was remembered has been removed, and none has come since."""

    _known: dict[str, _Known[T]] = field(default_factory=dict)
    _version: int = 0
    _list_at: float = -math.inf
    """When to list anew, by the monotonic clock."""
    _watching: asyncio.Timeout | None = None
    """Ends the present watch when it is time to list."""
    _failing_since: float | None = -math.inf
    """When the API server stopped answering; None while it does. Before the first list it never has."""
    _busy_since: float | None = None
    """Since when the API server has answered "not now" and never showed anything."""
    _failures: int = 0
    _logged: float = -math.inf

    def get(self, name: str) -> T | None:
        """What is remembered by `name`."""
        found = self._known.get(name)
        return found and found.value

    def uid(self, name: str) -> str:
        """The uid of the object that is remembered by `name`; empty if there is none."""
        found = self._known.get(name)
        return found.uid if found else ""

    @property
    def version(self) -> int:
        """The version up to which it has heard of all objects."""
        return self._version

    def forget(self, name: str) -> None:
        """Remembers nothing by `name`, without a watch that would tell of its removal."""
        self._known.pop(name, None)

    def position(self, name: str) -> int:
        """The version below which no answer to a write of the object `name` can be, as far as is known now."""
        found = self._known.get(name)
        return found.version if found else self._version

    def answered(self, item: Object, position: int) -> None:
        """Takes what the API server answered to a write, ahead of the watch. `position`: the object's before the write."""
        name, fresh = self._read(item)
        if fresh.version < position:
            # What is remembered is of another history of the cluster.
            self._known.pop(name, None)
            self.rewound()
        self.put(item)

    def list_anew(self) -> None:
        """Ends the present watch for a list."""
        self._list_at = -math.inf
        if self._watching is not None and not self._watching.expired():
            self._watching.reschedule(asyncio.get_running_loop().time())

    @property
    def listed(self) -> bool:
        """Whether it has ever listed, so that what is not remembered was not there then."""
        return self._failing_since != -math.inf

    @property
    def in_sight(self) -> bool:
        """Whether it has listed, and the API server answers or has not answered for a moment only."""
        return self._failing_since is None or time.monotonic() - self._failing_since < BLIND_AFTER

    async def run(self) -> None:
        """Lists and watches until it is cancelled."""
        while True:
            try:
                if (left := self._list_at - time.monotonic()) <= 0:
                    await self._list()
                    continue
                async with asyncio.timeout(left) as self._watching:
                    try:
                        await self._watch()
                    finally:
                        self._watching = None
            except TimeoutError:
                self._list_at = -math.inf
            except Exception as error:
                await self._back_off(error)

    async def _back_off(self, error: Exception) -> None:
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        self._failures += 1
        if self.examine and isinstance(error, engines.Refused):
            await self.examine()
        self.refused = self._fault(error, now)
        foreseen = isinstance(error, engines.Refused | engines.Unreachable)
        if isinstance(error, client.Gone | client.Silent):
            self._list_at = -math.inf
        elif (self._failures > 1 or not foreseen) and now - self._logged >= LOG_EVERY:
            self._logged = now
            log.warning("watch_failing", path=self.path, message=str(error)[:300], exc_info=not foreseen)
        delay = min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(self._failures - 1, 10)) * random.uniform(0.5, 1.0)
        await asyncio.sleep(max(delay, getattr(error, "retry_after", 0.0)))

    def _fault(self, error: Exception, now: float) -> Fault | None:
        """What is said of `error`. That there is no answer says nothing."""
        if isinstance(error, client.Gone) or not isinstance(error, engines.Busy):
            self._busy_since = None
            return error.fault if isinstance(error, engines.Refused) else None
        self._busy_since = self._busy_since or now
        return None if error.passing_for(now - self._busy_since) else error.fault

    async def _list(self) -> None:
        parameters = self.selector | {"limit": PAGE_SIZE}
        newest = max((self._version, *(one.version for one in self._known.values())))
        read: list[tuple[str, _Known[T]]] = []
        while True:
            async with self.api.call("GET", self.path, parameters=parameters) as response:
                page = PAGE.decode(await response.read())
            read += map(self._read, page.objects)
            if not page.metadata.continue_:
                break
            parameters["continue"] = page.metadata.continue_
        before, self._version = self._known, int(page.metadata.resourceVersion)
        newer: list[tuple[str, _Known[T]]] = []
        if self._version < newest:
            log.warning("versions_went_backwards", path=self.path, heard=newest, listed=self._version)
            self.rewound()
        else:
            # What was written by us while the list was under way is newer than it.
            newer = [(name, one) for name, one in before.items() if one.version > self._version]
        self._known = dict(sorted(read + newer, key=lambda one: one[1].version))
        self.emptied = not self._known and (self.emptied or bool(before))
        self._list_at = time.monotonic() + self.relist * random.uniform(EARLY, 1.0)
        self._failing_since = self._busy_since = self.refused = None
        for name, one in (before | self._known).items():
            if name not in before or name not in self._known or before[name].value != one.value:
                self.changed(one.sandbox)

    async def _watch(self) -> None:
        parameters = self.selector | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(self._version),
            "timeoutSeconds": str(random.randint(WATCH_SECONDS // 2, WATCH_SECONDS)),
        }
        async with self.api.call("GET", self.path, parameters=parameters, watch=True) as response:
            began, rest = time.monotonic(), b""
            self._failing_since = self._busy_since = self.refused = None
            try:
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in filter(None, lines):
                        self._hear(line)
            finally:
                # One that did not last is no reason to come again at once, however well it began.
                lasted = time.monotonic() - began >= LASTING
                self._failures = 0 if lasted else self._failures
        if not lasted:
            raise engines.Unreachable(f"watch {self.path}: ended at once")

    def _hear(self, line: bytes) -> None:
        event = EVENT.decode(line)
        if event.type == "ERROR":
            raise client.failure(f"watch {self.path}", event.object)
        item = OBJECT.decode(event.object)
        if event.type == "DELETED":
            self._drop(item)
        elif event.type != "BOOKMARK" and self.put(item):
            self.changed(observe.about(item)[1])
        # One API server may be behind another that was heard before: it tells again what has passed.
        self._version = max(self._version, int(item.metadata.resourceVersion))

    def put(self, item: Object) -> bool:
        """Takes an object as the watch shows it, or as the API server answered.

        What the watch has gone past is old: it may show what was removed since. Versions are compared as numbers, as
        the API server itself orders them. Returns whether anything of it is new.
        """
        name, fresh = self._read(item)
        known = self._known.get(name)
        if fresh.version <= max(self._version, known.version if known else 0):
            return False
        self._known[name], self.emptied = fresh, False
        return known is None or known.value != fresh.value

    def _drop(self, item: Object) -> None:
        name, gone = self._read(item)
        known = self._known.get(name)
        # One that no longer fits the selector is told of as gone, and may do so again by a write of ours.
        if known is not None and known.uid == gone.uid and known.version < gone.version:
            del self._known[name]
            self.emptied = not self._known
            self.changed(gone.sandbox)

    def _read(self, item: Object) -> tuple[str, _Known[T]]:
        name, sandbox = observe.about(item)
        return name, _Known(int(item.metadata.resourceVersion), item.metadata.uid, sandbox, self.value(item))
