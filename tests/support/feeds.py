"""A log in memory below the feed, and readers of every speed above it."""

import asyncio
from collections.abc import Sequence

from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import feed, store
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.tenant import Tenant

from tests.support import samples
from tests.support.waiting import PATIENCE

MINE = Tenant("default", ("default",))
ALL = feed.Filter(MINE)


class MemoryLog:
    """A log in memory that keeps the store's contract: order, pages, and OUT_OF_RANGE past what was trimmed."""

    def __init__(self) -> None:
        self.entries: list[Event] = []
        self.trimmed = 0
        self.reads = 0
        self.read = 0
        """Events that watches have read."""

    async def events(self, after: int, limit: int) -> list[Event]:
        self.reads += 1
        await asyncio.sleep(0)
        if after < self.trimmed:
            raise errors.OutOfRange("HISTORY_TRIMMED", "open again")
        return [one for one in self.entries if one.sequence > after][:limit]

    async def history(self, scope: store.Scope, after: int, until: int, most: int) -> list[Event]:
        found = [
            one
            for one in await self.events(after, len(self.entries))
            if one.sequence <= until
            and (one.sandbox.key in scope.keys if scope.keys else one.sandbox.tenant == scope.tenant)
            and scope.project in ("", one.sandbox.spec.project)
        ][:most]
        self.read += len(found)
        return found

    async def last(self, keys: Sequence[Key]) -> tuple[int, list[Event]]:
        last = {one.sandbox.key: one for one in self.entries}
        return len(self.entries), [last[key] for key in keys if key in last]

    async def load(self) -> tuple[int, list[Event]]:
        last = {one.sandbox.key: one for one in self.entries}
        return self.entries[-1].sequence, [one for one in last.values() if not one.terminated]

    def append(self, sandbox: Sandbox) -> Event:
        written = samples.event(sandbox, len(self.entries) + 1)
        self.entries.append(written)
        return written


class Reader:
    """A watcher that reads as fast as `gate` lets it.

    `seen` has its messages, but for the heartbeat that says that a watch has resumed: `accepted` tells whether it came.
    """

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.accepted = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, message: bytes) -> None:
        await self.gate.wait()
        if not self.seen and not self.accepted and pb.WatchStatusResponse.FromString(message).HasField("heartbeat"):
            self.accepted = True
        else:
            self.seen.append(message)

    def sequences(self) -> list[int]:
        return [pb.WatchStatusResponse.FromString(one).sequence for one in self.seen]


def publish(memory: feed.Feed, log: MemoryLog, count: int, sandbox_id: str = "demo-1") -> None:
    for _ in range(count):
        memory.publish([log.append(samples.sandbox(sandbox_id))])


async def until(reader: Reader, count: int) -> None:
    async with asyncio.timeout(30 * PATIENCE):
        while len(reader.seen) < count:
            await asyncio.sleep(0.001)


def watch(memory: feed.Feed, reader: Reader, after: int, selection: feed.Filter = ALL) -> asyncio.Task[None]:
    return asyncio.create_task(feed.Watch(memory, selection, reader.send).run(after))
