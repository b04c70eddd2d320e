"""A list and a watch of one kind of object, kept true: what is remembered is what the API server shows.

Every way for a watch to end leads back to the one loop: watch on from the last version, or, where that is gone, list
anew. A list replaces all that was remembered, so whatever a watch missed is told then.
"""

import asyncio
import random
import time
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec
import structlog

from sandbox_server import engines
from sandbox_server.engines.kubernetes import client

log = structlog.get_logger()

T = TypeVar("T")
PAGE = "500"
WATCH_SECONDS = 240
BACKOFF_FIRST, BACKOFF_MOST = 0.2, 10.0
BLIND_AFTER = 3.0
"""Seconds without the API server after which what is remembered is called stale."""


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] = []


class _WatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct):
    metadata: client.Meta


_LIST = msgspec.json.Decoder(_List)
_EVENT = msgspec.json.Decoder(_WatchEvent)
_VERSION = msgspec.json.Decoder(_Version)
_FAILURE = msgspec.json.Decoder(client.Failure)


class _Gone(Exception):
    """The version to go on from is no longer kept."""


class Informer(Generic[T]):
    """Remembers `decode`d objects by the key that `decode` gives, and calls `changed` with each key that changed."""

    def __init__(
        self,
        api: client.Client,
        path: str,
        selector: dict[str, str],
        decode: Callable[[msgspec.Raw | bytes], tuple[Hashable, T] | None],
        changed: Callable[[Any], None],
    ) -> None:
        """`selector`: the parameters that choose the objects."""
        self._api = api
        self._path = path
        self._selector = selector
        self._decode = decode
        self._changed = changed
        self._known: dict[Hashable, tuple[int, T]] = {}
        self._version = ""
        self._failures = 0
        self._failing_since: float | None = time.monotonic()
        self.listed = asyncio.Event()

    def get(self, key: Hashable) -> T | None:
        """What is remembered of `key`."""
        found = self._known.get(key)
        return None if found is None else found[1]

    @property
    def in_sight(self) -> bool:
        """Whether it has listed, and the API server answers or has not answered for a moment only."""
        since = self._failing_since
        return self.listed.is_set() and (since is None or time.monotonic() - since < BLIND_AFTER)

    def put(self, written: bytes) -> None:
        """Takes an object that the API server answered to a write of ours, ahead of the watch."""
        self._take(written)

    async def run(self) -> None:
        """Lists and watches until it is cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except _Gone:
                self._version = ""
            except (
                engines.Unreachable,
                engines.Refused,
                aiohttp.ClientError,
                TimeoutError,
                OSError,
                msgspec.DecodeError,
            ) as error:
                if not isinstance(error, TimeoutError):
                    await self._back_off(error)

    def _answered(self) -> None:
        self._failing_since, self._failures = None, 0

    async def _back_off(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        self._failures += 1
        if self._failures in (2, 10) or self._failures % 100 == 0:
            log.warning("watch_failing", path=self._path, failures=self._failures, message=str(error)[:300])
        told = getattr(error, "retry_after", None) or 0.0
        delay = min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(self._failures - 1, 10))
        await asyncio.sleep(max(told, delay * random.uniform(0.5, 1.0)))

    async def _list(self) -> None:
        found: dict[Hashable, tuple[int, T]] = {}
        parameters = self._selector | {"limit": PAGE}
        while True:
            status, answer = await self._api.request("GET", self._path, parameters=parameters)
            if status == 410:
                # The pages' version was compacted away between two of them: from the first again.
                raise _Gone
            if status >= 400:
                raise client.refusal(status, answer)
            page = _LIST.decode(answer)
            for item in page.items:
                decoded = self._decode(item)
                if decoded is not None:
                    found[decoded[0]] = (_number(_VERSION.decode(item).metadata.resourceVersion), decoded[1])
            if not page.metadata.continue_:
                break
            parameters = self._selector | {"limit": PAGE, "continue": page.metadata.continue_}
        before, self._known, self._version = self._known, found, page.metadata.resourceVersion
        self._answered()
        first = not self.listed.is_set()
        self.listed.set()
        for key in before.keys() | found.keys():
            if first or before.get(key) != found.get(key):
                self._changed(key)

    async def _watch(self) -> None:
        seconds = random.randint(WATCH_SECONDS // 2, WATCH_SECONDS)
        parameters = self._selector | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        response = await self._api.stream(self._path, parameters, seconds + 10)
        async with response:
            if response.status == 410:
                raise _Gone
            if response.status >= 400:
                answer = await response.read()
                retry = response.headers.get("Retry-After", "")
                if response.status == 429 or response.status >= 500:
                    wait = float(retry) if retry.isdigit() else None
                    raise engines.Unreachable(f"watch {self._path}: {response.status}", wait)
                raise client.refusal(response.status, answer)
            self._answered()
            buffer = bytearray()
            async for chunk in response.content.iter_any():
                buffer += chunk
                while (end := buffer.find(b"\n")) >= 0:
                    line = bytes(buffer[:end])
                    del buffer[: end + 1]
                    if line.strip():
                        self._hear(line)

    def _hear(self, line: bytes) -> None:
        event = _EVENT.decode(line)
        if event.type == "ERROR":
            failure = _FAILURE.decode(event.object)
            if failure.code == 410:
                raise _Gone
            raise engines.Unreachable(f"watch {self._path}: {failure.message}")
        version = _VERSION.decode(event.object).metadata.resourceVersion
        if event.type == "DELETED":
            self._drop(event.object, version)
        elif event.type != "BOOKMARK":
            self._take(event.object)
        self._version = version

    def _take(self, item: msgspec.Raw | bytes) -> None:
        decoded = self._decode(item)
        if decoded is None:
            return
        key, value = decoded
        version = _number(_VERSION.decode(item).metadata.resourceVersion)
        known = self._known.get(key)
        if known is None or version > known[0]:
            self._known[key] = (version, value)
            if known is None or known[1] != value:
                self._changed(key)

    def _drop(self, item: msgspec.Raw, version: str) -> None:
        decoded = self._decode(item)
        known = self._known.get(decoded[0]) if decoded is not None else None
        if decoded is not None and known is not None and _number(version) >= known[0]:
            del self._known[decoded[0]]
            self._changed(decoded[0])


def _number(version: str) -> int:
    """Versions of one kind of object are compared as numbers, as the API server itself orders them."""
    return int(version) if version.isdigit() else 0
